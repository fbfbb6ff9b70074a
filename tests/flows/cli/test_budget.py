"""`effnet plan --budget`: which members it allows."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from effnet.arch.scaling import PAPER
from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig
from effnet.errors import ConfigError
from effnet.family import plan_members
from effnet.forecast.findings import Outlook
from effnet.plan import MemberPrice
from flows.cli.budget import Limit, LimitType, Picked, pick, show_picked, spending
from tests.forecast.made import made_findings
from tests.tiny import CONFIG, run_effnet, write_tiny

SPENT = [("B0", 1.0), ("B1", 2.0), ("B2", 4.0)]


def test_members_are_taken_from_the_cheapest_up_until_one_is_too_much() -> None:
    assert pick(Limit(3.0, "gpuh"), SPENT) == Picked(("B0", "B1"), ("B2",), 3.0, 7.0)
    assert pick(Limit(7.0, "usd"), SPENT) == Picked(("B0", "B1", "B2"), (), 7.0, None)
    assert pick(Limit(0.5, "gpuh"), SPENT) == Picked((), ("B0", "B1", "B2"), 0.0, 1.0)
    assert pick(Limit(3.0, "ms"), SPENT) == Picked(("B0", "B1"), ("B2",), 2.0, 4.0)  # each by itself, not all together


@pytest.mark.parametrize(
    ("text", "limit"), [("50gpuh", Limit(50, "gpuh")), ("200 usd", Limit(200, "usd")), ("2.5ms", Limit(2.5, "ms"))]
)
def test_budgets_as_people_write_them(text: str, limit: Limit) -> None:
    assert LimitType().convert(text, None, None) == limit


@pytest.mark.parametrize("text", ["50", "gpuh", "0usd", "-5ms", "1.2.3ms", "5 euros"])
def test_anything_else_is_told_how_to_write_it(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 50gpuh, 200usd or 5ms"):
        LimitType().convert(text, None, None)


def test_each_member_spends_what_all_its_trainings_do(config: FamilyConfig, baseline: Architecture) -> None:
    members = plan_members(baseline, config, PAPER, 10)
    prices = [MemberPrice(member.name, 2.0, 3.0, None, None) for member in members]
    assert spending(Limit(1, "gpuh"), members, prices, 2, 10) == [("B0", 4.0), ("B1", 4.0), ("B2", 4.0)]
    assert spending(Limit(1, "usd"), members, prices, 2, 10) == [("B0", 6.0), ("B1", 6.0), ("B2", 6.0)]
    times = spending(Limit(1, "ms"), members, [], 2, 10)
    assert [name for name, _ in times] == ["B0", "B1", "B2"]
    assert all(0 < time < 1000 for _, time in times)
    with pytest.raises(ConfigError, match="nobody knows how long a training takes"):
        spending(Limit(1, "gpuh"), members, [], 2, 10)
    with pytest.raises(ConfigError, match="name one with a price"):
        spending(Limit(1, "usd"), members, [each._replace(dollars=None) for each in prices], 2, 10)


def test_what_is_picked_is_shown_with_what_it_is_expected_to_reach(capsys: pytest.CaptureFixture[str]) -> None:
    outlook = Outlook(name="B1", macs=2, top1=0.9, low=0.88, high=0.91, low80=0.89, high80=0.905)
    show_picked(Limit(3, "gpuh"), pick(Limit(3, "gpuh"), SPENT), made_findings([outlook]))
    assert capsys.readouterr().out.splitlines() == [
        "",
        "within 3 hours of training: B0, B1 (3); with B2 it would be 7",
        "B1 is expected to reach 90.0 (88.0 to 91.0) % top-1",
        "to take these alone, leave B2 out of the config's members",
    ]
    show_picked(Limit(0.1, "ms"), pick(Limit(0.1, "ms"), SPENT), None)
    assert capsys.readouterr().out == "\nwithin 0.1 milliseconds for one image: no member; B0 takes 1\n"


def test_plan_picks_members_for_a_device(tmp_path: Path) -> None:
    write_tiny(tmp_path, CONFIG + "coefficients: [1.2, 1.1, 1.15]\n")
    given = ("--images", "1000000", "--num-classes", "10", "--device", "a100-80")
    plan = run_effnet("plan", "tiny.yaml", *given, "--json", cwd=tmp_path)
    hours = [price["hours"] for price in json.loads(plan.stdout)["prices"]]
    budget = f"{hours[0] + 1.01 * hours[1]:.6f}gpuh"
    done = run_effnet("plan", "tiny.yaml", *given, "--budget", budget, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    picked = json.loads(done.stdout)["picked"]
    assert (picked["names"], picked["left_out"]) == (["B0", "B1"], ["B2"])
    shown = run_effnet("plan", "tiny.yaml", *given, "--budget", budget, cwd=tmp_path)
    assert "hours of training: B0, B1 (" in shown.stdout
    bad = run_effnet("plan", "--baseline", "efficientnet_b0", "--budget", "5ms", cwd=tmp_path)
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)
    assert "--budget picks members of a CONFIG" in bad.stderr
