"""Which networks a scaling study compares: depth, width, resolution alone, and compound, at the same counted cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from effnet.arch.budget import Budget, largest
from effnet.arch.cost import count
from effnet.arch.scaling import Strategy
from effnet.arch.spec import Architecture
from effnet.errors import ConfigError


class StudyPoint(NamedTuple):
    """A network of the study; the baseline belongs to every strategy, with factor 1."""

    strategy: str
    factor: float  # multiply-adds wanted, times the baseline's
    architecture: Architecture
    macs: int
    params: int


def study_points(
    baseline: Architecture,
    strategies: Sequence[Strategy],
    factors: Sequence[float],
    *,
    num_classes: int,
    resolution_multiple: int,
) -> list[StudyPoint]:
    """Return the largest network of each strategy within each factor of the baseline's multiply-adds.

    Raises:
        ConfigError: if a strategy cannot make a network of about that cost: it must not miss it by more than a third.
    """
    base = count(baseline, num_classes)
    points = []
    for strategy in strategies:
        points.append(StudyPoint(strategy.name, 1.0, baseline, base.macs, base.params))
        for factor in factors:
            budget = Budget(macs=round(base.macs * factor))
            found = largest(
                baseline, strategy, budget, num_classes=num_classes, resolution_multiple=resolution_multiple
            )
            if found.cost.macs < base.macs * factor / 1.5:
                raise ConfigError(
                    f"study: by {strategy.name} no network of {baseline.name} costs about {factor:g} times; the "
                    f"nearest costs {found.cost.macs / base.macs:.2f} times: leave it out, or round resolutions less"
                )
            name = f"{baseline.name}_{strategy.name}_{factor:g}x"
            arch = found.architecture.model_copy(update={"name": name})
            points.append(StudyPoint(strategy.name, factor, arch, found.cost.macs, found.cost.params))
    return points


class Band(NamedTuple):
    """The mean over seeds, and its 95 % confidence interval; without bounds if there is one seed."""

    mean: float
    low: float | None
    high: float | None


def band(values: Sequence[float]) -> Band:
    """Return the band of one point's scores, by Student's t."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return Band(mean, None, None)
    from scipy.stats import t

    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = float(t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
    return Band(mean, mean - half, mean + half)
