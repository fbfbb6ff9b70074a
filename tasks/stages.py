"""The stages of a family as Prefect tasks: a few lines each over effnet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from effnet.arch.scaling import Coefficients
from effnet.config import given_coefficients
from effnet.data.shards import Manifest, write_shards
from effnet.errors import DataError
from effnet.family import FamilyResult, Member, MemberResult, build_key
from effnet.search.grid import Verdict, choose, enumerate_grid
from effnet.store import publish
from tasks.dispatch import Job, run_jobs
from tasks.training import Unit, Work, make_unit, train_units


@task(task_run_name="shard dataset", cache_policy=NO_CACHE)
def shard_dataset(work: Work) -> Manifest:
    """Write the dataset, or find it."""

    def progress(done: int, total: int) -> None:
        work.screen.progress("shard dataset", done / total, ("images", "of"), [(str(done), str(total))])

    try:
        manifest, reused = write_shards(work.config.data, work.store.datasets, progress, base=work.base)
    finally:
        work.screen.settle()
    counts = ", ".join(f"{split} {num:,}" for split, num in manifest.samples.items())
    work.screen.say(f"dataset {manifest.digest}: {counts} images{' (reused)' if reused else ''}")
    return manifest


@task(task_run_name="fit coefficients", cache_policy=NO_CACHE)
def fit_coefficients(work: Work, manifest: Manifest, parent: str | None) -> Coefficients:
    """Return the config's own α, β, γ, or find them by training the grid at φ = 1."""
    if given := given_coefficients(work.config):
        work.screen.say(f"coefficients α {given.alpha:g}, β {given.beta:g}, γ {given.gamma:g} (from the config)")
        return given
    grid = enumerate_grid(work.baseline, len(manifest.classes), work.config.fit, work.config.resolution_multiple)
    networks, fitting = grid.points - grid.duplicates, len(grid.candidates) + grid.left_out
    work.screen.say(
        f"grid over α, β, γ: {grid.points:,} points build {networks:,} networks, {fitting:,} of them cost about "
        f"{work.config.fit.cost_ratio:g} times the baseline{f', {len(grid.candidates)} tried' if grid.left_out else ''}"
    )
    recipe = work.config.recipe.model_copy(update={"epochs": work.config.fit.epochs})
    units = []
    for candidate in grid.candidates:
        alpha, beta, gamma = candidate.coefficients
        params = {"alpha": alpha, "beta": beta, "gamma": gamma, "phi": 1.0}
        units.append(
            make_unit(work, manifest, f"fit α{alpha:g} β{beta:g} γ{gamma:g}", candidate.architecture, recipe, params)
        )
    train_units(work, units, "fit", parent)
    verdicts = {
        candidate.architecture.key(): _verdict(unit) for candidate, unit in zip(grid.candidates, units, strict=True)
    }
    best = choose(grid, verdicts)
    alpha, beta, gamma = best.coefficients
    top1 = verdicts[best.architecture.key()].top1
    work.screen.say(f"coefficients α {alpha:g}, β {beta:g}, γ {gamma:g} chosen: minival top-1 {top1:.1%}")
    return best.coefficients


@task(task_run_name="train members", cache_policy=NO_CACHE)
def train_members(work: Work, units: Sequence[Unit], parent: str | None) -> dict[str, bool]:
    """Train every member; return by name whether its run was there already."""
    reused = {unit.name: unit.folder.result() is not None for unit in units}
    train_units(work, units, "member", parent)
    return reused


@task(task_run_name="evaluate members", cache_policy=NO_CACHE)
def evaluate_members(
    work: Work,
    manifest: Manifest,
    members: Sequence[tuple[Member, Unit]],
    coefficients: Coefficients,
    reused: dict[str, bool],
) -> FamilyResult:
    """Score every member on the validation split, once, and return the family."""
    missing = [unit for _, unit in members if unit.folder.evaluation() is None]
    if missing:
        paths = tuple(str(unit.folder.path) for unit in missing)
        job = Job("evaluation", "effnet.evaluation", paths, work.store.logs / "evaluation.log")

        def tick() -> None:
            done = sum(unit.folder.evaluation_path.exists() for unit in missing)
            work.screen.progress("evaluate", done / len(missing), ("members", "of"), [(str(done), str(len(missing)))])

        try:
            run_jobs([job], work.config.compute, tick=tick, done=lambda _job: None, warn=work.screen.warn)
        finally:
            work.screen.settle()
    kept = len(members) - len(missing)
    work.screen.say(f"evaluated on {manifest.samples['val']:,} held-out images{f' ({kept} reused)' if kept else ''}")
    results = [_member_result(work, member, unit, reused[unit.name]) for member, unit in members]
    return FamilyResult(
        family=work.config.family,
        key=build_key(work.config, work.baseline, manifest.digest),
        dataset=manifest.digest,
        val_samples=manifest.samples["val"],
        coefficients=coefficients._asdict(),
        members=tuple(results),
    )


@task(task_run_name="write report", cache_policy=NO_CACHE)
def write_report(work: Work, result: FamilyResult) -> list[Path]:
    """Write the family's result and figure; return the files."""
    from effnet.report.figures import Point, accuracy_figure

    folder = work.store.families / result.key
    paths = [folder / "family.json", folder / "accuracy.png", folder / "accuracy.svg"]
    lasting = [member.model_copy(update={"reused": False}) for member in result.members]
    text = result.model_copy(update={"members": tuple(lasting)}).model_dump_json(indent=2).encode()
    if all(path.exists() for path in paths) and paths[0].read_bytes() == text:
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    points = [
        Point(member.name, member.params, member.macs, member.top1, result.val_samples) for member in result.members
    ]
    accuracy_figure(points, f"{result.family}: a compound-scaled family", paths[1:])
    publish(paths[0], text)
    return paths


def _verdict(unit: Unit) -> Verdict:
    result = unit.folder.result()
    if result is None:
        raise DataError(f"{unit.folder.path}: its result has gone; run the command again")
    return Verdict(result.top1, result.loss)


def _member_result(work: Work, member: Member, unit: Unit, reused: bool) -> MemberResult:
    result, evaluation = unit.folder.result(), unit.folder.evaluation()
    if result is None or evaluation is None:
        raise DataError(f"{unit.folder.path}: its result has gone; run the command again")
    work.tracker.forward(unit.folder)
    return MemberResult(
        name=member.name,
        phi=member.phi,
        resolution=member.architecture.resolution,
        params=member.params,
        macs=member.macs,
        top1=evaluation.top1,
        top5=evaluation.top5,
        latency_ms=evaluation.latency_ms,
        seconds=result.seconds,
        run_key=unit.folder.key,
        mlflow_run_id=work.tracker.run_id(unit.folder.key),
        reused=reused,
    )
