"""All that is known of a family's build, read from its folder and its run folders."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from effnet.config import FamilyConfig
from effnet.data.shards.manifest import Manifest, load_manifest
from effnet.errors import DataError
from effnet.family import RESULT, FamilyResult, MemberResult
from effnet.forecast.findings import FORECAST, ForecastFindings
from effnet.report.costs import StageCost, read_costs
from effnet.report.figures import Curve
from effnet.report.outcomes import Outcome, outcomes_in
from effnet.runs import Evaluation, RunFolder, RunResult, RunSpec, numbered, read_journal, read_value
from effnet.search.findings import FIT, SEARCH, STUDY, FitFindings, SearchFindings, StudyFindings
from effnet.store import Store

CONFIG = "config.json"
TOP = 5  # guesses that top-5 counts


class MemberFacts(NamedTuple):
    """A member and what its run folder says; with folds the curve is of those on the first."""

    result: MemberResult
    spec: RunSpec
    run: RunResult
    evaluation: Evaluation
    curve: Curve


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
    forecast: ForecastFindings | None = None
    outcomes: tuple[Outcome, ...] = ()  # of all forecasts of the store

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
    costs = read_costs(store, family)
    forecast = read_value(ForecastFindings, folder / FORECAST)
    outcomes = tuple(outcomes_in(store)) if forecast else ()
    return Facts(family, config, manifest, members, search, study, fit, costs, folder, store, forecast, outcomes)


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
