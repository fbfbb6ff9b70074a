"""Which networks a scaling study compares: depth, width, resolution alone, and compound, at the same counted cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from effnet.arch.budget import Affordable, Budget, largest
from effnet.arch.cost import count
from effnet.arch.scaling import STRATEGIES, Coefficients, Multipliers, Strategy, compound, scale
from effnet.arch.spec import Architecture
from effnet.config import StudyConfig
from effnet.errors import ConfigError
from effnet.search.findings import Contest, Gain
from effnet.statistics import ALPHA, Difference, Hits, difference, holm

DIMENSIONS = ("depth", "width", "resolution")
BALANCED, UNBALANCED = 0.005, 0.01  # top-1 per doubling, between the largest gain and the smallest
REMEDIES = {
    "depth": "give the baseline more blocks and fewer channels",
    "width": "give the baseline more channels and fewer pixels",
    "resolution": "give the baseline more pixels and fewer channels",
}

MISS = 1.5  # a network may cost up to this many times less than wanted
EQUAL = 1.05  # costs that differ by no more than this factor count as equal
BUDGETS = 16  # that are tried


class StudyPoint(NamedTuple):
    """A network of the study; the baseline belongs to every strategy, with factor 1."""

    strategy: str
    factor: float  # multiply-adds wanted, times the baseline's
    architecture: Architecture
    macs: int
    params: int


def study_strategies(config: StudyConfig, coefficients: Coefficients) -> list[Strategy]:
    """Return a study's ways of scaling; `compound` goes by these α, β, γ."""
    return [compound(coefficients) if name == "compound" else STRATEGIES[name] for name in config.strategies]


def study_points(
    config: StudyConfig,
    coefficients: Coefficients,
    baseline: Architecture,
    *,
    num_classes: int,
    resolution_multiple: int,
) -> list[StudyPoint]:
    """Return the networks of a study of this baseline, by strategies and factors, or by multipliers.

    Args:
        config: of the study.
        coefficients: α, β, γ of `compound`.
        baseline: that is scaled; it is a point of every way of scaling, with factor 1.
        num_classes: of the networks.
        resolution_multiple: that resolutions are rounded to.

    Raises:
        ConfigError: if a network of about that cost cannot be made, or those given cost too different amounts: none
            must miss the cost by more than a third.
    """
    made = {"num_classes": num_classes, "resolution_multiple": resolution_multiple}
    if config.multipliers:
        return points_by_multipliers(baseline, [Multipliers(*each) for each in config.multipliers], **made)
    return points_at_equal_cost(baseline, study_strategies(config, coefficients), config.factors, **made)


def main_way(config: StudyConfig) -> str:
    """Return the way of scaling that a study compares with each of the others."""
    return Multipliers(*config.multipliers[-1]).told() if config.multipliers else "compound"


def points_by_multipliers(
    baseline: Architecture, multipliers: Sequence[Multipliers], *, num_classes: int, resolution_multiple: int
) -> list[StudyPoint]:
    """Return the networks of these multipliers; their factor is that of the last one's counted multiply-adds.

    Raises:
        ConfigError: if a network's cost differs from the last one's by more than a third, or that is the baseline's.
    """
    base = count(baseline, num_classes)
    scaled = {each.told(): scale(baseline, each, resolution_multiple=resolution_multiple) for each in multipliers}
    costs = {name: count(arch, num_classes) for name, arch in scaled.items()}
    last = costs[multipliers[-1].told()].macs
    factor, points = round(last / base.macs, 2), list[StudyPoint]()
    if factor == 1:
        raise ConfigError(f"study: {multipliers[-1].told()} leaves {baseline.name} as it is; give larger multipliers")
    if len({arch.key() for arch in scaled.values()}) < max(2, len(multipliers)):
        raise ConfigError(
            f"study: {', '.join(scaled)} make fewer than {max(2, len(multipliers))} different networks after rounding; "
            "give at least two that differ more"
        )
    for name, arch in scaled.items():
        cost = costs[name]
        if not 1 / MISS <= cost.macs / last <= MISS:
            raise ConfigError(
                f"study: {name} costs {cost.macs / base.macs:.2f} times as much as {baseline.name}, and "
                f"{multipliers[-1].told()}, the last, {factor:g} times; give multipliers of about equal cost "
                "(effnet plan --multipliers tells it)"
            )
        named = arch.model_copy(update={"name": f"{baseline.name}_{name.replace(' ', '_')}"})
        points.append(StudyPoint(name, 1.0, baseline, base.macs, base.params))
        points.append(StudyPoint(name, factor, named, cost.macs, cost.params))
    return points


def points_at_equal_cost(
    baseline: Architecture,
    strategies: Sequence[Strategy],
    factors: Sequence[float],
    *,
    num_classes: int,
    resolution_multiple: int,
) -> list[StudyPoint]:
    """Return a network of each strategy for each factor of the baseline's multiply-adds, at costs as equal as possible.

    Rounding makes cost jump, above all by whole layers: where a strategy's largest network within factor times the
    baseline's cost falls short of that, the others are cut to its cost, too.

    Raises:
        ConfigError: if a strategy cannot make a network of about that cost: it must not miss it by more than a third.
    """
    base = count(baseline, num_classes)
    points = [StudyPoint(strategy.name, 1.0, baseline, base.macs, base.params) for strategy in strategies]
    for factor in factors:

        def within(macs: int) -> list[Affordable]:
            budget = Budget(macs=macs)
            return [
                largest(baseline, way, budget, num_classes=num_classes, resolution_multiple=resolution_multiple)
                for way in strategies
            ]

        wanted = round(base.macs * factor)
        found = within(wanted)
        for strategy, affordable in zip(strategies, found, strict=True):
            if affordable.cost.macs < wanted / MISS:
                raise ConfigError(
                    f"study: by {strategy.name} no network of {baseline.name} costs about {factor:g} times; the "
                    f"nearest costs {affordable.cost.macs / base.macs:.2f} times: leave it out, or round resolutions "
                    "less"
                )
        for strategy, affordable in zip(strategies, _evened(within, wanted), strict=True):
            name = f"{baseline.name}_{strategy.name}_{factor:g}x"
            arch = affordable.architecture.model_copy(update={"name": name})
            points.append(StudyPoint(strategy.name, factor, arch, affordable.cost.macs, affordable.cost.params))
    return sorted(points, key=lambda point: [way.name for way in strategies].index(point.strategy))


def _evened(within: Callable[[int], list[Affordable]], wanted: int) -> list[Affordable]:
    """Return the networks of the largest budget at which costs are equal, or else those of the most equal costs."""
    least = round(wanted / MISS)
    best = within(wanted)
    for step in range(1, BUDGETS):
        if _spread(best) <= EQUAL:
            break
        found = within(wanted - (wanted - least) * step // BUDGETS)
        if min(each.cost.macs for each in found) >= least:
            best = min(best, found, key=_spread)
    return best


def _spread(found: Sequence[Affordable]) -> float:
    costs = [each.cost.macs for each in found]
    return max(costs) / min(costs)


def contests(hits: Mapping[tuple[str, float], Hits], one: str) -> list[Contest]:
    """Return how a way of scaling does against each of the others, at every factor above 1.

    Args:
        hits: of each (strategy, factor), (seeds, images).
        one: the way that is compared with all others (`main_way`); without it there are no contests.
    """
    pairs = [(factor, name) for name, factor in hits if factor != 1 and name != one and (one, factor) in hits]
    found = {pair: difference(hits[one, pair[0]], hits[pair[1], pair[0]]) for pair in pairs}
    corrected = holm({pair: gap.p for pair, gap in found.items()})
    return [
        Contest(
            factor=factor,
            one=one,
            other=name,
            lead=gap.lead,
            noise=gap.noise,
            p=gap.p,
            p_holm=corrected[factor, name],
            told=_verdict(gap, corrected[factor, name]),
            sees=gap.sees(len(found)),
        )
        for (factor, name), gap in found.items()
    ]


def gains(hits: Mapping[tuple[str, float], Hits], macs: Mapping[tuple[str, float], int]) -> list[Gain]:
    """Return what each dimension alone gains at the baseline, at the study's smallest factor; none if one is missing.

    Args:
        hits: of each (strategy, factor), (seeds, images).
        macs: multiply-adds of each.
    """
    factor = min((factor for _, factor in hits if factor != 1), default=1.0)
    if any((dimension, factor) not in hits or factor == 1 for dimension in DIMENSIONS):
        return []
    found = []
    for dimension in DIMENSIONS:
        doublings = math.log2(macs[dimension, factor] / macs[dimension, 1.0])
        gap = difference(hits[dimension, factor], hits[dimension, 1.0])
        found.append(Gain(dimension=dimension, factor=factor, gain=gap.lead / doublings, noise=gap.noise / doublings))
    return found


def balance(found: Sequence[Gain]) -> str:
    """Say whether a baseline is balanced, which dimension is starved if it is not, and what to change.

    Balanced: the largest gain is less than half a point per doubling above the smallest, and by less than a point for
    certain. There every scaling rule gains the same to first order; elsewhere the starved dimension wins. The gap's
    interval combines those of both gains as if they were independent: they share the baseline, so it is too wide.
    """
    most, least = max(found, key=lambda each: each.gain), min(found, key=lambda each: each.gain)
    gap, noise = most.gain - least.gain, math.hypot(most.noise, least.noise)
    told = (
        f"per doubling of multiply-adds {most.dimension} gains most, {most.gain:+.2%} ± {most.noise:.2%}, and "
        f"{least.dimension} least, {least.gain:+.2%} ± {least.noise:.2%}"
    )
    if gap < BALANCED and gap + noise < UNBALANCED:
        return f"{told}: balanced"
    if gap > noise:
        change = f"{REMEDIES[most.dimension]}, at equal multiply-adds, and study again"
        return f"{told}: {most.dimension} is starved; {change}"
    return f"{told}: ± {noise:.2%} is too wide to say whether it is balanced; add seeds, or take a larger factor"


def _verdict(gap: Difference, p: float) -> str:
    if p > ALPHA:
        return "a tie"
    return "one seed" if gap.seeds < 2 else "better" if gap.lead > 0 else "worse"
