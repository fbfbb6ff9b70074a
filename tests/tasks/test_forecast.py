"""The forecast stage, with trainings that are made up: hits by a law that is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effnet.arch.cost import count
from effnet.arch.scaling import Coefficients
from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig, ForecastConfig, StopWhen
from effnet.data.shards.manifest import Manifest
from effnet.errors import ConfigError
from effnet.family import FamilyResult, MemberResult, build_key, left_out_story, plan_members
from effnet.forecast.findings import FORECAST, ForecastFindings
from effnet.hits import keep_hits
from effnet.plan import Speed, last_found, price, price_members
from effnet.plan import planned as priced_members
from effnet.runs import RunResult, read_value
from effnet.stages import Stage
from effnet.store import Store, publish
from flows.cli.forecasts import forecast_data, show_expected
from tasks import forecast
from tasks.build import Build, Training
from tasks.fit import fitted_coefficients
from tasks.forecast import forecast_members, swept_networks, trainings_of_sweep, with_forecast, worth_training
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


def stopping(build: Build, gain_below: float) -> Build:
    members = build.config.members.model_copy(update={"stop_when": StopWhen(gain_below=gain_below)})
    return dataclasses.replace(build, config=build.config.model_copy(update={"members": members}))


def test_members_that_gain_too_little_are_not_trained_and_are_named(build: Build) -> None:
    planned = plan_members(build.baseline, build.config, COEFFICIENTS, build.num_classes)
    found = done(build)
    assert worth_training(build, planned, found) == planned  # without stop_when all are
    # B4 gains 2.6 points on B3, and all others more than 3.
    left = worth_training(stopping(build, 3.0), planned, found)
    assert [member.name for member in left] == ["B0", "B1", "B2", "B3"]
    said = build.screen.said  # type: ignore[attr-defined]
    assert said[-1].startswith("Left out by the forecast (members.stop_when): B4: expected to gain +2.")
    assert said[-1].endswith("points on the one before, below 3.")
    # What the sweep trained is there anyway, however little it gains.
    swept = {point.member for point in found.points if point.member}
    assert {member.name for member in worth_training(stopping(build, 90), planned, found)} == {"B0"} | swept


def test_a_family_has_what_was_foretold_beside_what_it_reached(build: Build) -> None:
    found = done(build)
    members = [
        MemberResult(name=name, phi=0, resolution=8, params=1, macs=1, top1=0.5, top5=1, latency_ms=1, seconds=1,
                     run_key="0" * 16, mlflow_run_id=None, reused=False)
        for name in ("B0", "B1")
    ]  # fmt: skip
    family = FamilyResult(
        family="tiny", key=build.key, dataset="0" * 16, val_samples=100, coefficients={}, members=tuple(members)
    )
    told = with_forecast(stopping(build, 3.0), family, found)
    assert [each.foretold for each in told.members] == list(found.foretold.members[:2])
    assert [each.name for each in told.left_out] == ["B4"]
    assert "B4: expected to gain" in left_out_story(told.left_out)
    ranked = with_forecast(build, family, found.model_copy(update={"epochs": 1}))
    assert [each.foretold for each in ranked.members] == [None, None]
    assert with_forecast(build, family, None) == family


def test_plan_shows_the_forecast_of_this_very_config_with_its_age(
    build: Build, config_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = build_key(build.config, build.baseline, build.manifest.digest, build.order.shuffle_shards)
    build = dataclasses.replace(build, key=key)
    found = done(build)
    base = config_path.parent
    assert last_found(ForecastFindings, FORECAST, build.config, base, build.manifest, build.store.families) == found
    other = build.config.model_copy(update={"seed": 1})
    assert last_found(ForecastFindings, FORECAST, other, base, build.manifest, build.store.families) is None
    planned = plan_members(build.baseline, build.config, COEFFICIENTS, build.num_classes)
    rows = priced_members(planned, count(build.baseline, 10), 10)
    speed = Speed(0.0, 1e-9, "", dollars_per_hour=36.0)
    prices = price_members(planned, build.config.recipe, speed, num_classes=10, images=1000)
    old = datetime.now(UTC) - timedelta(hours=2, minutes=5)
    show_expected(found.model_copy(update={"made": old.isoformat()}), rows, prices, 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("forecast of 2 h 05 min ago, from 5 costs, 0.46 to ")
    last, price = found.foretold.members[-1], prices[-1]
    assert last.gain
    assert lines[-1].split()[0] == "B4"
    assert last.told() in lines[-1]
    assert last.gain.told() in lines[-1]
    assert lines[-1].endswith(f"{2 * (price.dollars or 0):,.2f}")
    data = forecast_data(found)
    assert data is not None
    assert data["made"] == found.made
    assert data["members"][-1]["gain"]["expected"] == last.gain.expected
    assert forecast_data(None) is None


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


def test_a_forecast_without_fitted_coefficients_is_refused(build: Build) -> None:
    with pytest.raises(ConfigError, match="run `effnet fit` with this config first"):
        fitted_coefficients(build)
    given = build.config.model_copy(update={"coefficients": tuple(COEFFICIENTS)})
    assert fitted_coefficients(dataclasses.replace(build, config=given)) == COEFFICIENTS


def test_a_forecast_of_no_member_dearer_than_its_networks_is_warned_of(build: Build) -> None:
    dearer = "forecast: no member is dearer than the networks that are trained for it"
    warned: list[str] = []
    build.screen.warn = warned.append  # type: ignore[method-assign]
    small = build.config.members.model_copy(update={"phi": (0, 1)})
    done(dataclasses.replace(build, config=build.config.model_copy(update={"members": small})))
    assert any(line.startswith(dearer) for line in warned)
    warned.clear()
    short = ForecastConfig(costs=(0.5, 1, 2, 4), seeds=2)
    done(dataclasses.replace(build, config=build.config.model_copy(update={"forecast": short})))
    assert not any(line.startswith(dearer) for line in warned)
