"""When a new model takes the place of the one in use."""

from __future__ import annotations

import math
from typing import NamedTuple

RULE = (
    "a candidate becomes champion if its top-1 on the validation split is better than the champion's by more than "
    "noise (1.96 standard errors of the difference), or within noise and it needs fewer multiply-adds"
)


class Score(NamedTuple):
    """What the gate looks at."""

    top1: float  # on val, 0..1
    samples: int  # images of val
    macs: int


class Verdict(NamedTuple):
    """What the gate says."""

    takes_over: bool
    reason: str


def judge(new: Score, champion: Score | None) -> Verdict:
    """Return whether `new` takes the champion's place (RULE), and why."""
    if champion is None:
        return Verdict(True, "the first of its name")
    gain = new.top1 - champion.top1
    noise = 1.96 * math.sqrt(sum(score.top1 * (1 - score.top1) / score.samples for score in (new, champion)))
    told = f"top-1 {new.top1:.2%} against {champion.top1:.2%}, noise {noise:.2%}"
    if gain > noise:
        return Verdict(True, f"better: {told}")
    if gain < -noise:
        return Verdict(False, f"worse: {told}")
    if new.macs < champion.macs:
        return Verdict(True, f"as good and cheaper ({new.macs:,} for {champion.macs:,} multiply-adds): {told}")
    return Verdict(False, f"no better than noise and not cheaper: {told}")
