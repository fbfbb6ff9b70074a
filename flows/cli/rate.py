"""effnet find-rate: which learning rate a training should have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli import options
from flows.cli.find import CONFIG, open_store
from flows.cli.training import member_of, recipe_for_weights, start_of

if TYPE_CHECKING:
    from effnet.search.rates import RateFindings, RateFound


@click.command("find-rate")
@CONFIG
@click.option("--member", help="Which of the config's members: b0, b1, ...  [default: the first]")
@options.STORE
@click.option("--start-from", help="Weights to start from: a weights file, or a RUN as `effnet evaluate` takes it.")
@click.option(
    "--epochs",
    type=click.IntRange(1, 10_000),
    help="Of each training.  [default: a tenth of the recipe's, 8 at least; all of fewer]",
)
@click.option("--seeds", type=click.IntRange(1, 32), default=2, show_default=True, help="Trainings at each rate.")
@options.JSON
def find_rate(
    config: Path,
    member: str | None,
    store: Path | None,
    start_from: str | None,
    epochs: int | None,
    seeds: int,
    as_json: bool,
) -> None:
    """Find a learning rate for a member of CONFIG's family, by short trainings at several, judged on minival.

    Nothing is written into CONFIG: the line to put there is printed. Run it again to go on, or to repeat.
    """
    from effnet.config import load_baseline, load_config
    from effnet.search.rates import short_epochs
    from effnet.starts import member_starts
    from tasks.build import Build
    from tasks.rate import Wanted
    from tasks.rate import find_rate as search
    from tasks.records.tracking import store_tracker
    from tasks.terminal.screen import Screen
    from tasks.terminal.sharding import shard

    settings = load_config(config)
    baseline = load_baseline(settings, config.parent)
    found = member_of(settings, baseline, member)  # what is wrong is told before any work
    root = open_store(store or settings.store)
    start = start_of(start_from, root, new_head=False) if start_from else None
    if start is None:
        start = member_starts(settings, [found], config.parent, root.cache).get(found.name)
    screen = Screen()
    tracker = store_tracker(root, settings.family, screen.warn)
    manifest = shard(settings.data, root, config.parent, screen)
    build = Build(settings, baseline, manifest, root, tracker, screen, config.parent)
    build.tell_order()
    recipe = recipe_for_weights(build) if start else build.recipe
    recipe = recipe.model_copy(update={"epochs": epochs or short_epochs(recipe.epochs)})
    try:
        rates = search(build, Wanted(found.name, found.architecture, recipe, start, seeds))
    finally:
        screen.settle()
    if as_json:
        click.echo(rates.model_dump_json(indent=2))
        return
    images = manifest.samples["minival"]
    click.echo(f"{found.name}, {recipe.epochs} epochs, {seeds} trainings at each rate, on {images:,} images of minival")
    _show(rates, recipe.base)


def _show(found: RateFindings, base: str | None) -> None:
    from rich.console import Console

    from tasks.terminal.screen import make_table

    columns = ("learning_rate", "top-1", "loss", "to the suggested", "")
    Console(highlight=False).print(make_table(columns, [_row(each, found) for each in found.rates]))
    low, high = found.range
    alone = f"suggested: {found.suggested:g}"
    click.echo(alone if low == high else f"{alone}; {low:g} to {high:g} are as good within noise")
    if found.at_edge:
        click.echo("it is the last one tried: a rate beyond may be better still")
    if found.stays:
        click.echo(f"the config's own rate, {found.config:g}, is one of them: it can stay")
        return
    named = f"base: {base}, " if base else ""
    click.echo(f"to take it, write in the config: recipe: {{{named}learning_rate: {found.suggested:g}, ...}}")


def _row(each: RateFound, found: RateFindings) -> tuple[str, ...]:
    rate, own = f"{each.learning_rate:g}", "the config's" if each.learning_rate == found.config else ""
    if each.top1 is None or each.lead is None or each.noise is None:
        return rate, "", "no number", "", own
    gap = "suggested"
    if each.learning_rate != found.suggested:
        gap = f"{100 * each.lead:+.1f} ± {100 * each.noise:.1f} points"
    return rate, f"{each.top1:.1%}", f"{each.loss:.3f}", gap, own


COMMANDS = (find_rate,)
