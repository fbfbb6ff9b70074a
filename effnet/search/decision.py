"""Whether the best candidate is better than the others by more than noise, and which one to take if not."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

_K = TypeVar("_K", bound=Hashable)

RULE = "of the best and all that noise cannot tell from it, the one with the fewest multiply-adds"


class Finalist(NamedTuple):
    """What a fully trained candidate found on minival, once per seed."""

    top1: Sequence[float]
    macs: int

    @property
    def mean(self) -> float:
        """Mean top-1."""
        return sum(self.top1) / len(self.top1)


class Decision(NamedTuple, Generic[_K]):
    """Which candidate is taken, and how sure that is."""

    winner: _K  # by the rule
    best: _K  # by mean top-1
    runner_up: _K | None
    lead: float  # of the best over the runner-up, in top-1
    noise: float  # half of the lead's 95 % interval
    tie: bool  # the lead is within noise


def decide(finalists: Mapping[_K, Finalist], samples: int) -> Decision[_K]:
    """Return the decision among finalists that were trained with the same seeds.

    Args:
        finalists: at least one.
        samples: images of minival. With one seed the noise is that of counting right answers on so many images; with
            several it is what the seeds show, by Welch's t.
    """
    ranked = sorted(finalists, key=lambda key: (-finalists[key].mean, finalists[key].macs))
    best = ranked[0]
    within = [
        key
        for key in ranked
        if finalists[best].mean - finalists[key].mean <= _noise(finalists[best], finalists[key], samples)
    ]
    winner = min(within, key=lambda key: (finalists[key].macs, ranked.index(key)))
    if len(ranked) == 1:
        return Decision(winner, best, None, 0.0, 0.0, tie=False)
    second = ranked[1]
    lead = finalists[best].mean - finalists[second].mean
    noise = _noise(finalists[best], finalists[second], samples)
    return Decision(winner, best, second, lead, noise, tie=lead <= noise)


def _noise(one: Finalist, other: Finalist, samples: int) -> float:
    if min(len(one.top1), len(other.top1)) < 2:
        return 1.96 * math.sqrt(sum(f.mean * (1 - f.mean) / samples for f in (one, other)))
    shares = [_variance(f) / len(f.top1) for f in (one, other)]
    total = sum(shares)
    if not total:
        return 0.0
    from scipy.stats import t

    freedom = total**2 / sum(share**2 / (len(f.top1) - 1) for share, f in zip(shares, (one, other), strict=True))
    return float(t.ppf(0.975, freedom)) * math.sqrt(total)


def _variance(finalist: Finalist) -> float:
    return sum((value - finalist.mean) ** 2 for value in finalist.top1) / (len(finalist.top1) - 1)
