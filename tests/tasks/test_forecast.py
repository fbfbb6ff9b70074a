"""The forecast stage, with trainings that are made up: hits by a law that is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from effnet.arch.scaling import Coefficients
from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig, ForecastConfig
from effnet.data.shards.manifest import Manifest
from effnet.errors import ConfigError
from effnet.family import plan_members
from effnet.forecast.findings import FORECAST, ForecastFindings
from effnet.hits import keep_hits
from effnet.plan import price
from effnet.runs import RunResult, read_value
from effnet.stages import Stage
from effnet.store import Store, publish
from tasks import forecast
from tasks.build import Build, Training
from tasks.forecast import forecast_members, swept_networks, trainings_of_sweep
from tasks.members import entrants, trainings_of
from tasks.records.tracking import store_tracker
from tasks.terminal.screen import Screen

COEFFICIENTS = Coefficients(1.2, 1.1, 1.15)
IMAGES = 20_000  # of a minival that is made up


class Said(Screen):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, line: str, style: str = "") -> None:  # noqa: ARG002
        self.said.append(line)


def made_up(_build: Build, trainings: Sequence[Training], **_: Any) -> None:
    """Finish trainings: the easiest images are right, fewer of them in small networks."""
    for training in trainings:
        training.folder.describe(training.about)
        macs, seed = training.cost.macs, training.spec.seed
        share = 1 - (0.05 + 0.2 * (macs / 40_000) ** -0.5) + 0.001 * (-1) ** seed
        hard = np.random.default_rng(seed + 10 * macs).normal(np.linspace(-1, 1, IMAGES), 0.1)
        hits = hard < np.quantile(hard, share)
        result = RunResult(
            key=training.folder.key, top1=float(hits.mean()), top5=1.0, loss=0.1, best_epoch=1, epochs=1, steps=33,
            params=1, macs=macs, seconds=1.0, weights_sha256="0" * 64, environment={},
        )  # fmt: skip
        publish(training.folder.result_path, result.model_dump_json().encode())
        keep_hits(training.folder.hits_path, training.spec.dataset, "0" * 64, "minival", hits)


@pytest.fixture
def build(
    store: Store, config: FamilyConfig, baseline: Architecture, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> Build:
    monkeypatch.setattr(forecast, "train", made_up)
    monkeypatch.setattr(forecast, "keep_minival_hits", lambda *_: None)
    members = config.members.model_copy(update={"phi": (0, 1, 3, 5, 7), "seeds": 1})
    wanted = config.model_copy(
        update={"forecast": ForecastConfig(costs=(0.5, 1, 2, 3, 4, 8), seeds=2), "members": members}
    )
    return Build(wanted, baseline, manifest, store, store_tracker(store, "tiny", print), Said(), key="f" * 16)


def done(build: Build) -> ForecastFindings:
    swept = swept_networks(build, COEFFICIENTS)
    return forecast_members.fn(build, swept, COEFFICIENTS)


def test_members_are_foretold_from_small_networks_on_minival(build: Build) -> None:
    found = done(build)
    assert found.foretold.verdict == "law"
    planned = plan_members(build.baseline, build.config, COEFFICIENTS, build.num_classes)
    assert [each.name for each in found.foretold.members] == [member.name for member in planned]
    for member, each in zip(planned, found.foretold.members, strict=True):
        assert each.top1 == pytest.approx(1 - 0.05 - 0.2 * (member.macs / 40_000) ** -0.5, abs=0.01)
    assert found.images == IMAGES
    assert found.val_images == build.manifest.samples["val"]
    assert found.prior == (0.5, 0.2)
    assert read_value(ForecastFindings, build.folder / FORECAST) == found
    assert all(len(point.top1) == len(point.runs) == 2 for point in found.points)
    said = build.screen.said  # type: ignore[attr-defined]
    assert any(line.startswith("forecast from 5 costs, 0.46 to ") for line in said)
    assert any(line.startswith("forecast B4: top-1 ") and "points on the one before" in line for line in said)


def test_what_is_a_member_as_well_is_the_members_own_training(build: Build) -> None:
    swept = swept_networks(build, COEFFICIENTS)
    planned = plan_members(build.baseline, build.config, COEFFICIENTS, build.num_classes)
    own = {training.folder.key: training.about for training in trainings_of(entrants(build, planned))}
    shared = [each for each in swept if each.point.member]
    assert len(shared) >= 2
    for each in shared:
        first, second = each.trainings
        assert own[first.folder.key] == first.about  # its name and stage are the member's, whoever trains it first
        assert second.folder.key not in own  # members have one seed here
        assert second.about.kind is Stage.FORECAST


def test_trainings_of_another_length_are_no_members_and_only_rank(build: Build) -> None:
    short = build.config.model_copy(update={"forecast": ForecastConfig(costs=(0.5, 1, 2, 4), seeds=2, epochs=1)})
    changed = dataclasses.replace(build, config=short)
    assert {each.about.kind for each in trainings_of_sweep(swept_networks(changed, COEFFICIENTS))} == {Stage.FORECAST}
    found = done(changed)
    assert found.ranks_only
    assert found.caution in " ".join(build.screen.said)  # type: ignore[attr-defined]
    assert "1 epochs where members have 3" in found.source()


def test_a_forecast_that_is_made_again_and_says_the_same_keeps_its_age(build: Build) -> None:
    first = done(build)
    old = first.model_copy(update={"made": "2020-01-01T00:00:00+00:00"})
    publish(build.folder / FORECAST, old.model_dump_json().encode())
    assert done(build).made == old.made
    other = old.model_copy(update={"images": 5})
    publish(build.folder / FORECAST, other.model_dump_json().encode())
    assert done(build).made > old.made


def test_members_with_a_teacher_or_weights_of_their_own_are_not_foretold(build: Build) -> None:
    recipe = build.config.recipe.model_copy(update={"teacher": "largest"})
    taught = build.config.model_copy(update={"recipe": recipe})
    with pytest.raises(ConfigError, match="forecast knows nothing of teachers"):
        swept_networks(dataclasses.replace(build, config=taught), COEFFICIENTS)


def test_a_forecasts_price_leaves_out_what_members_train_anyway(build: Build) -> None:
    planned = plan_members(build.baseline, build.config, COEFFICIENTS, build.num_classes)
    wanted = {"num_classes": build.num_classes, "images": 1000}
    stages = {each.stage: each for each in price(build.config, build.baseline, COEFFICIENTS, planned, **wanted)}
    swept = swept_networks(build, COEFFICIENTS)
    own = {training.folder.key for training in trainings_of(entrants(build, planned))}
    left = [each for each in trainings_of_sweep(swept) if each.folder.key not in own]
    assert stages["forecast"].trainings == len(left)
    assert stages["forecast"].work.macs == pytest.approx(sum(each.cost.macs * each.epochs * 1000 for each in left))
    assert stages["forecast"].note.endswith("among its networks, and counted as members")
    without = build.config.model_copy(update={"forecast": None})
    assert "forecast" not in {each.stage for each in price(without, build.baseline, COEFFICIENTS, planned, **wanted)}
