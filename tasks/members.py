"""Members as Prefect tasks: trained, then scored on val."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from effnet.arch.scaling import Coefficients
from effnet.data.shards.manifest import Manifest
from effnet.family import FamilyResult, Member, MemberResult
from tasks.trainings import Unit, Work, evaluate_units, train_units


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
    kept = evaluate_units(work, [unit for _, unit in members])
    work.screen.say(f"evaluated on {manifest.samples['val']:,} held-out images{f' ({kept} reused)' if kept else ''}")
    results = [_member_result(work, member, unit, reused[unit.name]) for member, unit in members]
    return FamilyResult(
        family=work.config.family,
        key=work.key,
        dataset=manifest.digest,
        val_samples=manifest.samples["val"],
        coefficients=coefficients._asdict(),
        members=tuple(results),
    )


def _member_result(work: Work, member: Member, unit: Unit, reused: bool) -> MemberResult:
    result, evaluation = unit.folder.trained(), unit.folder.evaluated()
    return MemberResult(
        name=member.name,
        phi=member.phi,
        resolution=member.architecture.resolution,
        params=member.params,
        macs=member.macs,
        top1=evaluation.top1,
        top5=evaluation.top5,
        latency_ms=evaluation.latency_ms,
        latency_on=evaluation.latency.where() if evaluation.latency else "",
        seconds=result.seconds,
        run_key=unit.folder.key,
        mlflow_run_id=work.tracker.run_id(unit.folder.key),
        reused=reused,
    )
