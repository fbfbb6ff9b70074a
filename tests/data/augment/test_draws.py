"""Random numbers that are pure functions of integers."""

from __future__ import annotations

import numpy as np

from effnet.data.augment.draws import mix, permutation, uniform


def test_values_never_change() -> None:
    # Stored runs resume on these numbers: a change must raise CACHE_VERSION.
    assert mix(1, np.arange(2)).tolist() == [6791897765849424158, 16860738450190168606]


def test_uniform_fills_the_unit_interval() -> None:
    numbers = uniform(7, np.arange(100_000))
    assert 0 <= numbers.min() < numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    # Chi-squared with 19 degrees of freedom exceeds 43.8 once in a thousand draws.
    assert ((counts - 5000) ** 2 / 5000).sum() < 43.8


def test_neighbouring_keys_are_unrelated() -> None:
    one, other = uniform(0, np.arange(10_000)), uniform(1, np.arange(10_000))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.04


def test_permutation_holds_every_number_once() -> None:
    order = permutation(1000, 3, 4)
    assert sorted(order) == list(range(1000))
    assert not np.array_equal(order, permutation(1000, 3, 5))
