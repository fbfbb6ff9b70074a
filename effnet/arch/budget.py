"""The largest member of a family that a budget allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from effnet.arch.cost import Cost, count
from effnet.arch.scaling import Strategy, scale
from effnet.arch.spec import Architecture
from effnet.errors import ConfigError

_OCTAVES = 12  # at most this many halvings of the cost, to find a member that fits
_PRECISION = 1e-6  # of the factor, in octaves


class Budget(NamedTuple):
    """Upper bounds on a member's cost; None: no bound."""

    params: int | None = None
    macs: int | None = None
    activations: int | None = None

    def admits(self, cost: Cost) -> bool:
        """Say whether a cost stays within every bound."""
        return all(limit is None or value <= limit for value, limit in zip(cost, self, strict=True))


class Affordable(NamedTuple):
    """The largest member that fits."""

    octaves: float  # how often the baseline's cost was doubled, before rounding
    architecture: Architecture
    cost: Cost


def largest(
    baseline: Architecture,
    strategy: Strategy,
    budget: Budget,
    *,
    num_classes: int = 1000,
    resolution_multiple: int = 1,
) -> Affordable:
    """Return the largest network that the strategy makes of the baseline within the budget.

    If the baseline itself does not fit, it is scaled down. Counted cost never falls while the factor rises, because
    every rounding rule is monotone; so the limit is found by bisection.

    Raises:
        ConfigError: if the budget has no bound, no member of the family fits, or the strategy does not change what is
            bounded.
    """
    if all(limit is None for limit in budget):
        raise ConfigError("a budget needs at least one bound: params, macs or activations")

    def member(octaves: float) -> Affordable | None:
        try:
            arch = scale(baseline, strategy.at(2.0**octaves), resolution_multiple=resolution_multiple)
        except ConfigError:
            return None
        cost = count(arch, num_classes)
        return Affordable(octaves, arch, cost) if budget.admits(cost) else None

    best = _first((0.0, *(-float(n) for n in range(1, _OCTAVES + 1))), member)
    if best is None:
        smallest = _smallest(baseline, strategy, num_classes, resolution_multiple)
        raise ConfigError(
            f"no member of {baseline.name}'s family by {strategy.name} fits the budget; the smallest has "
            f"{smallest.params:,} params, {smallest.macs:,} MACs and {smallest.activations:,} activations"
        )
    step = 1.0
    while step > _PRECISION:
        if better := member(best.octaves + step):
            best = better
        else:
            step /= 2
    try:
        scale(baseline, strategy.at(2.0 ** (best.octaves + 2 * step)), resolution_multiple=resolution_multiple)
    except ConfigError as error:
        raise ConfigError(
            f"scaling {baseline.name} by {strategy.name} ends before the budget is reached: {error}"
        ) from error
    return best


def _first(values: tuple[float, ...], member: Callable[[float], Affordable | None]) -> Affordable | None:
    return next((found for value in values if (found := member(value))), None)


def _smallest(baseline: Architecture, strategy: Strategy, num_classes: int, resolution_multiple: int) -> Cost:
    cost = count(baseline, num_classes)
    for octaves in range(1, _OCTAVES + 1):
        try:
            arch = scale(baseline, strategy.at(2.0**-octaves), resolution_multiple=resolution_multiple)
        except ConfigError:
            break
        cost = count(arch, num_classes)
    return cost
