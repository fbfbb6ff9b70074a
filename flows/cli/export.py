"""effnet export: a model as a file or a folder for use elsewhere, measured before it is kept."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.core import ParameterSource

from effnet.errors import ConfigError
from effnet.files import reason
from effnet.store import try_folder
from flows.cli import options
from flows.cli.find import find

if TYPE_CHECKING:
    from effnet.evaluation.exported import Comparison, Times
    from effnet.evaluation.model_to_export import ModelToExport
    from effnet.runs import Latency

PROGRAMS = {"torch": ".pt2", "onnx": ".onnx"}  # what runs by itself, and how its file is called while it is made
WEIGHTS = ("safetensors", "timm", "torchvision", "lukemelas")
_TIMM_USE = (
    "Input: RGB images, resized, cut and normalised as config.json says (`timm.data.create_transform`). Output: logits."
)
CALIBRATION, CALIBRATION_BATCH = 256, 8  # images at most


class _Wanted(NamedTuple):
    """How a program is to be written."""

    kind: str
    precision: str
    calibrate: Path | None
    limit: int
    max_drop: float
    force: bool


class _Made(NamedTuple):
    """A program, and how it compares with its network."""

    difference: float  # of the float32 program's answers
    calibrated: int | None  # images
    comparison: Comparison
    times: Times
    size: int  # bytes


@click.command()
@click.argument("model")
@click.option("--format", "kind", type=click.Choice((*WEIGHTS, *PROGRAMS)), default="safetensors", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File or folder to write.")
@click.option(
    "--with-preprocessing",
    "preprocessing",
    is_flag=True,
    help="onnx, torch: uint8 RGB pixels (N, side, side, 3) in, probabilities out.",
)
@click.option(
    "--any-size",
    is_flag=True,
    help="onnx, --with-preprocessing: cut and resize inside, too; pixels (N, height, width, 3) in.",
)
@click.option(
    "--precision", type=click.Choice(["float32", "int8"]), default="float32", show_default=True, help="int8: of onnx."
)
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path),
    help="int8: dataset folder whose minival says which range each activation has.  [default: the run's own]",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=2000,
    show_default=True,
    help="Images of val to measure on, spread evenly, if there are more.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 100),
    default=1.0,
    show_default=True,
    help="Points of top-1 by which the file may be below its network.",
)
@click.option("--force", is_flag=True, help="Write it however far below its network it is.")
@options.HOME
@options.JSON
def export(
    model: str,
    kind: str,
    out: Path,
    preprocessing: bool,
    any_size: bool,
    precision: str,
    calibrate: Path | None,
    limit: int,
    max_drop: float,
    force: bool,
    store: Path,
    as_json: bool,
) -> None:
    """Write the network of MODEL for use elsewhere.

    MODEL is the name of a run, its key or the beginning of one, a folder, or models:/NAME@champion.

    \b
    onnx          an ONNX file, any batch size; needs the extra `onnx`
    torch         a torch.export program (.pt2), any batch size
    timm          a folder that timm loads: config.json, model.safetensors and a card
    torchvision, lukemelas   a safetensors file with that code base's names
    safetensors   a folder of ours: model.safetensors, architecture.json, and predictor.json (classes, crop)

    The file of onnx and torch is measured on the val images of the run's dataset, beside the network, and timed.
    """
    if out.exists():
        raise ConfigError(f"{out}: exists already; name another path")
    wanted = _Wanted(kind, precision, calibrate, limit, max_drop, force)
    _check(wanted, preprocessing, any_size)
    if kind not in PROGRAMS:
        _refuse_given(kind, ("limit", "max_drop", "force"))
    path = find(model, store)
    from effnet.evaluation.model_to_export import open_to_export

    subject = open_to_export(path, preprocessing=preprocessing, any_size=any_size, precision=precision)
    if kind == "timm":
        from effnet.models.timm_folder import timm_name

        timm_name(subject.predictor.network.architecture)  # refuse before anything is made
    try:
        try_folder(out.parent)
    except OSError as error:
        raise ConfigError(f"{out}: {reason(error)}; name another path") from error
    if kind in PROGRAMS:
        made = _write_program(subject, wanted, out)
        _show_program(made, subject, wanted, out, as_json)
        return
    told = _write_weights(subject, kind, out)
    click.echo(json.dumps({"out": str(out), "format": kind} | told, indent=2) if as_json else f"{out}: written")


def _refuse_given(kind: str, names: Sequence[str]) -> None:
    """Refuse options of what is measured, where nothing is."""
    source = click.get_current_context().get_parameter_source
    given = [f"--{name.replace('_', '-')}" for name in names if source(name) is not ParameterSource.DEFAULT]
    if given:
        what = f"{' and '.join(given)} {'are' if len(given) > 1 else 'is'}"
        raise ConfigError(f"export: {what} of --format onnx or torch; {kind} has weights alone, and is not measured")


def _say(line: str) -> None:
    click.echo(f"effnet: {line}", err=True)


def _check(wanted: _Wanted, preprocessing: bool, any_size: bool) -> None:
    """Refuse options that go together with nothing."""
    if any_size and not (preprocessing and wanted.kind == "onnx"):
        raise ConfigError("export: --any-size is of --format onnx --with-preprocessing")
    if preprocessing and wanted.kind not in PROGRAMS:
        raise ConfigError(f"export: --with-preprocessing is of --format onnx or torch; {wanted.kind} has weights alone")
    if wanted.precision == "int8" and wanted.kind != "onnx":
        raise ConfigError("export: --precision int8 is of --format onnx")
    if wanted.calibrate and wanted.precision != "int8":
        raise ConfigError("export: --calibrate is of --precision int8")
    if wanted.kind == "onnx":
        from effnet.models.export import require_onnx

        require_onnx()


def _write_weights(subject: ModelToExport, kind: str, out: Path) -> dict[str, Any]:
    """Write tensors under somebody's names; return what --json tells besides."""
    from effnet.models import timm_folder, weights
    from effnet.report.card import card_of
    from effnet.store import publish_folder

    network = subject.predictor.network
    if kind == "safetensors":
        with publish_folder(out) as folder:
            _write_model(subject, folder)
    elif kind == "timm":
        card = card_of(subject.run, subject.metadata.licence, _TIMM_USE) or _short_card(subject)
        with publish_folder(out) as folder:
            return {"architecture": timm_folder.save_timm(folder, network, subject.metadata, card)}
    else:
        weights.save_weights(out, network, kind)
    return {}


def _write_model(subject: ModelToExport, folder: Path) -> None:
    """Write a model folder as the registry has it: the crop and the classes, where they are known."""
    from effnet.data.shards.manifest import load_manifest
    from effnet.evaluation.classes import save_class_ids
    from effnet.evaluation.predictor import save_predictor

    predictor = subject.predictor
    names = predictor.class_names if predictor.named else None
    save_predictor(folder, predictor.network, names, predictor.crop_padding)
    if subject.dataset and (manifest := load_manifest(subject.dataset)):
        save_class_ids(folder, manifest)


def _short_card(subject: ModelToExport) -> str:
    metadata = subject.metadata
    return (
        f"# {metadata.network}\n\nAn image classifier: {metadata.side} pixels, {len(metadata.classes):,} classes "
        f"({', '.join(metadata.classes[:10])}{', …' if len(metadata.classes) > 10 else ''}). "
        "How good it is, what it was trained on and its licence are not known to the one who exported it.\n"
    )


def _write_program(subject: ModelToExport, wanted: _Wanted, out: Path) -> _Made:
    """Write a program beside its target, measure it, and give it its name if it is good enough."""
    from effnet.evaluation import exported as files
    from effnet.models import export as exports
    from effnet.store import TEMPORARY, publish

    network, metadata = subject.predictor.network, subject.metadata
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=out.parent) as scratch:
        path = base = Path(scratch) / f"float32{PROGRAMS[wanted.kind]}"
        write = exports.export_onnx if wanted.kind == "onnx" else exports.export_torch
        _say(f"writing {base.name} and comparing its answers with the network's")
        difference, calibrated = write(network, base, metadata), None
        if wanted.precision == "int8":
            path = Path(scratch) / "int8.onnx"
            _say(f"int8: calibrating on at most {CALIBRATION} images of minival")
            calibrated = _quantize(subject, wanted, base, path)
        if metadata.any_size:
            for file in {base, path}:
                exports.add_resizing(file, metadata)
        _say(f"scoring the file beside its network on {'val' if subject.dataset else 'random images'}")
        comparison = _compare(subject, wanted, path)
        if calibrated and subject.dataset is None and not wanted.force:
            raise ConfigError(
                f"{out}: not written: what int8 loses is measured on the run's dataset, which is not here; bring it "
                "into the store, or write the file with --force"
            )
        if not wanted.force:
            advice = "calibrate on other images (--calibrate), export float32" if calibrated else "report it"
            files.refuse_drop(comparison, wanted.max_drop, str(out), advice)
        float32 = _opened(subject, base, 1) if calibrated else None
        _say("timing both in turn, one image on one thread")
        times = files.time_exported(network, _opened(subject, path, 1), float32)
        publish(out, path.read_bytes())
    return _Made(difference, calibrated, comparison, times, out.stat().st_size)


def _opened(subject: ModelToExport, path: Path, threads: int) -> Any:
    from effnet.evaluation.exported import Exported

    arch = subject.predictor.network.architecture
    return Exported(path, arch, preprocessing=subject.metadata.preprocessing, threads=threads)


def _quantize(subject: ModelToExport, wanted: _Wanted, source: Path, target: Path) -> int:
    """Write int8; return how many images it was calibrated on."""
    from effnet.data.shards.manifest import load_manifest
    from effnet.evaluation.exported import split_images
    from effnet.models.quantize import quantize_onnx

    dataset = wanted.calibrate or subject.dataset
    if dataset is None:
        raise ConfigError("export: int8 is calibrated on images, and the run's dataset is not here: give --calibrate")
    manifest = load_manifest(dataset)
    if manifest is None or not manifest.samples.get("minival"):
        raise ConfigError(f"{dataset}: no dataset with images of minival; `effnet shard` writes one")
    side, padding = subject.metadata.side, subject.metadata.crop_padding
    images = split_images(dataset, "minival", side, padding, most=CALIBRATION, batch=CALIBRATION_BATCH)
    given = _opened(subject, source, 1).given
    quantize_onnx(source, target, subject.metadata, (given(each.pixels) for each in images))
    return min(CALIBRATION, manifest.samples["minival"])


def _compare(subject: ModelToExport, wanted: _Wanted, path: Path) -> Comparison:
    import torch

    from effnet.evaluation import exported as files
    from effnet.evaluation.exported import compare, drawn_images, split_images

    network, metadata = subject.predictor.network, subject.metadata
    if metadata.any_size:
        whole = (
            files.whole_images(subject.dataset, "val", wanted.limit)
            if subject.dataset
            else files.drawn_whole_images(network.architecture)
        )
        return files.compare_whole(subject.predictor, _opened(subject, path, torch.get_num_threads()), whole)
    images = (
        split_images(subject.dataset, "val", metadata.side, metadata.crop_padding, most=wanted.limit)
        if subject.dataset
        else drawn_images(network.architecture)
    )
    return compare(network, _opened(subject, path, torch.get_num_threads()), images)


def _show_program(made: _Made, subject: ModelToExport, wanted: _Wanted, out: Path, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_as_data(made, wanted, out), indent=2))
        return
    what = "probabilities" if subject.metadata.preprocessing else "logits"
    file = "float32, before int8" if made.calibrated else str(out)
    click.echo(f"{file}: {what} checked, they differ by at most {made.difference:.1e}")
    click.echo(f"{out}: {made.size / 1e6:,.2f} MB, {_precision(made, wanted)}")
    click.echo(_scores(made.comparison))
    if (apart := made.comparison.apart) is not None:
        click.echo(f"whole images, cut and resized inside: probabilities differ by at most {apart:.1e}")
    times = made.times
    click.echo(f"one image: {_time(times.file)}; the network in torch {_time(times.network)}", nl=False)
    click.echo(f"; float32 in ONNX {_time(times.float32)}" if times.float32 else "", nl=False)
    click.echo(f" ({times.file.where()})")
    if not times.pays:
        click.echo("int8 does not pay here: it is slower than float32; on a processor with VNNI it may")


def _precision(made: _Made, wanted: _Wanted) -> str:
    told = f", calibrated on {made.calibrated:,} images" if made.calibrated else ""
    return f"{wanted.precision}{told}"


def _time(latency: Latency) -> str:
    return f"{latency.latency_ms:.2f} ms"


def _scores(comparison: Comparison) -> str:
    same = f"the same answer for {comparison.agreement:.2%}"
    if not comparison.drop:
        return f"the dataset is not here: compared on {comparison.images} random images alone, {same}"
    lost, noise = 100 * comparison.drop.lead, 100 * comparison.drop.noise
    return (
        f"val, {comparison.images:,} images: top-1 {comparison.top1:.2%}, the network's {comparison.top1_network:.2%}: "
        f"{lost:.2f} ± {noise:.2f} points lost; {same}"
    )


def _as_data(made: _Made, wanted: _Wanted, out: Path) -> dict[str, Any]:
    comparison, times = made.comparison, made.times
    drop = comparison.drop
    return {
        "out": str(out),
        "format": wanted.kind,
        "precision": wanted.precision,
        "bytes": made.size,
        "difference": made.difference,
        "calibrated_on": made.calibrated,
        "measured_on": "val" if drop else "random images",
        **comparison._asdict(),
        "drop": drop.lead if drop else None,
        "drop_noise": drop.noise if drop else None,
        "latency": times.file.model_dump(mode="json"),
        "latency_network": times.network.model_dump(mode="json"),
        "latency_float32": times.float32.model_dump(mode="json") if times.float32 else None,
        "pays": times.pays,
    }


COMMANDS = (export,)
