"""Which networks a forecast trains."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from effnet.arch import zoo
from effnet.arch.cost import count
from effnet.arch.scaling import PAPER, Coefficients
from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig, ForecastConfig, MembersConfig
from effnet.errors import ConfigError
from effnet.family import Member, plan_members
from effnet.forecast.points import APART, NEAR, NEAR_MEMBER, OnRay, Point, sweep_points, warnings_of

B0 = zoo.get("efficientnet_b0")


def made(
    baseline: Architecture, phi: tuple[float, ...], coefficients: Coefficients = PAPER, *, multiple: int = 8,
    costs: tuple[float, ...] = (0.25, 0.5, 1, 2, 4),
) -> tuple[list[Point], list[Member]]:  # fmt: skip
    config = FamilyConfig(
        family="f", baseline="efficientnet_b0", resolution_multiple=multiple, members=MembersConfig(phi=phi)
    )
    members = plan_members(baseline, config, coefficients, 10)
    on_ray = [OnRay(member.name, member.architecture, member.macs) for member in members]
    points = sweep_points(
        ForecastConfig(costs=costs), config.members, on_ray, coefficients, baseline,
        num_classes=10, resolution_multiple=multiple,
    )  # fmt: skip
    return points, members


def test_costs_are_about_those_wanted_and_apart() -> None:
    points, _ = made(B0, (0, 3, 6))
    base = count(B0, 10).macs
    assert [point.factor for point in points] == [0.25, 0.5, 1, 2, 4]
    for point in points:
        wanted = point.factor * base
        assert max(point.macs / wanted, wanted / point.macs) <= (NEAR_MEMBER if point.member else NEAR)
        assert (point.params, point.macs) == count(point.architecture, 10)[:2]
    assert all(dearer.macs >= APART * cheaper.macs for cheaper, dearer in pairwise(points))


def test_a_member_of_about_that_cost_is_taken_as_it_is() -> None:
    points, members = made(B0, (0, 1, 2, 3))
    known = {member.name: member.architecture for member in members}
    assert [point.member for point in points] == ["", "", "B0", "B1", "B2"]
    for point in points[2:]:
        assert point.architecture.key() == known[point.member].key()  # dropout as well: the very training


def test_where_no_network_costs_what_is_wanted_a_member_stands_in_for_the_nearest(baseline: Architecture) -> None:
    """Of the tiny baseline none costs 2 times: the nearest costs 2.56 times, and a member 2.57 times."""
    points, members = made(baseline, (0, 1, 5), multiple=2, costs=(0.5, 1, 2, 4, 8))
    (double,) = (point for point in points if point.factor == 2)
    assert double.macs / members[0].macs > 2 * NEAR_MEMBER
    assert (double.member, double.architecture.key()) == ("B1", members[1].architecture.key())


def test_networks_lie_on_the_members_ray_in_dropout_too() -> None:
    points, members = made(B0, (0, 4))
    for point in points:
        depth = point.architecture.num_blocks / B0.num_blocks
        expected = PAPER.at(math.log(point.macs / points[2].macs) / math.log(PAPER.cost_ratio))
        assert depth == pytest.approx(expected.depth, rel=0.25)
    dropouts = [point.architecture.head.dropout for point in points]
    assert dropouts[:3] == [members[0].architecture.head.dropout] * 3
    assert dropouts == sorted(dropouts)
    assert dropouts[-1] < members[1].architecture.head.dropout


def test_small_networks_that_may_leave_the_law_are_named() -> None:
    points, _ = made(B0, (0, 1))
    told = warnings_of(points, B0)
    assert len(told) == 2
    assert told[0].startswith("the network of 0.25 times the baseline's cost has fewer blocks than the baseline")
    coarse = points[0].architecture.model_copy(update={"resolution": 104})
    assert "has 104 pixels where the baseline has 224" in warnings_of([points[0]._replace(architecture=coarse)], B0)[0]
    assert warnings_of(points[2:], B0) == []


def test_too_few_costs_after_rounding_are_refused_before_any_training() -> None:
    with pytest.raises(ConfigError, match=r"rounding leaves 3 different costs .* give costs further apart"):
        made(B0, (0,), costs=(1, 1.1, 2, 2.2, 4))
    with pytest.raises(ConfigError, match="these coefficients scale nothing"):
        made(B0, (0,), Coefficients(1, 1, 1))
