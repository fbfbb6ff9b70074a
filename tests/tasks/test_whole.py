"""How far a whole family is, and how long the rest takes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from effnet.plan import StagePrice, Work
from effnet.stages import Stage
from tasks import whole
from tasks.whole import FamilyProgress, Whole, families_under_way, weight

UNIT = weight(Work(images=1.0, macs=5.0, activations=100.0))


def planned(**trainings: float) -> list[StagePrice]:
    work = Work(images=1.0, macs=5.0, activations=100.0)
    return [StagePrice(name, 1, work.times(number), work) for name, number in trainings.items()]


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return time.time()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(whole, "time", clock)
    return clock


@pytest.fixture
def family(tmp_path: Path, clock: Clock) -> Whole:
    assert clock.now  # time stands still from the beginning
    family = Whole("tiny", tmp_path / "build" / whole.PROGRESS)
    family.expect(planned(fit=4, members=12))
    return family


def test_the_rest_takes_as_long_for_its_work_as_what_is_done(family: Whole, clock: Clock) -> None:
    family.begin(Stage.FIT, {"a": 0.0, "b": 0.0})
    assert family.look(Stage.FIT, {"a": 0.0, "b": 0.0}).seconds_left is None  # too early
    clock.now += 20
    found = family.look(Stage.FIT, {"a": 1 * UNIT, "b": 1 * UNIT})
    assert found.share == pytest.approx(2 / 16)
    assert found.seconds_left == pytest.approx(140)
    assert found.told() == "12% about 2 min 20 s left"
    clock.now += 20
    family.look(Stage.FIT, {"a": 1 * UNIT, "b": 2 * UNIT})  # it ended with less than was planned
    family.begin(Stage.MEMBER, {"c": 0.0})
    found = family.look(Stage.MEMBER, {"c": 0.0})
    assert found.share == pytest.approx(3 / 15)
    assert found.seconds_left == pytest.approx(40 / 3 * 12)


def test_what_others_did_is_done_but_says_nothing_about_this_machine(family: Whole, clock: Clock) -> None:
    family.begin(Stage.FIT, {"a": 4 * UNIT})
    family.look(Stage.FIT, {"a": 4 * UNIT})
    family.begin(Stage.MEMBER, {"c": 3 * UNIT, "d": 0.0})
    clock.now += 10
    found = family.look(Stage.MEMBER, {"c": 3 * UNIT, "d": 1 * UNIT})
    assert found.share == pytest.approx(8 / 16)
    assert found.seconds_left == pytest.approx(80)


def test_a_part_of_a_stage_does_not_count_twice(family: Whole, clock: Clock) -> None:
    family.begin(Stage.FIT, {"a": 0.0, "b": 0.0})
    clock.now += 20
    family.look(Stage.FIT, {"a": 1 * UNIT, "b": 1 * UNIT})
    family.begin(Stage.FIT, {"b": 1 * UNIT})  # the next rung, with the better one
    found = family.look(Stage.FIT, {"b": 1 * UNIT})
    assert found.share == pytest.approx(2 / 16)
    assert found.seconds_left == pytest.approx(140)


def test_waiting_for_a_person_is_no_work(family: Whole, clock: Clock) -> None:
    family.begin(Stage.FIT, {"a": 0.0})
    clock.now += 20
    family.look(Stage.FIT, {"a": 4 * UNIT})
    clock.now += 10_000  # asked before the members
    family.begin(Stage.MEMBER, {"c": 0.0})
    assert family.look(Stage.MEMBER, {"c": 0.0}).seconds_left == pytest.approx(60)


def test_what_coefficients_change_in_the_plan_is_taken_over(family: Whole, clock: Clock) -> None:
    family.begin(Stage.FIT, {"a": 0.0})
    clock.now += 10
    family.look(Stage.FIT, {"a": 4 * UNIT})
    family.expect(planned(fit=9, members=6))
    family.begin(Stage.MEMBER, {"c": 0.0})
    assert family.look(Stage.MEMBER, {"c": 0.0}).share == pytest.approx(4 / 10)


def test_other_processes_see_builds_that_are_under_way(family: Whole, clock: Clock, tmp_path: Path) -> None:
    family.begin(Stage.FIT, {"a": 0.0})
    clock.now += 20
    family.look(Stage.FIT, {"a": 4 * UNIT})
    assert families_under_way(tmp_path) == [FamilyProgress(family="tiny", share=0.25, seconds_left=60.0)]
    before = time.time() - whole.SILENT_SECONDS - 1
    os.utime(family.path, (before, before))
    assert families_under_way(tmp_path) == []
    family.path.write_text("{")  # by another version, or cut short
    assert families_under_way(tmp_path) == []
    family.end()
    assert not family.path.exists()
