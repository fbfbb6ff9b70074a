"""The commands about single trainings: train, evaluate, cam, sync, job."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effnet.errors import ConfigError, RunFailedError
from effnet.files import read_regular, reason
from flows.cli import options
from flows.cli.find import CONFIG, find, find_dataset, load_named, open_store

if TYPE_CHECKING:
    from effnet.arch.scaling import Multipliers
    from effnet.arch.spec import Architecture
    from effnet.config import FamilyConfig, Recipe
    from effnet.evaluation.classes import Known
    from effnet.family import Member
    from effnet.runs import Evaluation, RunFolder, Start
    from effnet.store import Store
    from tasks.build import Build

ADVICE = "from weights, `recipe: finetune` is better unless there are very many images"

_WEIGHTS = click.option("--network", help="Zoo name or architecture file, if RUN is a bare weights file.")


@click.command()
@CONFIG
@click.option("--member", help="Which of the config's members: b0, b1, ...  [default: the first]")
@options.MULTIPLIERS
@options.STORE
@click.option(
    "--start-from",
    help="Weights to start from: a weights file, a RUN as `effnet evaluate` takes it, s3://bucket/file or hf://owner/repository.",
)
@click.option("--new-head", is_flag=True, help="Start with a new classifier even if the number of classes is the same.")
@click.option(
    "--ranks", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes that train together."
)
@options.JSON
def train(
    config: Path,
    member: str | None,
    multipliers: tuple[float, float, float] | None,
    store: Path | None,
    start_from: str | None,
    new_head: bool,
    ranks: int,
    as_json: bool,
) -> None:
    """Train and evaluate one member of CONFIG's family, with its first seed, or the baseline scaled by --multipliers.

    A network scaled by --multipliers keeps the baseline's own dropout. Run it again to resume.
    """
    from effnet.arch.scaling import Multipliers
    from effnet.config import load_baseline, load_config
    from effnet.stages import Stage
    from effnet.starts import member_starts
    from tasks import trainings
    from tasks.build import Build
    from tasks.members import teacher_of, training_name
    from tasks.records.tracking import store_tracker
    from tasks.terminal.screen import Screen
    from tasks.terminal.sharding import shard

    if member and multipliers:
        raise ConfigError("train: give --member or --multipliers, not both")
    settings = load_config(config)
    baseline = load_baseline(settings, config.parent)
    wanted: list[Member] = []
    if multipliers:
        name, architecture, labels = _scaled(settings, baseline, Multipliers(*multipliers))
    else:
        wanted = [member_of(settings, baseline, member)]  # a wrong name is told before any work
        name, architecture, labels = wanted[0].name, wanted[0].architecture, {"phi": wanted[0].phi}
    root = open_store(store or settings.store)
    start = start_of(start_from, root, new_head) if start_from else None
    if wanted and start is None:
        start = member_starts(settings, wanted, config.parent, root.cache).get(name)
    screen = Screen()
    tracker = store_tracker(root, settings.family, screen.warn)
    manifest = shard(settings.data, root, config.parent, screen)
    build = Build(settings, baseline, manifest, root, tracker, screen, config.parent)
    build.tell_order()
    recipe = recipe_for_weights(build) if start else build.recipe
    first, teacher = teacher_of(build, wanted[0] if wanted else None)
    name = training_name(build, name) if wanted else name
    training = build.training(Stage.MEMBER, name, architecture, recipe, labels, start=start, teacher=teacher)
    try:
        if first and first.folder.result() is None:
            screen.say(f"{first.name} is trained first: {name} learns from it")
            trainings.train(build, [first], ranks=ranks)
        trainings.train(build, [training], ranks=ranks)
        trainings.evaluate(build, [training])
    finally:
        screen.settle()
    evaluation = training.folder.evaluated()
    if as_json:
        shown = evaluation.model_dump(mode="json", exclude={"confusion"})
        click.echo(json.dumps({"run": str(training.folder.path), **shown, **_averages(evaluation)}, indent=2))
    else:
        _show(evaluation, f"{name}, run {training.folder.path}{_features_kept(training.folder)}")


@click.command()
@click.argument("run")
@click.option(
    "--data",
    "dataset",
    metavar="DATASET",
    help="A folder, or a CONFIG that it was made of.  [default: RUN's own]",
)
@click.option("--split", type=click.Choice(["val", "minival", "train"]), default="val", show_default=True)
@_WEIGHTS
@click.option("--crop-padding", type=click.IntRange(0), help="Padding of the crop.  [default: as trained]")
@click.option("--classes", is_flag=True, help="Show every class, and what it is taken for.")
@options.FLIPS
@options.HOME
@options.JSON
def evaluate(
    run: str,
    dataset: str | None,
    split: str,
    network: str | None,
    crop_padding: int | None,
    classes: bool,
    flips: bool,
    store: Path,
    as_json: bool,
) -> None:
    """Score RUN on a dataset, and time it.

    RUN is a name, a key or the beginning of one, a folder, models:/NAME@champion, or a weights file. The dataset's
    classes are found among those of RUN by their ids; it may have fewer, but none that RUN lacks.
    """
    from effnet.config import Augment
    from effnet.data.shards.manifest import load_manifest
    from effnet.evaluation.flips import compare_flips
    from effnet.evaluation.run import evaluate_weights, judge
    from effnet.process import keep_memory
    from effnet.runs import RunFolder
    from effnet.store import sha256_file

    keep_memory()
    path = find(run, store)
    weights = path if path.is_file() else path / "model.safetensors"
    loaded = load_named(path, network)
    augment, cache, run_folder = Augment(), None, None
    data = find_dataset(dataset, None) if dataset else None
    if (path / "config.json").is_file():
        run_folder = RunFolder(path)
        spec = run_folder.spec()
        augment, cache = spec.recipe.augment, run_folder.store.cache
        data = data or run_folder.store.datasets / spec.dataset
    if crop_padding is not None:
        augment = augment.model_copy(update={"crop_padding": crop_padding})
    if data is None:
        raise ConfigError(f"{run}: not a run, so it has no dataset of its own; give one with --data")
    known = _classes(path)
    key = sha256_file(weights)[:16]
    evaluation, hits = evaluate_weights(loaded, data, split, key=key, augment=augment, cache=cache, known=known)
    flipped = None
    if flips:
        if not augment.flip:
            click.echo("effnet: --flips: trained without mirroring (augment.flip), perhaps for a reason", err=True)
        judged = judge(loaded, data, split, augment=augment, cache=cache, known=known, flips=True)
        flipped = compare_flips(hits, judged)
    if evaluation.matched:
        click.echo(f"classes: {evaluation.matched}", err=True)
    if as_json:
        shown = evaluation.model_dump(mode="json") | _averages(evaluation)
        shown |= {"flips": flipped.model_dump(mode="json")} if flipped else {}
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    _show(evaluation, f"{path}{_features_kept(run_folder)}")
    if flipped:
        click.echo(f"with flips: top-1 {flipped.top1:.2%}, loss {flipped.loss:.4f}; {flipped.told}")
    manifest = load_manifest(data)
    if classes and manifest:
        same = len(manifest.class_names) == len(evaluation.class_samples) and not evaluation.matched
        names = manifest.class_names if same else known.names or known.ids or manifest.class_names
        _show_classes(evaluation, names)


@click.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--image", "images", multiple=True, required=True, type=click.Path(path_type=Path), help="JPEG or PNG.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("cam.png"), show_default=True, help="Figure to write."
)
@_WEIGHTS
@options.HOME
def cam(runs: tuple[str, ...], images: tuple[Path, ...], out: Path, network: str | None, store: Path) -> None:
    """Draw class activation maps of RUNS side by side (paper, figure 7): where each network sees its class."""
    from effnet.evaluation.cam import activation_panel
    from effnet.report.pictures import cam_figure

    rows, paths = [], [find(run, store) for run in runs]
    for path in paths:
        loaded = load_named(path, network)
        rows.append(
            activation_panel(loaded, [(image.name, _read(image)) for image in images], _class_names(path, store))
        )
    cam_figure([_name(path) for path in paths], [image.name for image in images], rows, [out])
    click.echo(str(out))


@click.command()
@click.option("--to", help="MLflow tracking URI.  [default: the store's own]")
@options.HOME
def sync(to: str | None, store: Path) -> None:
    """Send MLflow the store's runs that it does not have yet: after an outage, or to another server."""
    from effnet.store import Store
    from tasks.records.sync import sync as send
    from tasks.servers.local import mlflow_uri
    from tasks.servers.relocation import settle

    root = Store.at(store)
    if not root.root.is_dir():
        raise ConfigError(f"{store}: no store here; name it with --store")
    settle(root, lambda line: click.echo(f"effnet: {line}", err=True))
    sent = send(root, to or mlflow_uri(root.root), lambda line: click.echo(f"effnet: {line}", err=True))
    left_out = f", {sent.unnamed} left out (made by no family)" if sent.unnamed else ""
    click.echo(f"{sent.runs} runs are in MLflow{left_out}")
    if sent.failed:
        raise RunFailedError(f"{sent.failed} runs could not be sent; run the command again when MLflow is back")


def recipe_for_weights(build: Build) -> Recipe:
    """Return the recipe of a training that starts from weights: the config's, or `finetune` where it has none."""
    from effnet.config import Recipe

    if "recipe" not in build.config.model_fields_set:
        recipe = Recipe.model_validate("finetune").sized(build.manifest.samples["train"])
        build.screen.say(f"recipe finetune: at most {recipe.epochs} epochs in batches of {recipe.batch_size}")
        build.tell_few_steps(recipe)
        return recipe
    if build.recipe.norms == "train":
        build.screen.warn(f"recipe {build.recipe.base or 'of the config'} is for training from nothing; {ADVICE}")
    build.tell_few_steps()
    return build.recipe


def start_of(name: str, store: Store, new_head: bool) -> Start:
    """Return the weights that a person named, for a training to start from."""
    from effnet.runs import Start
    from effnet.starts import fetch_start, is_elsewhere
    from effnet.store import sha256_file

    if is_elsewhere(name):
        return fetch_start(name, store.cache).model_copy(update={"new_head": new_head})
    path = find(name, store.root)
    file = path if path.is_file() else path / "model.safetensors"
    if not file.is_file():
        raise ConfigError(f"{path}: no weights there; give a weights file, a model folder or a finished run folder")
    return Start(path=str(file.absolute()), sha256=sha256_file(file), new_head=new_head)


def _scaled(
    settings: FamilyConfig, baseline: Architecture, multipliers: Multipliers
) -> tuple[str, Architecture, dict[str, float]]:
    """Return a network's name for people, the baseline scaled, and its labels."""
    from effnet.arch.scaling import scale

    name = multipliers.told()
    arch = scale(
        baseline,
        multipliers,
        resolution_multiple=settings.resolution_multiple,
        name=f"{settings.family} {name}".replace(" ", "_"),
    )
    return name, arch, multipliers._asdict()


def member_of(settings: FamilyConfig, baseline: Architecture, name: str | None) -> Member:
    """Return the member of this name, or the first, with the costs of one class: nobody has looked at the data yet.

    Raises:
        ConfigError: if there is no such member; the message lists those that there are.
    """
    from effnet.arch.scaling import PAPER
    from effnet.config import given_coefficients
    from effnet.family import plan_members

    coefficients = given_coefficients(settings)
    members = {member.name.lower(): member for member in plan_members(baseline, settings, coefficients or PAPER, 1)}
    name = name or next(iter(members))
    if name.lower() not in members:
        raise ConfigError(f"no member '{name}'; the config plans {', '.join(members)}")
    if coefficients is None and members[name.lower()].phi and not settings.members.published:
        alpha, beta, gamma = PAPER
        click.echo(
            f"the config states no coefficients: scaled by the paper's α {alpha:g}, β {beta:g}, γ {gamma:g}; "
            "`effnet family` would find its own",
            err=True,
        )
    return members[name.lower()]


def _classes(path: Path) -> Known:
    """Return what is known about the classes of the network that `load_named` loads."""
    from effnet.evaluation.classes import Known, classes_of_model, classes_of_run
    from effnet.runs import RunFolder

    if (path / "config.json").is_file():
        return classes_of_run(RunFolder(path))
    return classes_of_model(path) if path.is_dir() else Known()


def _name(path: Path) -> str:
    """Return what people call a run, or the file's or folder's name."""
    from effnet.runs import RunFolder

    about = RunFolder(path).about() if path.is_dir() else None
    return about.name if about else path.name


def _class_names(path: Path, store: Path) -> list[str] | None:
    from effnet.data.shards.manifest import load_manifest
    from effnet.runs import RunFolder

    if not (path / "config.json").is_file():
        return None
    folder = RunFolder(path)
    manifest = load_manifest(folder.store.datasets / folder.spec().dataset) or load_manifest(
        store / "datasets" / folder.spec().dataset
    )
    return list(manifest.class_names) if manifest else None


def _read(path: Path) -> Any:
    from effnet.data.images.decode import decode

    try:
        return decode(read_regular(path), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: {reason(error)}") from error


def _features_kept(folder: RunFolder | None) -> str:
    """Say at the end of a line if a finished run's weights are the given ones with a new classifier; else nothing."""
    from effnet.runs import FEATURES_KEPT

    result = folder.result() if folder else None
    return FEATURES_KEPT if result and not result.best_epoch else ""


def _show(evaluation: Evaluation, title: str) -> None:
    click.echo(title)
    click.echo(
        f"{evaluation.split}: top-1 {evaluation.top1:.2%}, top-5 {evaluation.top5:.2%} of {evaluation.samples:,} images"
        f", loss {evaluation.loss:.4f}, calibration error {evaluation.calibration_error:.3f}"
    )
    click.echo(
        f"each class counted the same: balanced accuracy {evaluation.balanced_accuracy:.2%}, macro F1 "
        f"{evaluation.macro_f1:.3f}"
    )
    if evaluation.features_alone is not None:
        gain = 100 * (evaluation.top1 - evaluation.features_alone)
        told = f"top-1 {evaluation.features_alone:.2%}, a classifier on the weights as they came"
        click.echo(f"features alone: {told}; training them added {gain:+.2f} points")
    sides = ", ".join(f"{side} px {top1:.1%}" for side, top1 in evaluation.resolutions.items())
    click.echo(f"other image sides: {sides}")
    where = evaluation.environment
    click.echo(
        f"latency {evaluation.latency_ms:.2f} ms (one image, {_place(evaluation)}); "
        f"{evaluation.images_per_second:,.0f} images/s in batches of {evaluation.best_batch} "
        f"({where['device']}, {where['threads']} threads, torch {where['torch']})"
    )


def _averages(evaluation: Evaluation) -> dict[str, float]:
    return {"balanced_accuracy": evaluation.balanced_accuracy, "macro_f1": evaluation.macro_f1}


def _place(evaluation: Evaluation) -> str:
    return evaluation.latency.where() if evaluation.latency else "1 thread"


def _show_classes(evaluation: Evaluation, names: tuple[str, ...]) -> None:
    wrong: dict[int, list[tuple[int, int]]] = {}
    for label, found, number in evaluation.confusion:
        if label != found:
            wrong.setdefault(label, []).append((number, found))
    click.echo(f"{'class':24}{'images':>7}{'recall':>8}{'precision':>10}{'F1':>7}")
    for label, (samples, score) in enumerate(zip(evaluation.class_samples, evaluation.class_scores, strict=True)):
        taken = ", ".join(
            f"{names[found]} {number}" for number, found in sorted(wrong.get(label, []), reverse=True)[:3]
        )
        recall, precision = (f"{value:.1%}" if value is not None else "–" for value in score[:2])
        f1 = f"{score.f1:.3f}" if score.f1 is not None else "–"
        told = f"  taken for {taken}" if taken else ""
        click.echo(f"{names[label][:24]:24}{samples:7,}{recall:>8}{precision:>10}{f1:>7}{told}")


@click.command()
@click.argument("order", type=click.Path(path_type=Path))
@click.option("--store", type=click.Path(path_type=Path), help="Folder of the runs, instead of the order's.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Threads of each process.")
def job(order: Path, store: Path | None, threads: int) -> None:
    """Carry out ORDER, a JSON file, without Prefect: what one child process does, for any scheduler.

    Exit codes are those of `effnet`; SIGTERM stops a training with a checkpoint, and the same command resumes it.
    """
    from effnet.child import read_order

    wanted = read_order(str(order))
    if store:
        wanted = wanted.model_copy(update={"store": str(open_store(store).root)})
    command = [sys.executable, "-P", "-m", "effnet.child", wanted.model_dump_json()]
    # The thread count affects the last bits of results: use as many as in a family, however many cores there are.
    # Libraries read these variables when they are loaded.
    os.environ |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    os.execv(sys.executable, command)  # noqa: S606 - signals reach the training itself


COMMANDS = (train, evaluate, cam, sync, job)
