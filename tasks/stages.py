"""The stages of a family as Prefect tasks: a few lines each over effnet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from effnet.arch.scaling import Coefficients
from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig, Recipe, given_coefficients
from effnet.data.shards import Manifest, write_shards
from effnet.errors import DataError
from effnet.family import FamilyResult, Member, MemberResult
from effnet.runs import RunFolder, RunSpec, read_journal
from effnet.search.grid import Verdict, choose, enumerate_grid
from effnet.store import Store, publish
from tasks.dispatch import Job, run_jobs
from tasks.screen import Screen, duration, short
from tasks.tracking import Tracker

FORWARD_SECONDS = 5.0


@dataclass(frozen=True)
class Work:
    """What every stage needs."""

    config: FamilyConfig
    baseline: Architecture
    store: Store
    tracker: Tracker
    screen: Screen


@dataclass(frozen=True)
class Unit:
    """One training to be done: its name for people and its run folder."""

    name: str
    folder: RunFolder
    macs: int
    epochs: int
    params: dict[str, float]


@task(cache_policy=NO_CACHE)
def shard_dataset(work: Work) -> Manifest:
    """Write the dataset, or find it."""
    manifest, reused = write_shards(work.config.data, work.store.datasets)
    counts = ", ".join(f"{split} {num}" for split, num in manifest.samples.items())
    work.screen.say(f"dataset {manifest.digest}: {counts} images{' (reused)' if reused else ''}")
    return manifest


@task(cache_policy=NO_CACHE)
def fit_coefficients(work: Work, manifest: Manifest, parent: str | None) -> Coefficients:
    """Return the config's own α, β, γ, or find them by training the grid at φ = 1."""
    if given := given_coefficients(work.config):
        work.screen.say(f"coefficients α {given.alpha:g}, β {given.beta:g}, γ {given.gamma:g} (from the config)")
        return given
    num_classes = len(manifest.classes)
    grid = enumerate_grid(work.baseline, num_classes, work.config.fit, work.config.resolution_multiple)
    work.screen.say(
        f"grid: {grid.points} points, {grid.duplicates} build a network twice, {grid.off_cost} miss the cost, "
        f"{grid.left_out} left out, {len(grid.candidates)} to train"
    )
    recipe = work.config.recipe.model_copy(update={"epochs": work.config.fit.epochs})
    units = []
    for candidate in grid.candidates:
        alpha, beta, gamma = candidate.coefficients
        unit = _unit(work, manifest, f"alpha{alpha:g}-beta{beta:g}-gamma{gamma:g}", candidate.architecture, recipe)
        params = {"alpha": alpha, "beta": beta, "gamma": gamma, "phi": 1.0}
        units.append(Unit(unit.name, unit.folder, candidate.macs, recipe.epochs, params))
    train_units(work, units, "trial", parent)
    verdicts = {}
    for candidate, unit in zip(grid.candidates, units, strict=True):
        result = unit.folder.result()
        if result is None:
            raise DataError(f"{unit.folder.path}: its result has gone; run the command again")
        verdicts[candidate.architecture.key()] = Verdict(result.top1, result.loss)
    best = choose(grid, verdicts)
    alpha, beta, gamma = best.coefficients
    top1 = verdicts[best.architecture.key()].top1
    work.screen.say(f"coefficients α {alpha:g}, β {beta:g}, γ {gamma:g}: minival top-1 {top1:.1%}")
    return best.coefficients


@task(cache_policy=NO_CACHE)
def train_members(work: Work, manifest: Manifest, members: Sequence[Member], parent: str | None) -> dict[str, bool]:
    """Train every member; return by name whether its run was there already."""
    units = [member_unit(work, manifest, member) for member in members]
    reused = {unit.name: unit.folder.result() is not None for unit in units}
    train_units(work, units, "member", parent)
    return reused


@task(cache_policy=NO_CACHE)
def evaluate_members(
    work: Work,
    manifest: Manifest,
    members: Sequence[Member],
    coefficients: Coefficients,
    reused: dict[str, bool],
) -> FamilyResult:
    """Score every member on the validation split, once, and return the family."""
    folders = [member_unit(work, manifest, member).folder for member in members]
    missing = [folder for folder in folders if folder.evaluation() is None]
    if missing:
        work.screen.update(f"evaluate: {len(missing)} members on the validation split")
        job = Job("evaluation", "effnet.evaluation", tuple(str(folder.path) for folder in missing))
        run_jobs([job], work.config.compute, work.store.root / "logs", lambda: None, lambda _job: None)
        work.screen.settle()
    results = []
    for member, folder in zip(members, folders, strict=True):
        result, evaluation = folder.result(), folder.evaluation()
        if result is None or evaluation is None:
            raise DataError(f"{folder.path}: its result has gone; run the command again")
        work.tracker.forward(folder)
        results.append(
            MemberResult(
                name=member.name,
                phi=member.phi,
                resolution=member.architecture.resolution,
                params=member.params,
                macs=member.macs,
                top1=evaluation.top1,
                top5=evaluation.top5,
                latency_ms=evaluation.latency_ms,
                seconds=result.seconds,
                run_key=folder.key,
                mlflow_run_id=work.tracker.run_id(folder.key),
                reused=reused[member.name],
            )
        )
    return FamilyResult(
        family=work.config.family,
        dataset=manifest.digest,
        coefficients=coefficients._asdict(),
        members=tuple(results),
    )


@task(cache_policy=NO_CACHE)
def write_report(work: Work, key: str, result: FamilyResult) -> list[Path]:
    """Write the family's result and figure; return the files."""
    from effnet.report.figures import Point, accuracy_figure

    folder = work.store.families / key
    paths = [folder / "family.json", folder / "accuracy.png", folder / "accuracy.svg"]
    data = result.model_copy(
        update={"members": tuple(member.model_copy(update={"reused": False}) for member in result.members)}
    )
    text = data.model_dump_json(indent=2).encode()
    if all(path.exists() for path in paths) and paths[0].read_bytes() == text:
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    points = [Point(member.name, member.params, member.macs, member.top1) for member in result.members]
    accuracy_figure(points, f"{result.family}: compound-scaled family", paths[1:])
    publish(paths[0], text)
    return paths


def member_unit(work: Work, manifest: Manifest, member: Member) -> Unit:
    """Return a member's training."""
    unit = _unit(work, manifest, member.name, member.architecture, work.config.recipe)
    return Unit(unit.name, unit.folder, member.macs, unit.epochs, {"phi": member.phi})


def train_units(work: Work, units: Sequence[Unit], kind: str, parent: str | None) -> None:
    """Train what is not trained yet, in child processes, and forward the journals to MLflow meanwhile."""
    for unit in units:
        work.tracker.open_training(unit.folder, unit.name, unit.params, kind, parent)
    open_units = [unit for unit in units if unit.folder.result() is None]
    for unit in units:
        if unit not in open_units:
            work.tracker.forward(unit.folder)
    if len(open_units) < len(units):
        work.screen.say(f"{kind}s: {len(units) - len(open_units)} of {len(units)} reused")
    by_name = {unit.name: unit for unit in open_units}
    jobs = [
        Job(unit.name, "effnet.train", (str(unit.folder.path),), work=float(unit.macs * unit.epochs))
        for unit in open_units
    ]
    forwarded = [time.monotonic()]

    def tick() -> None:
        work.screen.update(_progress(open_units, kind))
        if time.monotonic() - forwarded[0] > FORWARD_SECONDS:
            for unit in open_units:
                work.tracker.forward(unit.folder)
            forwarded[0] = time.monotonic()

    def done(job: Job) -> None:
        unit = by_name[job.name]
        work.tracker.forward(unit.folder)
        if result := unit.folder.result():
            work.screen.say(
                f"{unit.name}: {short(result.params)} params, {short(result.macs)} MACs, "
                f"minival top-1 {result.top1:.1%}, {duration(result.seconds)}"
            )

    run_jobs(jobs, work.config.compute, work.store.root / "logs", tick, done)
    work.screen.settle()


def _progress(units: Sequence[Unit], kind: str) -> str:
    done = total = 0.0
    running = []
    for unit in units:
        lines, _ = read_journal(unit.folder.metrics_path)
        total += unit.macs * unit.epochs
        done += unit.macs * min(len(lines), unit.epochs)
        if 0 < len(lines) < unit.epochs:
            running.append(f"{unit.name} epoch {len(lines)}/{unit.epochs}")
    return f"{kind}s: {done / total if total else 1:.0%} of the work; {', '.join(running) or 'starting'}"


def _unit(work: Work, manifest: Manifest, name: str, arch: Architecture, recipe: Recipe) -> Unit:
    spec = RunSpec(
        architecture=arch,
        dataset=manifest.digest,
        num_classes=len(manifest.classes),
        recipe=recipe,
        seed=work.config.seed,
    )
    return Unit(name, RunFolder.create(work.store, spec), 0, recipe.epochs, {})
