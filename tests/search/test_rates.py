"""Which learning rate is taken, and what is said of the others."""

from __future__ import annotations

import math

import numpy as np
import pytest

from effnet.search.decision import Finalist
from effnet.search.rates import choose, findings, first_rates, further_rates, short_epochs


def tried(top1: dict[float, int], loss: dict[float, float] | None = None, of: int = 1000) -> dict[float, Finalist]:
    """Return finalists of two seeds, right about so many images, the easy ones first; less loss where more is right."""
    return {
        rate: Finalist(
            np.array([np.arange(of) < right + seed for seed in range(2)]), (loss or {}).get(rate, 1 - right / of)
        )
        for rate, right in top1.items()
    }


def test_rates_lie_around_the_configs_own() -> None:
    assert first_rates(0.08) == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64])
    assert 0.08 in first_rates(0.08)
    assert max(first_rates(4.0)) == 8.0  # a recipe takes 10 at most


@pytest.mark.parametrize(("epochs", "short"), [(1, 1), (6, 6), (15, 8), (90, 9), (350, 35)])
def test_trainings_are_short(epochs: int, short: int) -> None:
    assert short_epochs(epochs) == short


def test_the_best_is_suggested_and_what_noise_cannot_tell_from_it_is_as_good() -> None:
    found = choose(tried({0.01: 300, 0.02: 700, 0.04: 898, 0.08: 900, 0.16: 899, 0.32: 500}))
    assert found.suggested == 0.08
    assert found.as_good == (0.04, 0.08, 0.16)


def test_within_noise_the_least_loss_decides() -> None:
    rates = {0.04: 896, 0.08: 900, 0.16: 700}
    assert choose(tried(rates, {0.04: 0.30, 0.08: 0.31, 0.16: 0.01})).suggested == 0.04


def test_the_range_has_no_gap() -> None:
    rates = {0.01: 899, 0.02: 500, 0.04: 900, 0.08: 898}
    assert choose(tried(rates, {0.01: 0.5})).as_good == (0.04, 0.08)


def test_where_the_best_is_the_last_more_is_tried_until_the_recipes_limit() -> None:
    assert further_rates(0.64, {0.01, 0.64}, set()) == pytest.approx([1.28, 2.56])
    assert further_rates(0.01, {0.01, 0.64}, set()) == pytest.approx([0.0025, 0.005])
    assert further_rates(0.08, {0.01, 0.08, 0.64}, set()) == []
    assert further_rates(8.0, {1.0, 8.0}, set()) == []
    assert further_rates(0.64, {0.01, 0.64}, {1.28}) == []  # that one is too large: nothing lies beyond


def test_what_is_said_of_each_rate() -> None:
    found = findings(0.02, tried({0.02: 700, 0.04: 900, 0.08: 898}), {0.16})
    assert (found.suggested, found.range, found.stays, found.at_edge) == (0.04, (0.04, 0.08), False, False)
    low, best, high, lost = found.rates
    assert [each.learning_rate for each in found.rates] == [0.02, 0.04, 0.08, 0.16]
    assert (best.lead, best.noise) == (0, 0)
    assert low.lead == pytest.approx(-0.2)
    assert not low.as_good
    assert high.as_good
    assert high.noise is not None
    assert -high.noise < (high.lead or math.inf) < 0
    assert (lost.top1, lost.loss, lost.as_good) == (None, None, False)
    assert findings(0.08, tried({0.04: 900, 0.08: 898}), set()).stays
    assert findings(0.04, tried({0.04: 900, 0.08: 800}), set()).at_edge
