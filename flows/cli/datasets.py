"""The commands about datasets: shard, verify, data …."""

from __future__ import annotations

import json
from pathlib import Path

import click

from effnet.errors import DataError
from effnet.files import one_line
from flows.cli import options
from flows.cli.find import CONFIG, find_dataset, find_run, open_store
from flows.cli.sections import Listed
from flows.cli.tables import check_output, check_table, write_table

SHOWN = 10  # suspects that are printed; the file has all


@click.command()
@CONFIG
@options.STORE
@click.option("--workers", type=click.IntRange(1, 256), help="Threads that write shards.  [default: one per core]")
@click.option("--to", help="Also copy it there while it is written: s3://bucket/prefix, or a folder.")
@options.JSON
def shard(config: Path, store: Path | None, workers: int | None, to: str | None, as_json: bool) -> None:
    """Write the dataset of CONFIG as shards, unless it is there already; if killed, run it again to resume."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from effnet.config import load_config
    from effnet.data.shards.remarks import remarks
    from effnet.data.shards.write import write_shards

    settings = load_config(config)
    root = open_store(store or settings.store)
    columns = (TextColumn("sharding"), BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_interactive) as bar:
        task = bar.add_task("", total=None)
        manifest, reused = write_shards(
            settings.data,
            root.datasets,
            lambda done, total: bar.update(task, completed=done, total=total),
            base=config.parent,
            workers=workers,
            to=to,
        )
    folder = root.datasets / manifest.digest
    if as_json:
        data = {"folder": str(folder), "reused": reused, **manifest.model_dump(mode="json", exclude={"shards"})}
        click.echo(json.dumps(data, indent=2))
        return
    counts = ", ".join(f"{split} {number:,}" for split, number in manifest.samples.items())
    click.echo(f"{folder}: {counts} images of {len(manifest.classes):,} classes{' (already there)' if reused else ''}")
    for action, number in manifest.actions.items():
        if action != "kept":
            click.echo(f"  encoded again ({action}): {number:,}")
    for line in remarks(folder, manifest):
        click.echo(f"  {line}")


@click.command()
@click.argument("dataset")
@options.STORE
def verify(dataset: str, store: Path | None) -> None:
    """Check every byte of the DATASET, a folder or s3://bucket/prefix, and decode every image.

    DATASET may be a CONFIG whose dataset was written.
    """
    from effnet.data.shards.verification import verify as check
    from effnet.storage import is_remote

    if problems := check(dataset if is_remote(dataset) else str(find_dataset(dataset, store))):
        raise DataError("\n".join(problems))
    click.echo(f"{dataset}: sound")


@click.group(cls=Listed)
def data() -> None:
    """Look into datasets: what is in them, and what may be wrong with it."""


@data.command("report")
@click.argument("dataset")
@options.STORE
@options.JSON
def report(dataset: str, store: Path | None, as_json: bool) -> None:
    """Count images, by class and split.

    Also sizes, duplicates, and what was left out. DATASET is a folder, or a CONFIG whose dataset was written.
    """
    from effnet.data.shards.contents import report as make

    content = make(find_dataset(dataset, store))
    if as_json:
        click.echo(json.dumps(content, indent=2))
        return
    samples = ", ".join(f"{split} {number:,}" for split, number in content["samples"].items())
    click.echo(f"{content['digest']}: {samples} images, {content['bytes'] / 1e6:,.1f} MB")
    click.echo("treatment: " + ", ".join(f"{action} {number:,}" for action, number in content["actions"].items()))
    for name, unit in (("width", "pixels"), ("height", "pixels"), ("length", "bytes")):
        size = content["sizes"][name]
        click.echo(f"{name}: {size['min']:,.0f} to {size['max']:,.0f} {unit}, median {size['median']:,.0f}")
    from effnet.report.words import counted

    same = content["duplicates"]
    click.echo(
        f"duplicates: {counted(same['images'], 'image')} in {counted(same['groups'], 'group')}, "
        f"{same['across_splits']:,} across splits, {same['across_classes']:,} across classes"
        + ("; effnet data duplicates lists them" if same["groups"] else "")
    )
    for group in same["examples"]:
        click.echo("  " + " = ".join(f"{row['split']}/{row['key']}" for row in group))
    click.echo(f"left out: {len(content['quarantine']):,}")
    for row in content["quarantine"]:
        click.echo(f"  {row['where']}: {row['reason']}")
    for line in content["remarks"]:
        click.echo(line)
    click.echo(f"\n{'class':24}{'train':>9}{'minival':>9}{'val':>9}")
    for row in content["classes"]:
        label = row["class"] if row["name"] == row["class"] else f"{row['class']} {row['name']}"
        click.echo(f"{label[:23]:24}{row['train']:9,}{row['minival']:9,}{row['val']:9,}")


@data.command("duplicates")
@click.argument("dataset")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("duplicates.csv"),
    show_default=True,
    help="File to write: .csv, or .json.",
)
@options.STORE
def duplicates(dataset: str, out: Path, store: Path | None) -> None:
    """List images that are the same, or nearly.

    The file has the splits and classes that they are in. DATASET is a folder, or a CONFIG whose dataset was written.
    """
    from rich.console import Console
    from rich.progress import Progress

    from effnet.data.shards.duplicates import MIN_SIDE, Twins, find_duplicates

    check_table(out)
    folder, console = find_dataset(dataset, store), Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_interactive) as bar:
        task = bar.add_task("looking", total=None)
        found = find_duplicates(folder, lambda done, total: bar.update(task, completed=done, total=total))
    rows = [twins._asdict() | {"leak": twins.leak, "conflict": twins.conflict} for twins in found.twins]
    written = write_table(out, [*Twins._fields, "leak", "conflict"], rows)
    for kind, what in (("same", "of the same bytes"), ("near", "nearly the same")):
        some = [twins for twins in found.twins if twins.kind == kind]
        leaks, conflicts = sum(twins.leak for twins in some), sum(twins.conflict for twins in some)
        click.echo(f"pairs {what}: {len(some):,}, {leaks:,} across splits, {conflicts:,} across classes")
    if found.small or found.flat:
        click.echo(
            f"compared by their bytes alone: {found.small:,} images smaller than {MIN_SIDE} pixels, "
            f"{found.flat:,} of nearly one colour"
        )
    click.echo(written)


@data.command()
@CONFIG
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("preview.png"), show_default=True, help="Figure to write."
)
@click.option("--images", type=click.IntRange(1, 32), default=6, show_default=True, help="Images, of several classes.")
@click.option("--draws", type=click.IntRange(1, 16), default=6, show_default=True, help="Draws of each image.")
@options.STORE
def preview(config: Path, out: Path, images: int, draws: int, store: Path | None) -> None:
    """Draw training images as the network will see them.

    Some images of CONFIG's dataset, each cropped and augmented several times, at the image side of CONFIG's network;
    where the recipe has stages, at each of them.
    """
    from effnet.config import load_baseline, load_config
    from effnet.data.shards.write import write_shards
    from effnet.train.preview import preview as see
    from effnet.train.preview import preview_figure

    check_output(out, ".png", ".svg")
    settings = load_config(config)
    baseline = load_baseline(settings, config.parent)
    root = open_store(store or settings.store)
    manifest, _ = write_shards(settings.data, root.datasets, base=config.parent)
    seen = see(
        root.datasets / manifest.digest,
        manifest.class_names,
        settings.recipe.sized(manifest.samples["train"]),
        baseline,
        seed=settings.seed,
        images=images,
        draws=draws,
    )
    preview_figure(seen, out)
    click.echo(str(out))


@data.command("suspects")
@click.argument("run")
@click.option(
    "--split",
    type=click.Choice(["minival", "val", "train"]),  # train: refused with the reason
    metavar="[minival|val]",
    help="One split alone.  [default: minival and val]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("suspects.csv"),
    show_default=True,
    help="File to write: .csv, or .json.",
)
@options.HOME
def suspects(run: str, split: str | None, out: Path, store: Path) -> None:
    """List images whose labels may be wrong.

    These are images of minival and val, which RUN was not trained on, that it confidently gives another class
    (confident learning, arXiv 1911.00068). The ten surest are printed; the file has all. Nothing is changed.
    """
    from rich.console import Console

    from effnet.evaluation.run import HELD_OUT, SuspectImage, suspects_of

    check_table(out)
    splits = (split,) if split else HELD_OUT
    folder = find_run(run, store)
    with Console(stderr=True).status(f"looking at the images of {' and '.join(splits)}"):
        found = suspects_of(folder, splits)
    written = write_table(out, SuspectImage._fields, [row._asdict() for row in found.rows])
    surest = found.rows[:SHOWN]
    click.echo(
        f"suspected label errors: {len(found.rows):,} of {found.images:,} images of {' and '.join(splits)}"
        + (f"; the {len(surest)} surest:" if len(found.rows) > SHOWN else ":" if surest else "")
    )
    names = [one_line(row.file or row.image) for row in surest]
    for name, row in zip(names, surest, strict=True):
        label, suggested = (one_line(found.class_names[each]) for each in (row.label, row.suggested))
        sure = f"{row.suggested_probability:.1%} against {row.label_probability:.1%}"
        click.echo(f"  {name:{max(map(len, names))}}  labelled {label}, looks like {suggested} ({sure})")
    click.echo(written)


COMMANDS = (shard, verify, data)
