"""When a new model takes the champion's place."""

from __future__ import annotations

import pytest

from effnet.champion import Score, judge

OLD = Score(top1=0.90, samples=10_000, macs=1000)  # noise of a difference: 0.83 points


@pytest.mark.parametrize(
    ("new", "takes_over", "word"),
    [
        (Score(0.95, 10_000, 2000), True, "better"),
        (Score(0.905, 10_000, 1000), False, "no better than noise"),
        (Score(0.905, 10_000, 2000), False, "no better than noise"),
        (Score(0.895, 10_000, 999), True, "cheaper"),
        (Score(0.85, 10_000, 1), False, "worse"),
        (Score(0.93, 100, 2000), False, "no better than noise"),  # few images say little
        (OLD, False, "no better"),
    ],
)
def test_gate(new: Score, takes_over: bool, word: str) -> None:
    verdict = judge(new, OLD)
    assert verdict.takes_over is takes_over
    assert word in verdict.reason


def test_the_first_is_champion() -> None:
    assert judge(OLD, None).takes_over
