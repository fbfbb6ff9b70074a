"""Numbers from a formula: the same in every process and with every version of every library. Needs numpy alone."""

from __future__ import annotations

import math
import zlib

import numpy as np


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return float64 numbers in [-1, 1) that depend on the name and the position alone (splitmix64)."""
    number = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)
    number = number * np.uint64(0x9E3779B97F4A7C15)
    number = (number ^ (number >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    number = number ^ (number >> np.uint64(31))
    return (number >> np.uint64(11)).astype(np.float64).reshape(shape) / 2**52 - 1


def weights(name: str, shape: tuple[int, ...], variance: float = 1.0) -> np.ndarray:
    """Return the numbers for a tensor of a network; `variance` is what a norm's input has, about."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    values = uniform(name, shape)
    if name.endswith("running_var"):
        values = variance * (1 + 0.5 * values)
    elif len(shape) == 1:  # a norm's or a bias
        is_scale = name.endswith("weight")
        values = 1 + 0.2 * values if is_scale else 0.1 * values
    else:
        values = values * math.sqrt(3 / math.prod(shape[1:]))
    return values.astype(np.float32)


def image(resolution: int) -> np.ndarray:
    """Return one normalised image (1, 3, resolution, resolution)."""
    return (1.7 * uniform("image", (1, 3, resolution, resolution))).astype(np.float32)
