"""From a sweep of small networks to what larger ones will reach; or that too little can be said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from effnet.forecast.findings import FittedLaw, Foretold, Gain, HeldOut, LeftOut, Outlook, Verdict
from effnet.forecast.law import DRAWS, RIVALS, Laws, Prior, Sweep, fit, shown

LEAST_COSTS = 4
LEAST_RANGE = 4.0  # between the smallest cost and the largest
FARTHEST = 64.0  # times the largest cost that was swept
CLEAR = 3.0  # standard errors
CURVE = 33  # points of a drawn law
SMALL = 0.01  # a gain over the whole sweep that is certainly less is none


class Candidate(NamedTuple):
    """A network that is to be foretold."""

    name: str
    macs: int


def foretell(
    sweep: Sweep, candidates: Sequence[Candidate], prior: Prior, *, seeds: int, images: int, draws: int = DRAWS
) -> Foretold:
    """Return what a sweep says of networks that are not trained yet, or why it says nothing.

    It is refused if it has too few costs, spans too little, rises and falls beyond noise, or shows no clear gain. If
    the law misses the sweep's own largest network, which is first foretold from the others, by more than its 95 %
    interval, and a simpler rule comes nearer, only the next cost above is foretold.

    Args:
        sweep: of small networks of the family.
        candidates: networks to foretell.
        prior: of the law's exponent.
        seeds: trainings that each of them will have.
        images: that they will be measured on.
        draws: of laws.
    """
    if refused := _refusal(sweep):
        verdict, told = refused
        silent = tuple(Outlook(name=each.name, macs=each.macs, why=verdict) for each in candidates)
        return Foretold(verdict=verdict, told=told, members=silent)
    held_out = _hold_out(sweep, prior, draws)
    laws = fit(sweep, prior, draws)
    lawful = held_out.covered or held_out.nearest == "the law"
    largest = float(sweep.costs[-1])
    farthest = FARTHEST * largest
    if not lawful:
        farthest = min((each.macs for each in candidates if each.macs > largest), default=largest)
    known = [each for each in candidates if sweep.costs[0] <= each.macs <= farthest]

    def outlook(each: Candidate) -> Outlook:
        if each not in known:
            why = "cheaper than all that was swept" if each.macs < sweep.costs[0] else "no law found"
            if lawful and each.macs > farthest:
                why = f"more than {FARTHEST:g} times the largest cost swept"
            return Outlook(name=each.name, macs=each.macs, why=why)
        cheaper = max((other.macs for other in known if other.macs < each.macs), default=None)
        found = 1 - shown(sweep, laws, each.macs, seeds=seeds, images=images)
        low, low80, high80, high = (float(value) for value in np.quantile(found, (0.025, 0.1, 0.9, 0.975)))
        top1 = 1 - laws.expected.at(each.macs)
        return Outlook(
            name=each.name,
            macs=each.macs,
            top1=top1,
            low=min(low, top1),
            high=max(high, top1),
            low80=min(low80, top1),
            high80=max(high80, top1),
            times=each.macs / largest,
            gain=_gain(laws, cheaper, each.macs) if cheaper else None,
        )

    return Foretold(
        verdict="law" if lawful else "no law",
        told=_told(held_out, lawful=lawful),
        held_out=held_out,
        law=FittedLaw(**laws.expected._asdict()),
        doubling=_gain(laws, largest, 2 * largest) if lawful else None,
        curve=_curve(laws, float(sweep.costs[0]), max([largest, *(each.macs for each in known)])),
        members=tuple(outlook(each) for each in candidates),
    )


def left_out(foretold: Foretold, gain_below: float) -> tuple[LeftOut, ...]:
    """Return the members that are too large to pay: the cheapest that is expected to gain too little, and all dearer.

    Members of which nothing can be said do not stop it; where the sweep was refused, none is left out.

    Args:
        foretold: of all members.
        gain_below: points of top-1 on the next cheaper member.
    """
    ordered = sorted(foretold.members, key=lambda each: each.macs)
    first = next((each for each in ordered if each.gain and 100 * each.gain.expected < gain_below), None)
    if first is None or first.gain is None:
        return ()
    why = f"expected to gain {first.gain.told()} points on the one before, below {gain_below:g}"
    dearer = f"dearer than {first.name}, which is {why}"
    return tuple(
        LeftOut(name=each.name, macs=each.macs, why=why if each.macs == first.macs else dearer)
        for each in ordered
        if each.macs >= first.macs
    )


def _refusal(sweep: Sweep) -> tuple[Verdict, str] | None:
    """Return why a sweep says nothing, if it does not."""
    costs, errors = sweep.costs, sweep.errors
    if len(costs) < LEAST_COSTS:
        return "too few costs", f"no forecast: {len(costs)} costs, and a law needs {LEAST_COSTS} at least"
    if costs[-1] < LEAST_RANGE * costs[0]:
        told = f"the largest network costs {costs[-1] / costs[0]:.1f} times the smallest"
        return "too few costs", f"no forecast: {told}, and a law needs {LEAST_RANGE:g}"
    pairs = [(one, other) for other in range(len(costs)) for one in range(other)]
    for one, other in pairs:
        rise, noise = errors[other] - errors[one], sweep.error_of(one, other)
        if rise > CLEAR * noise:
            told = f"the network of {costs[other]:,.0f} multiply-adds is worse than that of {costs[one]:,.0f}"
            return "not monotone", f"no forecast: {told}, {100 * rise:.1f} ± {100 * 2 * noise:.1f} points"
    gain, noise = float(errors[0] - errors[-1]), sweep.error_of(0, len(costs) - 1)
    if gain >= CLEAR * noise:
        return None
    told = f"{100 * gain:+.1f} ± {100 * 2 * noise:.1f} points of top-1 from the smallest cost to the largest"
    if gain + 2 * noise < SMALL:
        return "flat", f"no forecast: flat, {told}; size pays little here"
    return (
        "too noisy",
        f"no forecast: too noisy, {told}; more seeds, more images of minival or a wider range would tell",
    )


def _hold_out(sweep: Sweep, prior: Prior, draws: int) -> HeldOut:
    """Foretell the largest network of a sweep from the others, by the law and by simpler rules."""
    smaller, cost = sweep.without_largest(), float(sweep.costs[-1])
    laws = fit(smaller, prior, draws)
    noise = float(np.sqrt(sweep.covariance[-1, -1] + laws.shape))
    # Images that both share count twice here: the interval is a little too wide.
    found = 1 - laws.at(cost) + noise * np.random.default_rng(2).standard_normal(draws)
    low, high = (float(value) for value in np.quantile(found, (0.025, 0.975)))
    law = 1 - laws.expected.at(cost)
    return HeldOut(
        macs=round(cost),
        reached=float(1 - sweep.errors[-1]),
        law=law,
        low=min(low, law),
        high=max(high, law),
        rivals={name: 1 - rule(smaller, cost) for name, rule in RIVALS.items()},
    )


def _told(held_out: HeldOut, *, lawful: bool) -> str:
    if lawful:
        nearest = held_out.nearest
        also = "" if nearest == "the law" else f"; {nearest} came nearer, within noise"
        return f"{held_out.told()}{also}"
    return f"no law found: {held_out.told()}, outside its 95 % interval; only the next member is foretold"


def _curve(laws: Laws, smallest: float, largest: float) -> tuple[tuple[float, float, float, float], ...]:
    """Return top-1 and its interval along the law, for a figure."""
    found = []
    for cost in np.geomspace(smallest, largest, CURVE):
        low, high = (float(value) for value in 1 - np.quantile(laws.at(cost), (0.975, 0.025)))
        top1 = 1 - laws.expected.at(cost)
        found.append((float(cost), top1, min(low, top1), max(high, top1)))
    return tuple(found)


def _gain(laws: Laws, cheaper: float, dearer: float) -> Gain:
    """Return what a network gains over a cheaper one, each of which lies off the law as the sweep's do."""
    scatter = np.sqrt(2 * laws.shape) * np.random.default_rng(3).standard_normal(len(laws.floors))
    found = laws.at(cheaper) - laws.at(dearer) + scatter
    expected = laws.expected.at(cheaper) - laws.expected.at(dearer)
    low, high = (float(value) for value in np.quantile(found, (0.025, 0.975)))
    return Gain(expected=expected, low=min(low, expected), high=max(high, expected))
