"""Members: trained with every seed, then scored on val.

These are not Prefect tasks: the flow calls them itself, so that the timeline shows every member's training and
evaluation directly. Those of other stages are folded into their stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from effnet.answer import conclude
from effnet.arch.scaling import Coefficients
from effnet.champion import Contender
from effnet.family import FamilyResult, Member, MemberResult, SeedResult
from effnet.hits import hits_of
from effnet.runs import Start
from effnet.stages import Stage
from effnet.starts import member_starts
from tasks.build import Build, Training
from tasks.trainings import evaluate, train


class Entrant(NamedTuple):
    """A member and its trainings, one per seed."""

    member: Member
    trainings: Sequence[Training]

    @property
    def chosen(self) -> Training:
        """The finished training whose model is the member's: best on minival, of equals the first."""

        def on_minival(training: Training) -> tuple[float, float]:
            result = training.folder.trained()
            return result.top1, -result.loss

        return max(self.trainings, key=on_minival)


def entrants(build: Build, members: Sequence[Member]) -> list[Entrant]:
    """Return the members with the trainings that the config wants of each."""
    starts = member_starts(build.config, members, build.base, build.store.cache)
    return [
        Entrant(
            member,
            [_training(build, member, seed, starts.get(member.name)) for seed in range(build.config.members.seeds)],
        )
        for member in members
    ]


def train_members(build: Build, family: Sequence[Entrant]) -> set[str]:
    """Train every member with every seed; return the keys of the runs that were there already."""
    every = [training for entrant in family for training in entrant.trainings]
    reused = {training.folder.key for training in every if training.folder.result()}
    train(build, list({training.folder.key: training for training in every}.values()))  # rounding may make equals
    return reused


def evaluate_members(
    build: Build, family: Sequence[Entrant], coefficients: Coefficients | None, reused: set[str]
) -> FamilyResult:
    """Score every training on the validation split, once, and return the family with its answer."""
    every = [training for entrant in family for training in entrant.trainings]
    kept = evaluate(build, every)
    again = f"; {kept} of {len(every)} trainings had been evaluated before" if kept else ""
    samples = build.manifest.samples["val"]
    build.screen.say(f"evaluated on {samples:,} held-out images{again}")
    distinct: dict[str, Entrant] = {}  # by the first run: rounding may make equals, and they count once
    for entrant in family:
        distinct.setdefault(entrant.trainings[0].folder.key, entrant)
    scored = [
        Contender(each.member.name, hits_of((training.folder for training in each.trainings), "val"), each.member.macs)
        for each in distinct.values()
    ]
    use, grown = conclude(scored, family[0].chosen.folder.evaluated().class_samples)
    return FamilyResult(
        family=build.config.family,
        key=build.key,
        dataset=build.manifest.digest,
        val_samples=samples,
        coefficients=coefficients._asdict() if coefficients else {},
        members=tuple(_member_result(build, each, reused) for each in family),
        answer=use,
        growth=grown,
    )


def _training(build: Build, member: Member, seed: int, start: Start | None) -> Training:
    name = f"{member.name} seed {seed}" if seed else member.name
    labels = {"phi": member.phi}
    return build.training(Stage.MEMBER, name, member.architecture, build.recipe, labels, start=start, seed=seed)


def _member_result(build: Build, entrant: Entrant, reused: set[str]) -> MemberResult:
    member, chosen = entrant.member, entrant.chosen.folder
    evaluations = [training.folder.evaluated() for training in entrant.trainings]
    timed = chosen.evaluated()
    return MemberResult(
        name=member.name,
        phi=member.phi,
        resolution=member.architecture.resolution,
        params=member.params,
        macs=member.macs,
        top1=fmean(each.top1 for each in evaluations),
        top5=fmean(each.top5 for each in evaluations),
        latency_ms=timed.latency_ms,
        latency_on=timed.latency.where() if timed.latency else "",
        seconds=fmean(training.folder.trained().seconds for training in entrant.trainings),
        run_key=chosen.key,
        mlflow_run_id=build.tracker.run_id(chosen.key),
        grown_from=start.grown_from.name if (start := entrant.chosen.spec.start) and start.grown_from else None,
        features_alone=timed.features_alone,
        reused=all(training.folder.key in reused for training in entrant.trainings),
        seeds=tuple(SeedResult(run_key=each.key, top1=each.top1) for each in evaluations),
    )
