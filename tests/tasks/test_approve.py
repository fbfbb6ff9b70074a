"""What a stage is asked for at, and who is asked."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from effnet.approval import Forecast, amount, read_approvals
from effnet.arch.spec import Architecture
from effnet.config import ApproveAbove, FamilyConfig
from effnet.data.shards.manifest import Manifest
from effnet.errors import ApprovalError, ConfigError
from effnet.family import Member, plan_members
from effnet.forecast.findings import Gain, Outlook
from effnet.plan import Speed
from effnet.stages import Stage
from effnet.store import Store
from tasks import approve
from tasks.build import Build, Training
from tasks.members import Entrant, entrants, trainings_of
from tasks.records.tracking import store_tracker
from tasks.terminal.screen import Screen
from tests.forecast.made import made_findings
from tests.tiny import TRAIN

HOURS = 1e-10  # of the speed below, for a multiply-add


class Person(Screen):
    """A terminal at which somebody answers; without answers there is none."""

    def __init__(self, *answers: bool) -> None:
        super().__init__()
        self.answers, self.asked, self.said = list(answers), list[str](), list[str]()

    @property
    def can_ask(self) -> bool:
        return bool(self.answers)

    def ask(self, question: str) -> bool:
        self.asked.append(question)
        return self.answers.pop(0)

    def say(self, line: str, style: str = "") -> None:  # noqa: ARG002
        self.said.append(line)


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine, as if it had been measured: only multiply-adds count."""
    speed = Speed(0.0, 3600 * HOURS, "this machine")
    monkeypatch.setattr(approve, "_measured", lambda _build, _networks: speed)


def build_of(
    store: Store, config: FamilyConfig, baseline: Architecture, manifest: Manifest, person: Person, **limit: Any
) -> Build:
    limited = config.model_copy(update={"approve_above": ApproveAbove(**limit), "coefficients": (1.2, 1.1, 1.15)})
    return Build(limited, baseline, manifest, store, store_tracker(store, "tiny", print), person, key="f" * 16)


def members_of(build: Build) -> list[Entrant]:
    from effnet.config import given_coefficients

    members: list[Member] = plan_members(build.baseline, build.config, given_coefficients(build.config), 10)
    return entrants(build, members)


def hours(trainings: list[Training]) -> float:
    return sum(each.cost.macs * each.epochs * TRAIN for each in {t.folder.key: t for t in trainings}.values()) * HOURS


@pytest.mark.usefixtures("speed")
def test_members_are_asked_for_above_the_limit_and_not_at_it(
    store: Store, config: FamilyConfig, baseline: Architecture, manifest: Manifest
) -> None:
    person = Person(True)
    every = trainings_of(members_of(build_of(store, config, baseline, manifest, person, gpu_hours=1.0)))
    exact = hours(every)
    build = build_of(store, config, baseline, manifest, person, gpu_hours=exact * 1.001)
    approve.ask_before_trainings(build, Stage.MEMBER, every)
    assert person.asked == []
    build = build_of(store, config, baseline, manifest, person, gpu_hours=exact * 0.999)
    approve.ask_before_trainings(build, Stage.MEMBER, every)
    assert person.asked == ["Begin members?"]
    (kept,) = read_approvals(build.folder)
    assert (kept.stage, kept.trainings, kept.how) == ("members", 3, "at the terminal")
    assert kept.gpu_hours == pytest.approx(exact)
    approve.ask_before_trainings(build, Stage.MEMBER, every)  # what was approved is not asked for again
    assert person.asked == ["Begin members?"]


@pytest.mark.usefixtures("speed")
def test_before_members_are_begun_a_line_says_what_each_gains_for_its_hours(
    store: Store, config: FamilyConfig, baseline: Architecture, manifest: Manifest
) -> None:
    person = Person(True)
    build = build_of(store, config, baseline, manifest, person, gpu_hours=1e-12)
    family = members_of(build)
    gain = Gain(expected=0.003, low=-0.001, high=0.007)
    outlooks = (
        Outlook(name="B0", macs=1, top1=0.9, low=0.88, high=0.91, low80=0.89, high80=0.905),
        Outlook(name="B1", macs=2, top1=0.903, low=0.88, high=0.92, low80=0.89, high80=0.91, gain=gain),
        Outlook(name="B2", macs=3, why="no law found"),
    )
    found = made_findings(outlooks)
    approve.ask_before_trainings(build, Stage.MEMBER, trainings_of(family), found)
    spent = [amount(hours(trainings_of([each]))) for each in family]
    assert person.said[:3] == [
        f"B0: top-1 90.0 (88.0 to 91.0) for {spent[0]} hours",
        f"B1: +0.3 ± 0.4 points for {spent[1]} hours",
        f"B2: no forecast (no law found) for {spent[2]} hours",
    ]
    price = Forecast("members", 3, 310, "GPU-hours", None, "a card", "")
    card = approve._card("tiny", price, "1 hours", person.said[:2])
    assert "Expected (95 %):" in card
    assert f"* {person.said[1]}" in card
    assert "Expected" not in approve._card("tiny", price, "1 hours")


@pytest.mark.usefixtures("speed")
def test_a_teachers_work_is_priced(
    store: Store, config: FamilyConfig, baseline: Architecture, manifest: Manifest
) -> None:
    found = []
    for teacher in (None, "largest"):
        recipe = config.recipe.model_copy(update={"teacher": teacher})
        person = Person(True)
        taught = config.model_copy(update={"recipe": recipe})
        build = build_of(store, taught, baseline, manifest, person, gpu_hours=1e-12)
        build = dataclasses.replace(build, key=str(len(found)) * 16)
        approve.ask_before_trainings(build, Stage.MEMBER, trainings_of(members_of(build)))
        (kept,) = read_approvals(build.folder)
        found.append(kept.gpu_hours)
    assert found[1] > 1.1 * found[0]


@pytest.mark.usefixtures("speed")
@pytest.mark.parametrize(("answers", "told"), [((False,), "not approved"), ((), "with --approve to go on")])
def test_a_no_and_nobody_there_end_it(
    answers: tuple[bool, ...], told: str,
    store: Store, config: FamilyConfig, baseline: Architecture, manifest: Manifest,
) -> None:  # fmt: skip
    build = build_of(store, config, baseline, manifest, Person(*answers), gpu_hours=1e-12)
    with pytest.raises(ApprovalError, match=told):
        approve.ask_before_trainings(build, Stage.MEMBER, trainings_of(members_of(build)))
    assert read_approvals(build.folder) == ()


@pytest.mark.usefixtures("speed")
def test_the_grid_is_asked_for_by_its_own_price(
    store: Store, config: FamilyConfig, baseline: Architecture, manifest: Manifest
) -> None:
    person = Person(True)
    build = build_of(store, config, baseline, manifest, person, gpu_hours=1e-12)
    approve.ask_before(build, Stage.FIT)  # the config has coefficients: there is no grid
    assert person.asked == []
    config = build.config.model_copy(update={"coefficients": None})
    build = Build(config, baseline, manifest, store, build.tracker, person, key="f" * 16)
    approve.ask_before(build, Stage.FIT)
    assert person.asked == ["Begin fit?"]


@pytest.mark.usefixtures("speed")
def test_dollars_need_a_device_with_a_price(
    store: Store, config: FamilyConfig, baseline: Architecture, manifest: Manifest
) -> None:
    build = build_of(store, config, baseline, manifest, Person(True), dollars=100.0)
    with pytest.raises(ConfigError, match="nobody knows what this machine costs; name a device with a price"):
        approve.ask_before_trainings(build, Stage.MEMBER, trainings_of(members_of(build)))
    person = Person(True)
    build = build_of(store, config, baseline, manifest, person, dollars=1e-9, device="l4")
    approve.ask_before_trainings(build, Stage.MEMBER, trainings_of(members_of(build)))
    (kept,) = read_approvals(build.folder)
    assert kept.dollars is not None
    assert kept.device.startswith("L4")
    assert "dollars" in person.said[0]
    approve.ask_before_trainings(build, Stage.MEMBER, trainings_of(members_of(build)))
    assert len(person.asked) == 1  # at the same price it is not asked for again
