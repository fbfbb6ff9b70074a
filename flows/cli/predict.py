"""effnet predict: what a model says of images."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from effnet.errors import ConfigError, DataError
from effnet.files import one_line, reason
from flows.cli import options
from flows.cli.find import find, load_named
from flows.cli.tables import check_file, write_file

if TYPE_CHECKING:
    from effnet.data.sources.named import Found
    from effnet.evaluation.file_prediction import FilePrediction
    from effnet.evaluation.predictor import Predictor


STDOUT = Path("-")


@click.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True)
@click.option("--top", type=click.IntRange(1, 1000), default=3, show_default=True, help="Classes to tell.")
@click.option(
    "--csv", "table", type=click.Path(path_type=Path, dir_okay=False), help="Write a table to this file; -: print it."
)
@click.option("--batch", type=click.IntRange(1, 4096), default=64, show_default=True, help="Images at a time.")
@click.option("--device", help="cpu, cuda, cuda:1 ...  [default: cuda where there is one]")
@click.option("--network", help="Zoo name or architecture file, if MODEL is a bare weights file.")
@options.FLIPS
@click.option(
    "--save-crops", type=click.Path(path_type=Path, file_okay=False), help="Write what the network sees here."
)
@options.HOME
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each image, one to a line.")
def predict(
    model: str,
    images: tuple[str, ...],
    top: int,
    table: Path | None,
    batch: int,
    device: str | None,
    network: str | None,
    flips: bool,
    save_crops: Path | None,
    store: Path,
    as_json: bool,
) -> None:
    """Say what MODEL sees in IMAGES: files, folders (at any depth), patterns.

    MODEL is a name (b3), a key or the beginning of one, a folder, models:/NAME@champion, or a weights file.
    An image that cannot be read, or is not there, gets its reason in place of a class, and the command ends with 65.
    """
    from effnet.data.sources.named import find_images

    found, path = find_images(images), find(model, store)  # before what takes seconds to import
    if table and table != STDOUT:
        check_file(table)
    if save_crops:
        _check_folder(save_crops)
    predictor = _predictor(path, network, device, flips) if found.paths else None  # that takes seconds, too
    began, broken = time.monotonic(), 0
    rows = _rows(found, predictor, top, batch)
    lines = as_json or not table
    kept: list[FilePrediction] = []
    try:
        for row in _shown(rows, len(found.named), lines):
            broken += bool(row.error)
            if table:
                kept.append(row)
            if lines:
                click.echo(_json(row) if as_json else _line(row))
            if save_crops and predictor and not row.error:
                _save_crop(row.path, predictor, save_crops)
    finally:  # also what there is when it is interrupted
        rows.close()
        if table and kept:
            _write(table, kept, min(top, len(predictor.class_names)) if predictor else top)
    number, missing = len(found.paths), len(found.named) - len(found.paths)
    broken -= missing
    _sum_up(number, broken, found.passed_over, time.monotonic() - began)
    told = [f"{broken:,} of {number:,} images could not be read"] if broken else []
    told += [f"{missing:,} name{'s mean' if missing > 1 else ' means'} no image"] if missing else []
    if told:
        raise DataError(f"{', '.join(told)}; their rows say why")


def _rows(found: Found, predictor: Predictor | None, top: int, batch: int) -> Generator[FilePrediction]:
    """Yield a row for each name: of those that mean no image, why; they alone need no predictor."""
    from effnet.evaluation.file_prediction import FilePrediction

    rows = _predictions(predictor, found, top, batch) if predictor else None
    try:
        for each in found.named:
            yield FilePrediction(each.path, (), (), each.missing) if rows is None or each.missing else next(rows)
    finally:
        if rows:
            rows.close()


def _predictions(predictor: Predictor, found: Found, top: int, batch: int) -> Generator[FilePrediction]:
    from effnet.evaluation.predict_files import predict_files

    return predict_files(predictor, found.paths, top=top, batch=batch, threads=_cores())


def _predictor(path: Path, network: str | None, device: str | None, flips: bool) -> Predictor:
    import torch

    from effnet.evaluation.device import device_of
    from effnet.evaluation.predictor import Predictor, open_predictor
    from effnet.process import keep_memory

    keep_memory()
    wanted = device_of(device)
    if path.is_dir():
        try:
            predictor = open_predictor(path)
        except OSError as error:
            raise ConfigError(f"{error.filename or path}: {reason(error)}") from error
    else:
        loaded = load_named(path, network)
        numbers = [str(number) for number in range(loaded.classifier.out_features)]
        predictor = Predictor(loaded, numbers, None, named=False)
    if not predictor.named:
        click.echo(f"effnet: {_nameless(path)}; they are told by number, from 0", err=True)
    predictor.network.to(device=wanted, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Predictor(predictor.network, predictor.class_names, predictor.crop_padding, flips=flips)


def _nameless(path: Path) -> str:
    if path.is_file():
        return "a weights file does not name its classes"
    if (path / "config.json").is_file():
        return f"run {path.name}: the dataset that names its classes is not in its store"
    return f"{path}: this model folder does not name its classes"


def _check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written into before hours are spent on it."""
    from effnet.store import try_folder

    try:
        try_folder(folder)
    except OSError as error:
        raise ConfigError(f"{folder}: {reason(error)}") from error


def _shown(rows: Iterator[FilePrediction], number: int, lines: bool) -> Iterable[FilePrediction]:
    """Pass rows on, with progress on a terminal that shows no lines."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if number < 2 or not console.is_terminal or (lines and sys.stdout.isatty()):
        yield from rows
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task("", total=number, rate="")
        for row in rows:
            speed = progress.tasks[0].speed
            progress.update(task, advance=1, rate=f"{speed:,.0f} images/s" if speed else "")
            yield row


def _line(row: FilePrediction) -> str:
    if row.error:
        return f"{_text(row.path)}  could not be read: {row.error}"
    told = ", ".join(f"{label} {share:.1%}" for label, share in zip(row.labels, row.probabilities, strict=True))
    return f"{_text(row.path)}  {told}"


def _text(path: Path) -> str:
    """Return a path that can be printed, whatever bytes are in its name, on one line."""
    return one_line(os.fsencode(path).decode("utf-8", "backslashreplace"))


def _json(row: FilePrediction) -> str:
    shares = [round(share, 6) for share in row.probabilities]
    found = {"path": _text(row.path), "labels": list(row.labels), "probabilities": shares}
    return json.dumps(found | ({"error": row.error} if row.error else {}), ensure_ascii=False)


def _write(path: Path, rows: list[FilePrediction], top: int) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = (f"{name}_{place + 1}" for place in range(top) for name in ("label", "probability"))
    writer.writerow(["path", *columns, "error"])
    for row in rows:
        told = [
            cell for pair in zip(row.labels, row.probabilities, strict=True) for cell in (pair[0], f"{pair[1]:.6f}")
        ]
        writer.writerow([_text(row.path), *(told or [""] * (2 * top)), row.error])
    if path == STDOUT:
        click.echo(text.getvalue(), nl=False)
        return
    click.echo(write_file(path, text.getvalue()), err=True)


def _save_crop(path: Path, predictor: Predictor, folder: Path) -> None:
    """Write what the network sees of an image, as PNG, under its name and the beginning of its path's digest."""
    from PIL import Image

    from effnet.evaluation.predict_files import network_input
    from effnet.store import publish

    mark = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:8]
    name = f"{_text(Path(path.stem))[:100]}-{mark}.png"
    seen = network_input(path, predictor.network.architecture.resolution, predictor.crop_padding)
    data = io.BytesIO()
    Image.fromarray(seen).save(data, "png")
    try:
        publish(folder / name, data.getvalue())
    except OSError as error:
        raise ConfigError(f"{folder / name}: {reason(error)}") from error


def _sum_up(number: int, broken: int, passed_over: int, seconds: float) -> None:
    if number < 2 and not passed_over:
        return
    told = f"{number:,} image{'s' * (number != 1)} in {seconds:.1f} s, {number / max(seconds, 1e-9):,.0f} images/s"
    told += f"; {broken:,} could not be read" if broken else ""
    told += f"; {passed_over:,} other file{'s' * (passed_over > 1)} passed over" if passed_over else ""
    click.echo(told, err=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


COMMANDS = (predict,)
