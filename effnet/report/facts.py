"""All that is known of a family's build, read from its folder and its run folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from effnet.config import FamilyConfig
from effnet.data.shards.manifest import Manifest, load_manifest
from effnet.errors import DataError
from effnet.family import FamilyResult, MemberResult
from effnet.runs import Evaluation, RunFolder, RunResult, RunSpec, read_journal, read_value
from effnet.stages import Stage
from effnet.store import Store

CONFIG, RESULT = "config.json", "family.json"


class MemberFacts(NamedTuple):
    """A member and what its run folder says."""

    result: MemberResult
    spec: RunSpec
    run: RunResult
    evaluation: Evaluation
    curve: tuple[tuple[int, float], ...]  # (epoch, minival top-1)


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
    search: dict[str, Any] | None  # contents of search.json, study.json, fit.json
    study: dict[str, Any] | None
    fit: dict[str, Any] | None
    costs: tuple[StageCost, ...]
    folder: Path
    store: Store

    @property
    def best(self) -> MemberFacts:
        """The member with the best top-1 on the validation split; of equals the cheapest."""
        return max(self.members, key=lambda member: (member.evaluation.top1, -member.result.macs))


def load_facts(store: Store, key: str) -> Facts:
    """Read a finished build; raise DataError if something of it has gone."""
    folder = store.families / key
    family, config = read_value(FamilyResult, folder / RESULT), read_value(FamilyConfig, folder / CONFIG)
    if family is None or config is None:
        raise DataError(f"{folder}: no finished build of a family; run `effnet family` again")
    manifest = load_manifest(store.datasets / family.dataset)
    if manifest is None:
        raise DataError(f"{store.datasets / family.dataset}: the dataset has gone; run `effnet family` again")
    evidence = {name: _content(folder / f"{name}.json") for name in ("search", "study", "fit")}
    members = tuple(_member(store, result) for result in family.members)
    costs = tuple(_cost(store, key, stage, runs) for stage, runs in _runs(evidence, family).items() if runs)
    return Facts(family, config, manifest, members, **evidence, costs=costs, folder=folder, store=store)


def _content(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_bytes())  # type: ignore[no-any-return]
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path}: broken ({error}); remove it and run again") from error


def _member(store: Store, result: MemberResult) -> MemberFacts:
    folder = RunFolder(store.runs / result.run_key)
    curve = tuple((line["epoch"], line["minival_top1"]) for line in read_journal(folder.metrics_path)[0])
    return MemberFacts(result, folder.spec(), folder.trained(), folder.evaluated(), curve)


def _runs(evidence: dict[str, dict[str, Any] | None], family: FamilyResult) -> dict[Stage, set[str]]:
    """Return the keys of the runs of each stage."""
    search, study, fit = evidence["search"], evidence["study"], evidence["fit"]
    return {
        Stage.SEARCH: {row["run"] for row in [*search["trials"], *search["control"]]} if search else set(),
        Stage.STUDY: {run for rows in study["baselines"].values() for row in rows for run in row["runs"]}
        if study
        else set(),
        Stage.FIT: set(fit["runs"]) if fit else set(),
        Stage.MEMBER: {member.run_key for member in family.members},
    }


def _cost(store: Store, key: str, stage: Stage, runs: set[str]) -> StageCost:
    seconds, reused = 0.0, 0
    for run in runs:
        folder = RunFolder(store.runs / run)
        about, lines = folder.about(), read_journal(folder.metrics_path)[0]
        reused += about is not None and about.family != key
        seconds += lines[-1]["seconds"] if lines else 0.0
    return StageCost(stage.heading, len(runs), reused, seconds / 3600)
