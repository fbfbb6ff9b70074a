"""What was foretold beside what was reached, in the report, in MLflow's numbers and over a store."""

from __future__ import annotations

import html
import json
from pathlib import Path

import html5lib
import pytest

from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig
from effnet.data.shards.manifest import Manifest
from effnet.family import FamilyResult
from effnet.forecast.findings import Gain, LeftOut, Outlook
from effnet.report.facts import Facts
from effnet.report.outcomes import Outcome, calibration, forecast_figure, outcomes_in, outcomes_of
from effnet.report.page import markdown, told_calibration
from effnet.store import Store, publish
from flows.cli.forecasts import show_history
from tasks.report import family_metrics
from tests.forecast.made import made_findings
from tests.report.made import hits, made_facts, made_page
from tests.report.test_page import words

SEEN = Outlook(name="B0", macs=40_000, top1=0.94, low=0.92, high=0.96, low80=0.93, high80=0.95, times=0.25)
FAR = Outlook(
    name="B1", macs=640_000, top1=0.97, low=0.93, high=0.99, low80=0.965, high80=0.98, times=4.0,
    gain=Gain(expected=0.03, low=0.01, high=0.05),
)  # fmt: skip


@pytest.fixture
def facts(store: Store, manifest: Manifest, config: FamilyConfig, baseline: Architecture) -> Facts:
    """B0, which the sweep has seen, reached 95 %; B1, which is held out, 96 %; B2 was left out."""
    facts = made_facts(store, manifest, config, baseline, {"B0": [hits(285)], "B1": [hits(288)]})
    members = tuple(
        each.model_copy(update={"foretold": outlook})
        for each, outlook in zip(facts.family.members, (SEEN, FAR), strict=True)
    )
    left = (LeftOut(name="B2", macs=2_000_000, why="expected to gain +0.1 (-0.1 to +0.2) points, below 0.2"),)
    family = facts.family.model_copy(update={"members": members, "left_out": left})
    return facts._replace(family=family, forecast=made_findings([SEEN, FAR]), outcomes=tuple(outcomes_of(family)))


def test_the_report_has_forecast_and_outcome_of_every_member(facts: Facts) -> None:
    page = made_page(facts)
    html5lib.HTMLParser(strict=True).parse(page)
    text = html.unescape(words(page))
    assert "B0 94.0 % 92.0 to 96.0 95.0 % -1.00 within 80 % 0.25× in the sweep" in text
    assert "B1 97.0 % 93.0 to 99.0 96.0 % +1.00 +3.00 +1.00 to +5.00 within 95 % 4× held out" in text
    assert "Left out by the forecast (members.stop_when): B2: expected to gain +0.1" in text
    assert "All forecasts of this store: 1 member of 1 family, each dearer than all that was swept" in text
    assert "Foretold from 4 costs, 0.5 to 4 times the baseline's, 2 trainings each, 500 images of minival." in text
    brief = markdown(facts)
    assert "B1 97.0 (93.0 to 99.0), reached 96.0" in brief
    assert "Left out by the forecast" in brief


def test_a_family_without_a_forecast_says_nothing_of_one(facts: Facts) -> None:
    members = tuple(each.model_copy(update={"foretold": None}) for each in facts.family.members)
    family = facts.family.model_copy(update={"members": members, "left_out": ()})
    plain = facts._replace(family=family, forecast=None, outcomes=())
    assert "oretold" not in words(made_page(plain))
    assert "oretold" not in markdown(plain)
    assert not [name for name in family_metrics(plain) if name.startswith("forecast")]


def test_mlflow_has_what_was_foretold_and_what_was_reached(facts: Facts) -> None:
    found = {name: value for name, value in family_metrics(facts).items() if name.startswith("forecast/b1")}
    assert found == {
        "forecast/b1_top1": 0.97,
        "forecast/b1_low": 0.93,
        "forecast/b1_high": 0.99,
        "forecast/b1_reached": pytest.approx(0.96),
    }


def test_calibration_counts_only_what_no_sweep_has_seen(facts: Facts) -> None:
    seen, far = facts.outcomes
    assert (seen.held_out, far.held_out) == (False, True)
    assert calibration([seen]) is None
    other = far._replace(build="another", reached=0.99)  # at the very end of the interval
    outside = far._replace(build="third", reached=0.90)
    found = calibration([seen, far, other, outside])
    assert found is not None
    assert (found.members, found.families) == (3, 3)
    assert found.bias == pytest.approx((0.01 - 0.02 + 0.07) / 3)
    assert found.off == pytest.approx((0.01 + 0.02 + 0.07) / 3)
    assert (found.within80, found.within95) == (0.0, pytest.approx(2 / 3))
    assert found._replace(bias_error=None).told().startswith("3 members of 3 families")
    assert told_calibration(facts._replace(outcomes=())) == ""


def stored(store: Store, family: FamilyResult, key: str) -> None:
    folder = store.families / key
    folder.mkdir(parents=True)
    publish(folder / "family.json", family.model_copy(update={"key": key}).model_dump_json().encode())


def test_the_history_is_of_all_families_and_counts_each_training_once(
    facts: Facts, capsys: pytest.CaptureFixture[str]
) -> None:
    store, family = facts.store, facts.family
    stored(store, family, "a" * 16)
    stored(store, family, "b" * 16)  # the same trainings in a build of a config that differs elsewhere
    other = family.members[1].model_copy(update={"run_key": "9" * 16, "seeds": (), "top1": 0.5})
    stored(store, family.model_copy(update={"members": (other,)}), "c" * 16)
    (store.families / ("d" * 16)).mkdir()
    (store.families / ("d" * 16) / "family.json").write_text("{}")  # of another version
    found = outcomes_in(store)
    assert [(each.build[0], each.member) for each in found] == [("b", "B0"), ("b", "B1"), ("c", "B1")]
    show_history(store, as_json=False)
    shown = capsys.readouterr().out
    assert "outside 95 %" in shown
    assert "2 members of 2 families" in shown
    show_history(store, as_json=True)
    data = json.loads(capsys.readouterr().out)
    assert [each["reached"] for each in data["outcomes"]] == pytest.approx([0.95, 0.96, 0.5])
    assert data["calibration"]["members"] == 2


def test_a_store_without_forecasts_has_no_history(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    show_history(store, as_json=False)
    assert "no family here was foretold and then built" in capsys.readouterr().out


def test_the_figure_shows_members_that_were_reached(tmp_path: Path) -> None:
    found = made_findings([SEEN, FAR, Outlook(name="B9", macs=10**9, why="more than 64 times the largest cost swept")])
    outcome = Outcome("f", "k", "B1", FAR, 0.97, 0.93, 0.99, 0.96, held_out=True)
    before, after = tmp_path / "before.svg", tmp_path / "after.svg"
    forecast_figure(found, (), [before])
    forecast_figure(found, [outcome], [after])
    assert "reached on val" not in before.read_text()
    assert "reached on val" in after.read_text()
    assert {">B0<", ">B1<"} <= {part for part in (">B0<", ">B1<", ">B9<") if part in before.read_text()}
    assert ">B9<" not in before.read_text()
