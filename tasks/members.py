"""Members: trained with every seed, on every fold, then scored on val.

These are not Prefect tasks: the flow calls them itself, so that the timeline shows every member's training and
evaluation directly. Those of other stages are folded into their stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from effnet.answer import conclude, told_out_of_fold
from effnet.approval import read_approvals
from effnet.arch.scaling import PAPER, Coefficients
from effnet.champion import Contender
from effnet.config import Recipe, given_coefficients
from effnet.errors import ConfigError
from effnet.evaluation.classes import compared_samples
from effnet.family import (
    FamilyResult,
    Member,
    MemberResult,
    OutOfFold,
    SeedResult,
    is_taught,
    need_pupils,
    plan_members,
    teaching_member,
)
from effnet.hits import compared_hits
from effnet.runs import RunFolder, Start, Teacher, numbered
from effnet.stages import Stage
from effnet.starts import member_starts
from effnet.statistics import Scatter, band, scatter
from tasks.build import Build, Training
from tasks.trainings import evaluate, keep_minival_hits, train


class Entrant(NamedTuple):
    """A member and its trainings."""

    member: Member
    folds: Sequence[Sequence[Training]]  # of each fold, one per seed; a single fold without members.folds

    @property
    def trainings(self) -> list[Training]:
        """All of them, by fold and seed."""
        return [training for fold in self.folds for training in fold]

    @property
    def chosen(self) -> Training:
        """The finished training whose model is the member's: best on minival, of equals the first.

        Of the first fold: scores on the minivals of several cannot be compared.
        """

        def on_minival(training: Training) -> tuple[float, float]:
            result = training.folder.trained()
            return result.top1, -result.loss

        return max(self.folds[0], key=on_minival)

    @property
    def run_folders(self) -> list[list[RunFolder]]:
        """The run folders of its trainings on each fold, by seed."""
        return [[training.folder for training in fold] for fold in self.folds]


class School(NamedTuple):
    """Who teaches a family's members: one of them, who is trained first, or a network from elsewhere; or nobody."""

    member: Member | None
    outside: Teacher | None

    @classmethod
    def of(cls, build: Build, members: Sequence[Member]) -> School:
        """Return who teaches; see `Build.outside_teacher` for what is raised. With folds it has to be a member."""
        member = teaching_member(build.recipe.teacher, members)
        if build.recipe.teacher and member is None and build.config.members.folds > 1:
            raise ConfigError(
                f"recipe.teacher: {build.recipe.teacher:.80} may have learnt from what members are judged on; with "
                "members.folds let a member teach (such as largest): it is trained anew on each fold"
            )
        need_pupils(member, members)
        return cls(member, None if member else build.outside_teacher)

    def first(self, build: Build, recipe: Recipe, starts: Mapping[str, Start], seed: int) -> Training | None:
        """Return the training of the member who teaches, with this seed; None if none does."""
        return _training(build, recipe, self.member, seed, starts.get(self.member.name)) if self.member else None


def check_teacher(build: Build) -> None:
    """Refuse a teacher that is neither a member nor a network here, before any work; see `Build.outside_teacher`."""
    School.of(build, _named(build))


def teacher_of(build: Build, member: Member | None) -> tuple[Training | None, Teacher | None]:
    """Return what a training with the first seed learns from, and the training of it that comes first, if any does.

    Args:
        build: the family.
        member: to be trained; None for another network.
    """
    school = School.of(build, _named(build))
    if member and not is_taught(member, school.member):
        return None, None
    teachers = [school.member] if school.member else []
    starts = member_starts(build.config, teachers, build.base, build.store.cache)
    first = school.first(build, build.recipe, starts, 0)
    return first, as_teacher(first) or school.outside


def _named(build: Build) -> list[Member]:
    """Return the members as far as nothing has to be fitted first: their names are the same by any coefficients."""
    return plan_members(build.baseline, build.config, given_coefficients(build.config) or PAPER, build.num_classes)


def entrants(build: Build, members: Sequence[Member]) -> list[Entrant]:
    """Return the members with the trainings that the config wants of each; each seed has a teacher of its own seed."""
    starts = member_starts(build.config, members, build.base, build.store.cache)
    school, seeds = School.of(build, members), range(build.config.members.seeds)

    def on_fold(fold: Build) -> dict[str, list[Training]]:
        """Return the members' trainings on a fold; a teacher has not seen its minival either."""
        firsts = [school.first(fold, build.recipe, starts, seed) for seed in seeds]
        teachers = [as_teacher(first) or school.outside for first in firsts]

        def training(member: Member, seed: int) -> Training:
            teacher = teachers[seed] if is_taught(member, school.member) else None
            return _training(fold, build.recipe, member, seed, starts.get(member.name), teacher)

        return {member.name: [training(member, seed) for seed in seeds] for member in members}

    folds = [on_fold(fold) for fold in build.of_folds]
    return [Entrant(member, [fold[member.name] for fold in folds]) for member in members]


def as_teacher(training: Training | None) -> Teacher | None:
    """Return what learns from a training's network calls it."""
    return Teacher(run=training.folder.key, architecture=training.spec.architecture) if training else None


def trainings_of(family: Sequence[Entrant]) -> list[Training]:
    """Return all trainings of a family's members."""
    return [training for entrant in family for training in entrant.trainings]


def train_members(build: Build, family: Sequence[Entrant]) -> set[str]:
    """Train every member with every seed on every fold; return the keys of the runs that were there already.

    Those that others learn from are trained first.
    """
    every = trainings_of(family)
    reused = {training.folder.key for training in every if training.folder.result()}
    distinct = list({training.folder.key: training for training in every}.values())  # rounding may make equals
    teaching = {each.spec.teacher.run for each in distinct if each.spec.teacher}
    train(build, [training for training in distinct if training.folder.key in teaching])
    train(build, [training for training in distinct if training.folder.key not in teaching])
    return reused


def evaluate_members(
    build: Build, family: Sequence[Entrant], coefficients: Coefficients | None, reused: set[str]
) -> FamilyResult:
    """Score every training on the validation split, once, and return the family with its answer.

    With folds the answer goes by all images that are not val, each judged by a network that did not learn from it: they
    are more, and val remains for reporting.
    """
    every = trainings_of(family)
    kept = evaluate(build, every)
    again = f"; {kept} of {len(every)} trainings had been evaluated before" if kept else ""
    samples = build.manifest.samples["val"]
    build.screen.say(f"evaluated on {samples:,} held-out images{again}")
    distinct: dict[str, Entrant] = {}  # by the first run: rounding may make equals, and they count once
    for entrant in family:
        distinct.setdefault(entrant.trainings[0].folder.key, entrant)
    if build.folds:
        keep_minival_hits(build, every)
    scored = [
        Contender(each.member.name, compared_hits(each.run_folders), each.member.macs) for each in distinct.values()
    ]
    use, grown = conclude(scored, compared_samples(family[0].run_folders))
    if build.folds:
        use, grown = told_out_of_fold(use, grown, scored[0].hits.shape[1])
    pooled = scatter(each.hits.mean(1) for each in scored)
    result = FamilyResult(
        family=build.config.family,
        approvals=read_approvals(build.folder),
        key=build.key,
        dataset=build.manifest.digest,
        val_samples=samples,
        coefficients=coefficients._asdict() if coefficients else {},
        members=tuple(_member_result(build, each, family, reused, pooled) for each in family),
        answer=use,
        growth=grown,
    )
    for entrant, member in zip(family, result.members, strict=True):
        if member.out_of_fold:
            build.tracker.add_metrics(entrant.chosen.folder, {"folds_top1": member.out_of_fold.top1})
    return result


def training_name(build: Build, member: str, seed: int = 0) -> str:
    """Return what people call a training of a member on the build's dataset: B7, where there is only one of it."""
    config = build.config.members
    return numbered(member, build.fold or 1, config.folds, seed, config.seeds)


def plain_training(build: Build, member: Member, seed: int) -> Training:
    """Return a training of a member that starts from nothing and has no teacher."""
    return _training(build, build.recipe, member, seed, None)


def _training(
    build: Build, recipe: Recipe, member: Member, seed: int, start: Start | None, teacher: Teacher | None = None
) -> Training:
    """Return a training of a member on the build's dataset, by a recipe that is the same for all folds."""
    labels = {"phi": member.phi}
    if build.fold:
        labels["fold"] = build.fold
    name = training_name(build, member.name, seed)
    return build.training(
        Stage.MEMBER, name, member.architecture, recipe, labels, start=start, teacher=teacher, seed=seed
    )


def _out_of_fold(build: Build, entrant: Entrant, pooled: Scatter | None) -> OutOfFold | None:
    if not build.folds:
        return None
    hits = compared_hits(entrant.run_folders)
    found = band(hits.mean(1).tolist(), hits.shape[1], pooled)
    return OutOfFold(top1=found.mean, low=found.low, high=found.high, images=hits.shape[1])


def _teacher_name(entrant: Entrant, members: Sequence[Entrant]) -> str | None:
    """Return what people call the network that a member learnt from."""
    if (teacher := entrant.chosen.spec.teacher) is None:
        return None
    keys = {training.folder.key: each.member.name for each in members for training in each.trainings}
    return keys.get(teacher.run or "", teacher.architecture.name)


def _member_result(
    build: Build, entrant: Entrant, family: Sequence[Entrant], reused: set[str], pooled: Scatter | None
) -> MemberResult:
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
        teacher=_teacher_name(entrant, family),
        features_alone=timed.features_alone,
        features_kept=timed.features_alone is not None and not chosen.trained().best_epoch,
        reused=all(training.folder.key in reused for training in entrant.trainings),
        seeds=tuple(
            SeedResult(run_key=each.key, top1=each.top1, fold=place // build.config.members.seeds + 1)
            for place, each in enumerate(evaluations)
        ),
        out_of_fold=_out_of_fold(build, entrant, pooled),
    )
