"""Successive halving (arXiv 1502.07943): train all a little, the better ones longer, and the best to the end."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

FIRST = 4  # the first rung is at least one part in this many of all epochs

_K = TypeVar("_K", bound=Hashable)


class Rung(NamedTuple):
    """This many candidates, each trained for this many epochs."""

    candidates: int
    epochs: int


def rungs(candidates: int, epochs: int, factor: int = 4) -> list[Rung]:
    """Return the rungs from all candidates to the last few, which are trained for all `epochs`.

    The candidates shrink by `factor` from rung to rung, the epochs grow by it; the last rung has at least two, so that
    there is a winner and one that it beat. No rung is shorter than a quarter of the epochs: a shorter one would pick
    those that learn fastest at first, and they are the wide ones.
    """
    number = 1
    while candidates > 2 * factor ** (number - 1) and factor**number <= FIRST and epochs >= factor**number:
        number += 1
    found = []
    for index in range(number):
        left = max(min(candidates, 2), math.ceil(candidates / factor**index))
        found.append(Rung(left, math.ceil(epochs / factor ** (number - 1 - index))))
    return found


def total_epochs(plan: Sequence[Rung]) -> int:
    """Return the epochs of all trainings together; each rung starts from scratch, with a whole schedule of its own."""
    return sum(rung.candidates * rung.epochs for rung in plan)


def promoted(scores: Mapping[_K, tuple[float, float]], number: int) -> list[_K]:
    """Return the `number` best by their scores, the largest first; of equals the one that comes first."""
    return sorted(scores, key=lambda key: scores[key], reverse=True)[:number]


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return Spearman's ρ of two scores of the same candidates; None where it has no meaning (fewer than three)."""
    if len(one) < 3 or len(set(one)) == 1 or len(set(other)) == 1:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(one, other).statistic)
