"""Which learning rate to take: short trainings at several of them, each with a whole schedule of its own.

The range test (Smith, arXiv 1506.01186, section 3.3) raises the rate within one training. That shows what a network
bears for a few steps at full rate, without warm-up, decay or average, and with its loss on training images. Whole short
schedules cost a few times more, and compare what the recipe will do: by images that are held out, with their noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Set
from typing import NamedTuple

from effnet.search.decision import Finalist
from effnet.statistics import difference, scatter
from effnet.values import Value

FACTOR = 2.0  # from one rate to the next
AROUND = 3  # rates on either side of the config's own
FURTHER = 2  # rates more where the best one is the last
ROUNDS = 3  # of these, at most
MOST = 10.0  # that a recipe takes
SHARE, FEWEST = 10, 8  # a tenth of the recipe's epochs, but 8: of fewer, seeds differ by more than rates do


class RateFound(Value):
    """What trainings at one rate found, on minival."""

    learning_rate: float  # as in the recipe: peak, per 256 images
    top1: float | None  # mean over seeds; None if the loss was no longer a number
    loss: float | None
    lead: float | None  # in top-1, over the suggested rate
    noise: float | None  # half of the lead's 95 % interval
    as_good: bool  # within noise of the best top-1, as all rates between it and the suggested one


class RateFindings(Value):
    """The rates that were tried, and the one to take."""

    suggested: float
    range: tuple[float, float]  # as good within noise, the lowest and the highest tried
    config: float  # the config's own
    stays: bool  # that is in the range
    at_edge: bool  # the best was the last one tried: a rate beyond may be better
    rates: tuple[RateFound, ...]  # rising


class Choice(NamedTuple):
    """The rate to take among those tried."""

    suggested: float
    as_good: tuple[float, ...]  # rising, the suggested one among them


def short_epochs(epochs: int) -> int:
    """Return the epochs of a short training for a recipe of so many."""
    return min(epochs, max(FEWEST, -(-epochs // SHARE)))


def first_rates(own: float) -> list[float]:
    """Return the config's own rate and those around it, rising."""
    found = [own * FACTOR**step for step in range(-AROUND, AROUND + 1)]
    return [rate for rate in found if rate <= MOST]


def further_rates(suggested: float, tried: Set[float], diverged: Set[float]) -> list[float]:
    """Return the rates to try next, rising: beyond the suggested one, if it is the last on its side; else none."""
    steps = range(1, FURTHER + 1)
    if suggested == min(tried):
        return sorted(suggested / FACTOR**step for step in steps)
    if suggested == max(tried) and not any(rate > suggested for rate in diverged):
        return [rate for rate in (suggested * FACTOR**step for step in steps) if rate <= MOST]
    return []


def choose(tried: Mapping[float, Finalist]) -> Choice:
    """Return the rate to take: of the best top-1 and all within noise of it, the one with the least loss on minival.

    Noise is that of the paired difference over images and seeds, the variance between seeds pooled over all rates; its
    interval counts as it is, uncorrected, which keeps rates that are worse from passing for as good. Loss decides
    within it, as it takes more values than top-1.

    Args:
        tried: by rate; a finalist's penalty is its mean loss on minival.
    """
    best = max(tried, key=lambda rate: (tried[rate].mean, -tried[rate].penalty))
    pooled = scatter(each.top1 for each in tried.values())

    def within(rate: float) -> bool:
        gap = difference(tried[best].hits, tried[rate].hits, pooled)
        return rate == best or gap.lead <= gap.noise

    rates = sorted(tried)
    suggested = min(filter(within, rates), key=lambda rate: tried[rate].penalty)
    place = rates.index(suggested)
    below = list(itertools.takewhile(within, reversed(rates[:place])))
    above = itertools.takewhile(within, rates[place + 1 :])
    return Choice(suggested, (*reversed(below), suggested, *above))


def findings(own: float, tried: Mapping[float, Finalist], diverged: Set[float]) -> RateFindings:
    """Return what was found.

    Args:
        own: the config's rate.
        tried: by rate, those that trained to the end; at least one.
        diverged: rates at which the loss was no longer a number.
    """
    choice, pooled = choose(tried), scatter(each.top1 for each in tried.values())

    def found(rate: float) -> RateFound:
        if rate in diverged:
            return RateFound(learning_rate=rate, top1=None, loss=None, lead=None, noise=None, as_good=False)
        one, lead, noise = tried[rate], 0.0, 0.0
        if rate != choice.suggested:
            lead, noise = difference(one.hits, tried[choice.suggested].hits, pooled)[:2]
        return RateFound(
            learning_rate=rate,
            top1=one.mean,
            loss=one.penalty,
            lead=lead,
            noise=noise,
            as_good=rate in choice.as_good,
        )

    return RateFindings(
        suggested=choice.suggested,
        range=(choice.as_good[0], choice.as_good[-1]),
        config=own,
        stays=own in choice.as_good,
        at_edge=bool(further_rates(choice.suggested, tried.keys(), diverged)),
        rates=tuple(found(rate) for rate in sorted({*tried, *diverged})),
    )
