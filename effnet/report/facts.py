"""All that is known of a family's build, read from its folder and its run folders."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from effnet.config import FamilyConfig
from effnet.data.shards.manifest import Manifest, load_manifest
from effnet.errors import DataError
from effnet.family import FamilyResult, MemberResult
from effnet.report.figures import Curve
from effnet.runs import Evaluation, RunFolder, RunResult, RunSpec, numbered, read_journal, read_value
from effnet.search.findings import FIT, SEARCH, STUDY, FitFindings, SearchFindings, StudyFindings
from effnet.stages import Stage
from effnet.store import Store

CONFIG, RESULT = "config.json", "family.json"
TOP = 5  # guesses that top-5 counts


class MemberFacts(NamedTuple):
    """A member and what its run folder says; with folds the curve is of those on the first."""

    result: MemberResult
    spec: RunSpec
    run: RunResult
    evaluation: Evaluation
    curve: Curve


class StageCost(NamedTuple):
    """What a stage took."""

    stage: str
    trainings: int
    reused: int  # of these, made by an earlier build
    hours: float  # of all trainings, one after the other


class Facts(NamedTuple):
    """A build."""

    family: FamilyResult
    config: FamilyConfig
    manifest: Manifest
    members: tuple[MemberFacts, ...]
    search: SearchFindings | None
    study: StudyFindings | None
    fit: FitFindings | None
    costs: tuple[StageCost, ...]
    folder: Path
    store: Store

    @property
    def chosen(self) -> MemberFacts:
        """The member to use, as the family's answer names it; in results of versions that gave none, the best one."""
        if answer := self.family.answer:
            return next(member for member in self.members if member.result.name == answer.member)
        return max(self.members, key=lambda member: (member.result.top1, -member.result.macs))

    @property
    def chosen_training(self) -> str:
        """What people call the training whose model is that of the member to use: B7, or B7 seed 1."""
        members, chosen = self.config.members, self.chosen
        return numbered(chosen.result.name, 1, members.folds, chosen.spec.seed - self.config.seed, members.seeds)

    @property
    def shows_top5(self) -> bool:
        """Whether there are so many classes that five guesses say something."""
        return len(self.manifest.classes) > TOP


def load_facts(store: Store, key: str) -> Facts:
    """Read a finished build; raise DataError if part of it is gone."""
    folder = store.families / key
    family, config = read_value(FamilyResult, folder / RESULT), read_value(FamilyConfig, folder / CONFIG)
    if family is None or config is None:
        raise DataError(f"{folder}: no finished build of a family; run `effnet family` again")
    manifest = load_manifest(store.datasets / family.dataset)
    if manifest is None:
        raise DataError(f"{store.datasets / family.dataset}: the dataset has gone; run `effnet family` again")
    search, study = read_value(SearchFindings, folder / SEARCH), read_value(StudyFindings, folder / STUDY)
    fit = read_value(FitFindings, folder / FIT)
    members = tuple(_member(store, result) for result in family.members)
    costs = tuple(_cost(store, key, stage, runs) for stage, runs in stage_runs(folder, family).items() if runs)
    return Facts(family, config, manifest, members, search, study, fit, costs, folder, store)


def _member(store: Store, result: MemberResult) -> MemberFacts:
    folder = RunFolder(store.runs / result.run_key)
    run = folder.trained()
    curve = Curve(tuple(curve_of(RunFolder(store.runs / key)) for key in result.folds[0]), run.best_epoch)
    return MemberFacts(result, folder.spec(), run, folder.evaluated(), curve)


def curve_of(folder: RunFolder) -> tuple[tuple[int, float], ...]:
    """Return (epoch, minival top-1) of a training; epoch 0 is its features alone, where it started from weights."""
    probe = folder.probe()
    start = [(0, probe.top1)] if probe else []
    lines = read_journal(folder.metrics_path)[0]
    return (*start, *((int(line["epoch"]), float(line["minival_top1"])) for line in lines))


def stage_runs(folder: Path, family: FamilyResult) -> dict[Stage, set[str]]:
    """Return the keys of the runs of each stage of a build, whose folder holds what its stages found."""
    search, study = read_value(SearchFindings, folder / SEARCH), read_value(StudyFindings, folder / STUDY)
    fit = read_value(FitFindings, folder / FIT)
    networks = [network for found in study.baselines.values() for network in found] if study else []
    return {
        Stage.SEARCH: {trial.run for trial in (*search.trials, *search.control)} if search else set(),
        Stage.STUDY: {run for network in networks for run in network.runs},
        Stage.FIT: set(fit.runs) if fit else set(),
        Stage.MEMBER: {run for member in family.members for run in member.runs},
    }


def _cost(store: Store, key: str, stage: Stage, runs: set[str]) -> StageCost:
    seconds, reused = 0.0, 0
    for run in runs:
        folder = RunFolder(store.runs / run)
        about, lines = folder.about(), read_journal(folder.metrics_path)[0]
        reused += about is not None and about.family != key
        seconds += lines[-1]["seconds"] if lines else 0.0
    return StageCost(stage.heading, len(runs), reused, seconds / 3600)
