"""How `effnet plan` shows what a family takes: memory, hours, dollars, disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from effnet.config import FamilyConfig
    from effnet.plan import Disk, MemberPrice, Speed, StagePrice

EARLY = "; a training may end early, when minival's top-1 rises no more"


def stage_data(stage: StagePrice, speed: Speed, gpus: int) -> dict[str, Any]:
    """Return a stage's price for `--json`; `wall_hours` are the least on so many GPUs."""
    hours = speed.hours(stage.work)
    return {
        "stage": stage.stage,
        "trainings": stage.trainings,
        **stage.work._asdict(),
        "note": stage.note,
        "hours": hours,
        "wall_hours": stage.wall_hours(speed, gpus),
        "dollars": speed.dollars(hours),
    }


def told(hours: float) -> str:
    """Return a time as people read it; from a hundred hours on, in hours."""
    from tasks.terminal.screen import duration

    return f"{hours:,.0f} h" if hours >= 100 else duration(3600 * hours)


def show_members(prices: list[MemberPrice], batch: int) -> None:
    """Show what a training of each member takes of a GPU; nothing for a CPU, whose memory nobody stated."""
    if not prices or prices[0].micro_batch is None:
        return
    click.echo(f"\n{'':6}{'images at a time':>18}{'memory GB':>11}{'time':>14}{'dollars':>11}   of one training")
    for row in prices:
        fits = f"{row.micro_batch:,}" if row.micro_batch else "not even one"
        several = f" of {batch:,}" if row.micro_batch and row.micro_batch < batch else ""
        dollars = "" if row.dollars is None else f"{row.dollars:,.2f}"
        size = (row.memory_bytes or 0) / 1e9
        click.echo(f"{row.name:6}{fits + several:>18}{size:11,.1f}{told(row.hours):>14}{dollars:>11}")


def show_prices(settings: FamilyConfig, stages: list[StagePrice], speed: Speed | None, gpus: int) -> None:
    """Show the time and dollars of every stage, on one device and on so many GPUs."""
    if not speed or not stages:
        click.echo(
            "\nthe time of each stage: write the dataset first (effnet shard CONFIG), or give the number of "
            "training images (--images)"
        )
        return
    from effnet.config import LocalCompute
    from effnet.plan import together
    from tasks.compute.slots import slots
    from tasks.servers.gpus import gpus as gpus_here

    total, trainings = speed.hours(together(stage.work for stage in stages)), sum(stage.trainings for stage in stages)
    click.echo(f"\non {speed.device}: {_rate(stages, total)}")
    for stage in stages:
        click.echo(f"  {stage.stage:8}{stage.trainings:5} trainings {told(speed.hours(stage.work)):>14}")
    click.echo(f"  {'together':24}{told(total):>14}, one after the other, with nothing else running")
    wall = sum(stage.wall_hours(speed, gpus) for stage in stages)
    if gpus > 1:
        click.echo(f"  {'':24}{told(wall):>14} at least, on {gpus} GPUs, a network on each")
        click.echo(f"  {'':24}{told(total / gpus):>14} at least, on {gpus} GPUs, all of them on each network")
    elif (
        not speed.memory_bytes
        and isinstance(settings.compute, LocalCompute)
        and (number := min(slots(settings.compute, gpus_here()), trainings)) > 1
    ):
        wall = sum(stage.wall_hours(speed, number) for stage in stages)
        if wall < total:  # with a teacher, the others wait for it
            click.echo(f"  {'':24}{told(wall):>14}, {number} at a time, if that slows none of them")
    if (dollars := speed.dollars(total)) is not None:
        click.echo(f"  {'':24}{dollars:14,.2f} dollars, at {speed.dollars_per_hour:g} an hour ({speed.price_from})")
    click.echo("  scoring, timing and the report come on top" + (EARLY if settings.recipe.patience else ""))
    for stage in stages:
        if stage.note:
            click.echo(f"{stage.stage}: {stage.note}")


def _rate(stages: list[StagePrice], hours: float) -> str:
    from effnet.plan import together
    from tasks.terminal.screen import short

    work = together(stage.work for stage in stages)
    activations, macs = (short(round(amount / hours / 3600)) for amount in (work.activations, work.macs))
    return f"{activations} activations, {macs} forward MACs a second"


def show_disk(wanted: Disk, order: str) -> None:
    """Show the disk that a family wants, and how its images will be mixed if that is not as the config says."""
    from effnet.files import gigabytes

    parts = [f"checkpoints {gigabytes(wanted.checkpoints)}"]
    if wanted.cache is not None:
        parts.insert(0, f"fetched shards {gigabytes(wanted.cache)} on each machine that trains")
    if wanted.dataset is not None:
        parts.insert(0, f"dataset {gigabytes(wanted.dataset)}")
    click.echo(f"\ndisk wanted: {', '.join(parts)}")
    if order:
        click.echo(order)
