"""Random numbers that are pure functions of integers: no state, the same on every machine and with any workers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(*parts: int | NDArray[Any]) -> NDArray[np.uint64]:
    """Return 64 well-mixed bits for every combination of the (broadcast) integers.

    Chained splitmix64 finalizers (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
    """
    state = np.zeros((), np.uint64)
    for part in parts:
        # Wrapping multiplication is the algorithm; numpy warns about it for scalars only.
        with np.errstate(over="ignore"):
            state = _finalize((state ^ np.asarray(part).astype(np.uint64)) + _GOLDEN)
    return np.asarray(state)


def uniform(*parts: int | NDArray[Any]) -> NDArray[np.float64]:
    """Return numbers in [0, 1) with 53 random bits, one for every combination of the (broadcast) integers."""
    return (mix(*parts) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(num: int, *parts: int) -> NDArray[np.int64]:
    """Return a shuffled 0..num-1."""
    return np.argsort(mix(*parts, np.arange(num)), kind="stable")


def _finalize(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
