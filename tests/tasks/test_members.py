"""Members on folds: each image outside of val is judged once, by a network that did not learn from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from effnet.arch.scaling import Coefficients
from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig
from effnet.data.shards.write import write_shards
from effnet.errors import ConfigError
from effnet.family import FamilyResult, folds_scores, folds_story, plan_members
from effnet.hits import compared_hits, run_hits
from effnet.order import Order
from effnet.runs import RunFolder
from effnet.statistics import difference, scatter, wilson_interval
from effnet.store import Store
from flows.cli import choose
from tasks import members, trainings
from tasks.build import Build
from tasks.members import Entrant, check_teacher, entrants, evaluate_members, train_members
from tasks.records.tracking import Tracker
from tasks.terminal.screen import Screen
from tests.tiny import MINIVAL, TRAIN

COEFFICIENTS = Coefficients(1.2, 1.1, 1.1)


class Records:
    """Takes what MLflow would get."""

    def __init__(self) -> None:
        self.metrics: dict[str, dict[str, float]] = {}

    def add_metrics(self, folder: RunFolder, metrics: dict[str, float]) -> None:
        self.metrics[folder.key] = metrics

    def run_id(self, _key: str) -> None:
        return None

    def __getattr__(self, _name: str) -> object:
        return lambda *_: None


class Folded(SimpleNamespace):
    """A family of two members, trained with two seeds on two folds."""

    build: Build
    family: list[Entrant]
    result: FamilyResult
    records: Records


@pytest.fixture(scope="module")
def folded(config: FamilyConfig, baseline: Architecture, tmp_path_factory: pytest.TempPathFactory) -> Folded:
    given = config.model_dump(mode="json")
    given["members"] |= {"phi": [0, 1], "folds": 2, "seeds": 2}
    given["recipe"] |= {"epochs": 1}
    wanted = FamilyConfig.parse(given, "f.yaml")
    store, records = Store(tmp_path_factory.mktemp("folded")), Records()
    store.prepare()
    manifests = [write_shards(data, store.datasets)[0] for data in wanted.fold_data]
    tracker = cast(Tracker, records)
    build = Build(wanted, baseline, manifests[0], store, tracker, Screen(), Path(), "f" * 16, folds=manifests)
    family = entrants(build, plan_members(baseline, wanted, COEFFICIENTS, 10))
    reused = train_members(build, family)
    return Folded(
        build=build, family=family, result=evaluate_members(build, family, COEFFICIENTS, reused), records=records
    )


def test_each_member_has_a_run_for_each_fold_and_seed(folded: Folded) -> None:
    for entrant in folded.family:
        assert [[training.spec.dataset for training in fold] for fold in entrant.folds] == [
            [manifest.digest] * 2 for manifest in folded.build.folds
        ]
        assert [[training.spec.seed for training in fold] for fold in entrant.folds] == [[0, 1]] * 2
        assert len({training.folder.key for training in entrant.trainings}) == 4
        assert len({training.spec.recipe for training in entrant.trainings}) == 1
    names = [training.name for training in folded.family[1].trainings]
    assert names == ["B1 fold 1 seed 0", "B1 fold 1 seed 1", "B1 fold 2 seed 0", "B1 fold 2 seed 1"]
    assert [training.about.labels["fold"] for training in folded.family[1].trainings] == [1, 1, 2, 2]


def test_out_of_fold_is_of_all_images_that_are_not_val(folded: Folded) -> None:
    samples = folded.build.manifest.samples
    for entrant, member in zip(folded.family, folded.result.members, strict=True):
        assert member.out_of_fold is not None
        assert member.out_of_fold.images == samples["train"] + samples["minival"] == TRAIN + MINIVAL
        by_fold = [np.mean([training.folder.trained().top1 for training in fold]) for fold in entrant.folds]
        assert member.out_of_fold.top1 == pytest.approx(float(np.mean(by_fold)))  # both of as many images
        low, high = wilson_interval(member.out_of_fold.top1, TRAIN + MINIVAL)
        assert member.out_of_fold.low < low < high < member.out_of_fold.high  # with what seeds add
        assert member.folds == [[training.folder.key for training in fold] for fold in entrant.folds]
        assert [each.fold for each in member.seeds] == [1, 1, 2, 2]
        val = [run_hits(training.folder, "val") for training in entrant.trainings]
        assert member.top1 == pytest.approx(float(np.mean(np.stack([hits for hits in val if hits is not None]))))


def test_a_members_model_is_the_first_folds_best_seed_and_has_the_metric(folded: Folded) -> None:
    for entrant, member in zip(folded.family, folded.result.members, strict=True):
        first = entrant.folds[0]
        assert member.run_key == max(first, key=lambda training: training.folder.trained().top1).folder.key
        assert member.out_of_fold is not None
        assert folded.records.metrics[member.run_key] == {"folds_top1": member.out_of_fold.top1}
    assert len(folded.records.metrics) == 2


def test_members_are_compared_out_of_fold(folded: Folded) -> None:
    hits = [compared_hits(entrant.run_folders) for entrant in folded.family]
    assert [each.shape for each in hits] == [(2, TRAIN + MINIVAL)] * 2
    found, growth = difference(hits[1], hits[0], scatter(each.mean(1) for each in hits)), folded.result.growth
    assert growth is not None
    assert (growth.lead, growth.noise) == (found.lead, found.noise)
    answer = folded.result.answer
    assert answer is not None
    for told in (answer.because, growth.told):
        assert told.endswith("; top-1 here is out of fold, of 1,440 images")
    scores = [member.out_of_fold for member in folded.result.members]
    first = scores[0]
    assert first is not None
    assert folds_scores(folded.result.members).startswith(
        f"Out of fold: B0 {first.top1:.1%} ({100 * first.low:.1f} to {100 * first.high:.1f}), B1 "
    )
    assert "the one of 2 networks that did not learn from it" in folds_story(folded.result.members)
    assert FamilyResult.model_validate_json(folded.result.model_dump_json(), strict=True) == folded.result


def test_again_nothing_is_trained(folded: Folded, monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[object] = []
    monkeypatch.setattr(trainings, "carry_out", lambda given, *_: orders.extend(given))
    monkeypatch.setattr(trainings, "_measure_again", lambda *_: None)
    family = entrants(folded.build, [entrant.member for entrant in folded.family])
    reused = train_members(folded.build, family)
    again = evaluate_members(folded.build, family, COEFFICIENTS, reused)
    assert not orders
    assert len(reused) == 8
    assert [member.out_of_fold for member in again.members] == [member.out_of_fold for member in folded.result.members]


def test_a_latency_that_the_other_evaluations_disturbed_is_measured_again_at_once(
    folded: Folded, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folded.family[0].trainings[0].folder.evaluation_path
    evaluated, actions = path.read_text(), []

    def carry_out(orders: Sequence[Order], *_: object) -> None:
        actions.extend(order.action for order in orders)
        found = json.loads(evaluated)
        found["latency"] |= {"quiet": False, "tries": 1}
        path.write_text(json.dumps(found))

    monkeypatch.setattr(trainings, "carry_out", carry_out)
    path.unlink()
    try:
        trainings.evaluate(folded.build, folded.family[0].trainings[:1])
    finally:
        path.write_text(evaluated)
    assert actions == ["evaluate", "latency"]


def test_without_folds_members_are_compared_on_val(folded: Folded, monkeypatch: pytest.MonkeyPatch) -> None:
    build = dataclasses.replace(folded.build, folds=())
    monkeypatch.setattr(members, "keep_minival_hits", None)  # not called
    family = [Entrant(entrant.member, entrant.folds[:1]) for entrant in folded.family]
    result = evaluate_members(build, family, COEFFICIENTS, set())
    assert [member.out_of_fold for member in result.members] == [None, None]
    hits = [np.stack([run_hits(each.folder, "val") for each in entrant.trainings]) for entrant in family]
    assert result.growth is not None
    assert result.growth.lead == pytest.approx(float(hits[1].mean() - hits[0].mean()))
    assert result.answer is not None
    assert "out of fold" not in result.answer.because + result.growth.told
    assert folds_scores(result.members) == folds_story(result.members) == ""


def test_on_each_fold_members_learn_from_a_teacher_that_has_not_seen_its_minival(folded: Folded) -> None:
    config = folded.build.config
    taught = config.model_copy(update={"recipe": config.recipe.model_copy(update={"teacher": "largest"})})
    small, large = entrants(
        dataclasses.replace(folded.build, config=taught), [entrant.member for entrant in folded.family]
    )
    assert [key.folder.key for key in large.trainings] == [key.folder.key for key in folded.family[1].trainings]
    teachers = [training.spec.teacher and training.spec.teacher.run for training in small.trainings]
    assert teachers == [training.folder.key for training in large.trainings]


def test_effnet_choose_says_what_the_build_said(folded: Folded) -> None:
    assert choose._answer(folded.result.members, folded.build.store) == folded.result.answer


def test_on_folds_only_a_member_may_teach(folded: Folded) -> None:
    config = folded.build.config
    run = folded.family[1].trainings[0].folder.key  # it learnt from the minival of the second fold
    taught = config.model_copy(update={"recipe": config.recipe.model_copy(update={"teacher": run})})
    with pytest.raises(ConfigError, match=f"^recipe.teacher: {run} may have learnt from what members are judged on"):
        check_teacher(dataclasses.replace(folded.build, config=taught))
