"""Whether the best candidate is better than the others by more than noise, and which one to take if not."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from effnet.statistics import ALPHA, Hits, difference, holm, scatter, sees

_K = TypeVar("_K", bound=Hashable)


class Finalist(NamedTuple):
    """What a fully trained candidate is right about, once per seed."""

    hits: Hits  # (seeds, images); the images are the same for all finalists
    penalty: float  # of those that noise cannot tell from the best, the one with the least is taken

    @property
    def top1(self) -> list[float]:
        """Top-1 of each seed."""
        return [float(share) for share in np.atleast_2d(self.hits).mean(1)]

    @property
    def mean(self) -> float:
        """Mean top-1."""
        return float(self.hits.mean())


class Decision(NamedTuple, Generic[_K]):
    """Which candidate is taken, and how sure that is."""

    winner: _K  # of the best and all that noise cannot tell from it, the one with the least penalty
    best: _K  # by mean top-1
    runner_up: _K | None  # the best of those that noise cannot tell from it; where there is none, of all others
    lead: float  # of the best over the runner-up, in top-1
    noise: float  # half of the lead's 95 % interval
    p: float  # of the lead, corrected for the number of finalists
    tie: bool  # the lead is within noise
    seeds: int  # trainings of each; with one, noise is that of the images alone
    sees: float  # the smallest true lead that would be found four times in five

    def told(self) -> str:
        """Say what the lead is worth."""
        lead = f"the best leads the next by {self.lead:.1%} ± {self.noise:.1%}"
        if self.tie:
            return f"{lead}: within noise, a tie ({sees(self.sees, self.seeds)})"
        if self.seeds < 2:
            return f"{lead}, more than the images' noise; one seed cannot say what another would find"
        return f"{lead}: more than noise"


def decide(finalists: Mapping[_K, Finalist]) -> Decision[_K]:
    """Return the decision among finalists, at least one: the best is compared with each of the others.

    The comparisons are on the same images, over all seeds (effnet.statistics.difference), with the variance between
    seeds pooled over the finalists; p is corrected for their number (Holm).
    """
    ranked = sorted(finalists, key=lambda key: (-finalists[key].mean, finalists[key].penalty))
    best = ranked[0]
    if len(ranked) == 1:
        return Decision(best, best, None, 0.0, 0.0, 1.0, tie=False, seeds=len(finalists[best].top1), sees=0.0)
    pooled = scatter(finalist.top1 for finalist in finalists.values())
    gaps = {key: difference(finalists[best].hits, finalists[key].hits, pooled) for key in ranked[1:]}
    p_values = holm({key: gap.p for key, gap in gaps.items()})
    within = [best, *(key for key in ranked[1:] if p_values[key] > ALPHA)]
    winner = min(within, key=lambda key: (finalists[key].penalty, ranked.index(key)))
    # The second by top-1 may be significantly worse while a lower one, right about other images, is not.
    rival = within[1] if len(within) > 1 else ranked[1]
    gap, p = gaps[rival], p_values[rival]
    tie, seen = p > ALPHA, gap.sees(len(gaps))
    return Decision(winner, best, rival, gap.lead, gap.noise, p, tie=tie, seeds=gap.seeds, sees=seen)
