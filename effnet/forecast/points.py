"""Which small networks a forecast trains: those on the family's own ray, and members where these cost about as much."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from effnet.arch.cost import count
from effnet.arch.scaling import Coefficients, realised, scale
from effnet.arch.spec import Architecture
from effnet.config import ForecastConfig, MembersConfig
from effnet.errors import ConfigError
from effnet.forecast.foretell import LEAST_COSTS

NEAR = 1.15  # a network that costs so many times more or less than wanted is as good as one that costs just that
NEAR_MEMBER = 1.25  # the same, of a member: it is trained anyway
APART = 1.3  # between neighbours, at least
MISS = 1.5  # a network may cost so many times more or less than wanted
BEYOND = 2.0  # φ, on either side of what the equation gives, as rounding makes small networks dearer
STEP = 0.02  # of φ
HALF = 0.5  # of the baseline's pixels: below, networks leave the law


class OnRay(NamedTuple):
    """A member, as it is planned."""

    name: str
    architecture: Architecture
    macs: int


class Point(NamedTuple):
    """A network of the sweep."""

    factor: float  # multiply-adds wanted, times the baseline's
    architecture: Architecture
    macs: int
    params: int
    member: str = ""  # that it is, too


def sweep_points(
    config: ForecastConfig,
    planned: MembersConfig,
    members: Sequence[OnRay],
    coefficients: Coefficients,
    baseline: Architecture,
    *,
    num_classes: int,
    resolution_multiple: int,
) -> list[Point]:
    """Return the networks of a sweep, from small to large, each costing APART times the one before at least.

    For each cost that is wanted it is a member that costs about as much, if there is one, as that is trained anyway;
    else, of the networks on the ray α^φ, β^φ, γ^φ that do, the one whose depth, width and resolution lie closest to the
    ray after rounding. Dropout is linear in φ, as the members' is.

    Args:
        config: of the forecast.
        planned: φ and dropout of the members.
        members: on the ray.
        coefficients: α, β, γ.
        baseline: that is scaled.
        num_classes: of the networks.
        resolution_multiple: that resolutions are rounded to.

    Raises:
        ConfigError: if fewer than four costs are left.
    """
    if coefficients.cost_ratio <= 1:
        raise ConfigError("forecast: these coefficients scale nothing; one of α, β, γ must be above 1")
    base = count(baseline, num_classes).macs
    unit = math.log(coefficients.cost_ratio)
    low, high = (math.log(factor) / unit for factor in (config.costs[0], config.costs[-1]))
    ray = _networks(planned, coefficients, baseline, (low - BEYOND, high + BEYOND), num_classes, resolution_multiple)

    def distance(one: OnRay) -> float:
        """Return how far a network lies from the smooth ray at its own cost, in logs of cost."""
        ideal = coefficients.at(math.log(one.macs / base) / unit)
        made = realised(baseline, one.architecture)
        depth, width, resolution = (abs(math.log(real / wish)) for real, wish in zip(made, ideal, strict=True))
        return depth + 2 * width + 2 * resolution

    found: list[Point] = []
    for factor in config.costs:
        best = _nearest(factor * base, members, ray, distance)
        if best and (not found or best.macs >= APART * found[-1].macs):
            arch = best.architecture
            if not best.name:
                arch = arch.model_copy(update={"name": f"{baseline.name}_{factor:g}x"})
            found.append(Point(factor, arch, best.macs, count(arch, num_classes).params, best.name))
    if len(found) < LEAST_COSTS:
        costs = ", ".join(f"{point.macs / base:.2g}" for point in found) or "none"
        raise ConfigError(
            f"forecast: rounding leaves {len(found)} different costs ({costs} times the baseline's), and a law needs "
            f"{LEAST_COSTS}: give costs further apart, a larger baseline, or a smaller resolution_multiple"
        )
    return found


def _networks(
    planned: MembersConfig,
    coefficients: Coefficients,
    baseline: Architecture,
    phis: tuple[float, float],
    num_classes: int,
    resolution_multiple: int,
) -> list[OnRay]:
    """Return the networks of different costs between two φ."""
    made: dict[int, Architecture] = {}
    for phi in np.arange(*phis, STEP).tolist():
        try:
            arch = scale(
                baseline,
                coefficients.at(phi),
                resolution_multiple=resolution_multiple,
                dropout=_dropout(planned, phi),
            )
        except ConfigError:  # too small to be a network, or too large
            continue
        made.setdefault(count(arch, num_classes).macs, arch)
    return [OnRay("", arch, macs) for macs, arch in made.items()]


def _nearest(
    wanted: float, members: Sequence[OnRay], ray: Sequence[OnRay], distance: Callable[[OnRay], float]
) -> OnRay | None:
    """Return the network that stands for a cost; None if all miss it by too much."""
    if near := [one for one in members if _ratio(one.macs, wanted) <= NEAR_MEMBER]:
        return min(near, key=lambda one: _ratio(one.macs, wanted))
    if near := [one for one in ray if _ratio(one.macs, wanted) <= NEAR]:
        best = min(near, key=lambda one: (distance(one), one.macs))
        return next((one for one in members if one.macs == best.macs), best)
    nearest = min(ray, key=lambda one: _ratio(one.macs, wanted), default=None)
    if nearest is None or _ratio(nearest.macs, wanted) > MISS:
        return None
    equal = [one for one in members if _ratio(one.macs, nearest.macs) <= NEAR]
    return min(equal, key=lambda one: _ratio(one.macs, nearest.macs), default=nearest)


def warnings_of(points: Sequence[Point], baseline: Architecture) -> list[str]:
    """Say which networks are so small that they may leave the law: half the pixels, or a stage with fewer blocks."""
    found = []
    for point in points:
        arch, reasons = point.architecture, list[str]()
        if arch.resolution < HALF * baseline.resolution:
            reasons.append(f"has {arch.resolution} pixels where the baseline has {baseline.resolution}")
        if any(one.repeats < other.repeats for one, other in zip(arch.stages, baseline.stages, strict=True)):
            reasons.append("has fewer blocks than the baseline")
        if reasons:
            found.append(
                f"the network of {point.factor:g} times the baseline's cost {' and '.join(reasons)}: so small ones may "
                "lie off the law"
            )
    return found


def _ratio(one: float, other: float) -> float:
    """Return how many times one number is the other, at least 1."""
    return max(one / other, other / one)


def _dropout(planned: MembersConfig, phi: float) -> float:
    """Return the dropout of a network between, below or above the members."""
    first, last = planned.phi[0], planned.phi[-1]
    share = min(max((phi - first) / (last - first), 0.0), 1.0) if last > first else 0.0
    low, high = planned.dropout
    return round(low + share * (high - low), 4)
