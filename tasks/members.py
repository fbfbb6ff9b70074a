"""Members: trained, then scored on val.

These are not Prefect tasks: the flow calls them itself, so that the timeline shows every member's training and
evaluation directly. Those of other stages are folded into their stage.
"""

from __future__ import annotations

from collections.abc import Sequence

from effnet.arch.scaling import Coefficients
from effnet.family import FamilyResult, Member, MemberResult
from tasks.build import Build, Training
from tasks.trainings import evaluate, train


def train_members(build: Build, trainings: Sequence[Training]) -> dict[str, bool]:
    """Train every member; return by name whether its run was there already."""
    reused = {training.name: training.folder.result() is not None for training in trainings}
    train(build, trainings)
    return reused


def evaluate_members(
    build: Build,
    members: Sequence[tuple[Member, Training]],
    coefficients: Coefficients,
    reused: dict[str, bool],
) -> FamilyResult:
    """Score every member on the validation split, once, and return the family."""
    kept = evaluate(build, [training for _, training in members])
    again = f"; {kept} of {len(members)} members were before" if kept else ""
    samples = build.manifest.samples["val"]
    build.screen.say(f"evaluated on {samples:,} held-out images{again}")
    results = [_member_result(build, member, training, reused[training.name]) for member, training in members]
    return FamilyResult(
        family=build.config.family,
        key=build.key,
        dataset=build.manifest.digest,
        val_samples=samples,
        coefficients=coefficients._asdict(),
        members=tuple(results),
    )


def _member_result(build: Build, member: Member, training: Training, reused: bool) -> MemberResult:
    result, evaluation = training.folder.trained(), training.folder.evaluated()
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
        run_key=training.folder.key,
        mlflow_run_id=build.tracker.run_id(training.folder.key),
        reused=reused,
    )
