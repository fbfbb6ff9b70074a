"""The commands that look at existing runs: runs, show, compare. They read the store; no server is needed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effnet.errors import ConfigError
from effnet.stages import Stage
from flows.cli import options
from flows.cli.find import find_run

if TYPE_CHECKING:
    from effnet.runs import RunFolder
    from effnet.store import Store

SHORT = 12  # letters of a key that a table shows; any beginning of a key names a run
KINDS = [stage.value for stage in Stage]


@click.command()
@click.option("--kind", type=click.Choice(KINDS), help="Only runs of this kind.")
@click.option("--family", help="Only runs of this family.")
@click.option("--watch", "is_watched", is_flag=True, help="Show those under way, again and again, until Ctrl-C.")
@options.HOME
@options.JSON
def runs(kind: str | None, family: str | None, is_watched: bool, store: Path, as_json: bool) -> None:
    """List the trainings of the store, newest first."""
    from effnet.runs import RunFolder

    root = _store(store)
    if is_watched:
        from flows.cli.watch import watch

        if as_json:
            raise ConfigError("--watch shows a table that changes; leave --json away, or --watch")
        watch(root, lambda of_family, of_kind: kind in (None, of_kind) and family in (None, of_family))
        return
    paths = sorted(root.runs.glob("*/config.json"), key=lambda path: -path.stat().st_mtime)
    found = [row for path in paths if (row := _row(RunFolder(path.parent)))]
    found = [row for row in found if kind in (None, row["kind"]) and family in (None, row["family"])]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if not found:
        click.echo("no runs here yet")
        return
    latency = "latency, 1 thread"
    columns = ("run", "family", "name", "state", "epochs", "params", "MACs", "minival", "val", latency, "time")
    _table(columns, [_shown(row) for row in found], left=4)


@click.command()
@click.argument("run")
@options.HOME
@options.JSON
def show(run: str, store: Path, as_json: bool) -> None:
    """Show all about RUN.

    RUN is a name, a key or the beginning of one, a folder, or models:/NAME@champion.
    """
    folder = find_run(run, store)
    row = _whole(folder)
    if as_json:
        click.echo(json.dumps(row, indent=2))
        return
    epochs = row["epochs_journal"]
    told = dict(_story(folder, row))
    width = max(map(len, told))
    for name, value in told.items():
        click.echo(f"{name:{width}}  {value}")
    if epochs:
        click.echo()
        _table(
            ("epoch", "train loss", "minival loss", "minival top-1", "images/s"),
            [
                (
                    str(line["epoch"]),
                    f"{line['train_loss']:.4f}",
                    f"{line['minival_loss']:.4f}",
                    f"{line['minival_top1']:.2%}",
                    f"{line['images_per_second']:,.0f}",
                )
                for line in epochs
            ],
        )


@click.command()
@click.argument("runs", nargs=-1, required=True)
@options.HOME
@options.JSON
def compare(runs: tuple[str, ...], store: Path, as_json: bool) -> None:
    """Show how RUNS differ, settings and results side by side."""
    folders = [find_run(run, store) for run in runs]
    if len(folders) < 2:
        raise ConfigError("compare: give at least two runs")
    rows = [_whole(folder) for folder in folders]
    for row in rows:
        del row["epochs_journal"]
    names = list(dict.fromkeys(name for row in rows for name in row))
    different = {name: [row.get(name) for row in rows] for name in names if len({_text(r.get(name)) for r in rows}) > 1}
    if as_json:
        click.echo(json.dumps(different, indent=2))
        return
    columns = ("", *(row["run"][:SHORT] for row in rows))
    shown = {name: values for name, values in different.items() if name not in ("run", "folder")}
    _table(columns, [(name, *map(_cut, values)) for name, values in shown.items()])


def _store(path: Path) -> Store:
    from effnet.store import Store

    store = Store.at(path)
    if not store.root.is_dir():
        raise ConfigError(f"{path}: no store here; name it with --store")
    return store


def _row(folder: RunFolder) -> dict[str, Any] | None:
    """Return a run's row in the list; None for a folder that another version wrote."""
    from effnet.runs import read_journal

    try:
        spec, about = folder.spec(), folder.about()
    except ConfigError:
        return None
    result, evaluation = folder.result(), folder.evaluation()
    lines = read_journal(folder.metrics_path)[0]
    return {
        "run": folder.key,
        "family": about.experiment if about else None,
        "name": about.name if about else None,
        "kind": about.kind if about else None,
        "state": folder.state,
        "epochs": len(lines),
        "of_epochs": spec.recipe.epochs,
        "params": result.params if result else None,
        "macs": result.macs if result else None,
        "minival_top1": result.top1 if result else lines[-1]["minival_top1"] if lines else None,
        "top1": evaluation.top1 if evaluation else None,
        "latency_ms": folder.known_latency_ms(),
        "seconds": lines[-1]["seconds"] if lines else 0.0,
    }


def _whole(folder: RunFolder) -> dict[str, Any]:
    """Return all about a run, flat."""
    from effnet.runs import read_journal
    from tasks.records.tracking import flatten

    row = _row(folder)
    if row is None:
        raise ConfigError(f"{folder.path}: written by another version of effnet")
    spec, about, evaluation, result = folder.spec(), folder.about(), folder.evaluation(), folder.result()
    row |= {f"label.{name}": value for name, value in (about.labels if about else {}).items()}
    if evaluation:
        row |= {"top5": evaluation.top5, "calibration_error": evaluation.calibration_error}
        row |= {"images_per_second": evaluation.images_per_second}
    if latency := folder.latency():
        row |= {"latency_on": latency.where(), "latency_spread_ms": latency.spread_ms}
    row |= {"architecture": spec.architecture.name, "resolution": spec.architecture.resolution}
    row |= {"blocks": spec.architecture.num_blocks, "network": spec.architecture.key()[:16]}
    row |= {"dataset": spec.dataset, "seed": spec.seed}
    row |= flatten(spec.recipe.model_dump(mode="json"), "recipe.")
    if result:
        row |= {"best_epoch": result.best_epoch, "steps": result.steps, "weights_sha256": result.weights_sha256}
        row |= flatten(result.environment, "environment.")
    row["folder"] = str(folder.path)
    return row | {"epochs_journal": read_journal(folder.metrics_path)[0]}


def _story(folder: RunFolder, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a person wants to know of a run: names, and values with their units."""
    from effnet.config import Recipe
    from tasks.records.tracking import flatten
    from tasks.terminal.screen import duration, short

    spec, about, result, evaluation = folder.spec(), folder.about(), folder.result(), folder.evaluation()
    arch = spec.architecture
    yield "run", f"{row['run']}, {row['state']}"
    if row["name"]:
        yield "is", f"{row['name']} of the family {row['family']} ({row['kind']})"
    if row["minival_top1"] is not None:
        yield "minival", f"top-1 {row['minival_top1']:.2%}{result.kept if result else ''}"
    if evaluation:
        yield "val", f"top-1 {evaluation.top1:.2%}, top-5 {evaluation.top5:.2%}"
        yield "calibration", f"error {evaluation.calibration_error:.4f}"
    if latency := folder.latency():
        yield "latency", f"{latency.latency_ms:.2f} ms ± {latency.spread_ms / 2:.2f} ms, {latency.where()}"
    size = f"{short(result.params)} parameters, {short(result.macs)} multiply-adds, " if result else ""
    yield "network", f"{arch.name}: {size}{arch.num_blocks} blocks, {arch.resolution} × {arch.resolution} pixels"
    for name, value in about.labels.items() if about else ():
        yield name, f"{value:g}"
    yield "training", f"{duration(row['seconds'])}, {row['epochs']} of {row['of_epochs']} epochs"
    default = flatten(Recipe().model_dump(mode="json"), "")
    chosen = {
        name: value
        for name, value in flatten(spec.recipe.model_dump(mode="json"), "").items()
        if value != default[name]
    }
    yield "recipe", ", ".join(f"{name} {_text(value)}" for name, value in chosen.items()) or "the defaults"
    if result:
        if result.notes:
            yield "but", "; ".join(result.notes)
        yield "machine", ", ".join(f"{name} {value}" for name, value in result.environment.items())
    yield "data", f"dataset {spec.dataset}, {spec.num_classes} classes, seed {spec.seed}"
    yield "folder", f"{folder.path} (all of it: effnet show {row['run'][:SHORT]} --json)"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _cut(value: Any) -> str:
    """Return a value for a narrow column: text is truncated, a number keeps all its digits."""
    return _text(value)[:SHORT] if isinstance(value, str) else _text(value)


def _shown(row: Mapping[str, Any]) -> tuple[str, ...]:
    from tasks.terminal.screen import duration, short

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.2%}"

    return (
        row["run"][:SHORT],
        row["family"] or "-",
        row["name"] or "-",
        row["state"],
        f"{row['epochs']}/{row['of_epochs']}",
        short(row["params"]) if row["params"] else "-",
        short(row["macs"]) if row["macs"] else "-",
        share(row["minival_top1"]),
        share(row["top1"]),
        f"{row['latency_ms']:.1f} ms" if row["latency_ms"] else "-",
        duration(row["seconds"]),
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a table at its full width, whatever the terminal's; the first `left` columns are text."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = [
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


COMMANDS = (runs, show, compare)
