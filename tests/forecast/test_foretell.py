"""When a sweep may speak, and what it says then."""

from __future__ import annotations

import math

import numpy as np
import pytest

from effnet.forecast.foretell import Candidate, foretell, left_out
from effnet.forecast.law import ELSEWHERE, Sweep

COSTS = np.array([0.25, 0.5, 1, 2, 4]) * 1e6
MEMBERS = [Candidate(f"B{place}", round(4e6 * 2**place)) for place in range(7)]


def sweep(errors: np.ndarray, noise: float = 0.002, costs: np.ndarray = COSTS) -> Sweep:
    """Return a sweep with three seeds' noise of each mean."""
    points = len(costs)
    return Sweep(costs, errors, np.zeros((points, points)), np.full(points, noise**2), 2.0 * points)


def lawful(costs: np.ndarray = COSTS) -> np.ndarray:
    return 0.08 + 0.12 * (costs / 1e6) ** -0.5


def told(made: Sweep) -> str:
    return foretell(made, MEMBERS, ELSEWHERE, seeds=1, images=5000).verdict


def test_members_have_a_top1_two_intervals_and_a_gain() -> None:
    found = foretell(sweep(lawful()), MEMBERS, ELSEWHERE, seeds=1, images=5000)
    assert found.verdict == "law"
    for place, each in enumerate(found.members):
        assert each.top1 == pytest.approx(1 - 0.08 - 0.12 * (each.macs / 1e6) ** -0.5, abs=0.001)
        assert each.low < each.low80 < each.top1 < each.high80 < each.high  # type: ignore[operator]
        if place == 0:
            assert each.gain is None
            continue
        before = found.members[place - 1]
        assert each.gain is not None
        assert each.gain.expected == pytest.approx(each.top1 - before.top1)  # type: ignore[operator]
        assert each.gain.low < each.gain.expected < each.gain.high
    gains = [each.gain.expected for each in found.members[1:] if each.gain]
    assert gains == sorted(gains, reverse=True)
    assert found.doubling is not None
    assert found.doubling.expected == pytest.approx(gains[0])
    assert found.held_out is not None
    assert found.held_out.law == pytest.approx(found.held_out.reached, abs=0.003)
    assert found.held_out.rivals["a line in log cost"] > found.held_out.reached + 0.005


def test_networks_off_the_law_make_gains_as_uncertain() -> None:
    smooth = foretell(sweep(lawful()), MEMBERS, ELSEWHERE, seeds=1, images=5000)
    bumps = 0.01 * np.array([1, -1, 1, -1, 1])
    rough = foretell(sweep(lawful() + bumps), MEMBERS, ELSEWHERE, seeds=1, images=5000)
    for one, other in zip(smooth.members[1:], rough.members[1:], strict=True):
        assert one.gain is not None
        assert other.gain is not None
        assert other.gain.high - other.gain.low > one.gain.high - one.gain.low + 0.02


def test_the_same_sweep_says_the_same() -> None:
    one, other = (foretell(sweep(lawful()), MEMBERS, ELSEWHERE, seeds=2, images=900) for _ in range(2))
    assert one == other


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (sweep(lawful(COSTS[:3]), costs=COSTS[:3]), "too few costs"),
        (sweep(lawful(COSTS[:4] ** 0.5 * 1e3), costs=COSTS[:4] ** 0.5 * 1e3), "too few costs"),  # 2.8 times
        (sweep(np.full(5, 0.1)), "flat"),
        (sweep(lawful(), noise=0.1), "too noisy"),
        (sweep(lawful() + np.array([0, 0, 0, 0.05, 0])), "not monotone"),
    ],
)
def test_too_little_to_say_is_an_answer(made: Sweep, verdict: str) -> None:
    found = foretell(made, MEMBERS, ELSEWHERE, seeds=1, images=5000)
    assert found.verdict == verdict
    assert found.told.startswith("no forecast: ")
    assert all(each.top1 is None and each.why == verdict for each in found.members)


def test_flat_data_are_refused() -> None:
    rng = np.random.default_rng(5)
    verdicts = [told(sweep(0.1 + 0.003 * rng.standard_normal(5), noise=0.003)) for _ in range(300)]
    assert np.mean([verdict in ("flat", "too noisy", "not monotone") for verdict in verdicts]) >= 0.95


def test_nothing_is_said_beyond_64_times_the_largest_cost_nor_below_the_smallest() -> None:
    candidates = [Candidate("small", 240_000), Candidate("far", 4_000_000 * 64), Candidate("farther", 4_000_001 * 64)]
    small, far, farther = foretell(sweep(lawful()), candidates, ELSEWHERE, seeds=1, images=5000).members
    assert (small.top1, small.why) == (None, "cheaper than all that was swept")
    assert far.top1 is not None
    assert far.gain is None  # nothing cheaper has a number
    assert (farther.top1, farther.why) == (None, "more than 64 times the largest cost swept")


def test_a_law_that_misses_its_own_largest_network_foretells_the_next_one_alone() -> None:
    errors = np.array([0.30, 0.28, 0.26, 0.24, 0.10])  # falls off at the end: a line comes nearer than a law
    found = foretell(sweep(errors, noise=0.001), MEMBERS, ELSEWHERE, seeds=1, images=5000)
    assert found.verdict == "no law"
    assert found.held_out is not None
    assert not found.held_out.covered
    assert found.told.startswith("no law found: ")
    assert [each.top1 is not None for each in found.members] == [True, True, *[False] * 5]
    assert found.members[2].why == "no law found"
    assert found.doubling is None


def test_the_first_member_that_gains_too_little_is_left_out_and_all_dearer_ones() -> None:
    found = foretell(sweep(lawful()), MEMBERS, ELSEWHERE, seeds=1, images=5000)
    gains = [100 * each.gain.expected for each in found.members if each.gain]
    assert gains == pytest.approx([1.76, 1.24, 0.88, 0.62, 0.44, 0.31], abs=0.05)
    assert left_out(found, 0.1) == ()
    left = left_out(found, 0.7)
    assert [each.name for each in left] == ["B4", "B5", "B6"]
    assert left[0].why.startswith("expected to gain +0.6 (")
    assert left[0].why.endswith("points on the one before, below 0.7")
    assert left[1].why == f"dearer than B4, which is {left[0].why}"
    assert [each.name for each in left_out(found, 50)] == ["B1", "B2", "B3", "B4", "B5", "B6"]  # the cheapest stays
    refused = foretell(sweep(np.full(5, 0.1)), MEMBERS, ELSEWHERE, seeds=1, images=5000)
    assert left_out(refused, 50) == ()  # too little is known to leave anything out


def test_members_of_equal_cost_gain_over_the_same_one() -> None:
    candidates = [Candidate("B0", 4_000_000), Candidate("B1", 8_000_000), Candidate("B2", 8_000_000)]
    first, one, other = foretell(sweep(lawful()), candidates, ELSEWHERE, seeds=1, images=5000).members
    assert first.gain is None
    assert one.gain == other.gain
    assert math.isclose(one.gain.expected, one.top1 - first.top1)  # type: ignore[operator,union-attr]
