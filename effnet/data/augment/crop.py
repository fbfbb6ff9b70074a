"""Training augmentation, drawn by number: the same (seed, epoch, sample) always gives the same image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from effnet.config import Augment
from effnet.data.augment.draws import uniform
from effnet.data.images.decode import Box

_TRIES = 10  # as in the official code and torchvision
_DRAWS = 1 + 4 * _TRIES


def draws(seed: int, epoch: int, samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (len(samples), draws per sample) numbers in [0, 1)."""
    return uniform(seed, epoch, samples[:, None], np.arange(_DRAWS))


def is_flipped(config: Augment, numbers: NDArray[np.float64]) -> bool:
    """Say whether a sample with these draws is mirrored."""
    return bool(config.flip and numbers[0] < 0.5)


def random_box(width: int, height: int, config: Augment, numbers: NDArray[np.float64]) -> Box:
    """Return a box of random area and ratio inside the image, by a sample's draws; the central square if no try fits.

    Inception-style cropping (Szegedy et al., 2014): area uniform, ratio log-uniform, as torchvision and timm draw. The
    official code draws the side and the ratio uniformly (distorted_bounding_box_crop in preprocessing.py).
    """
    low, high = (math.log(ratio) for ratio in config.crop_ratio)
    for area, ratio, x, y in numbers[1:].reshape(_TRIES, 4).tolist():
        target = width * height * (config.crop_area[0] + area * (config.crop_area[1] - config.crop_area[0]))
        aspect = math.exp(low + ratio * (high - low))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(x * (width - w + 1)), int(y * (height - h + 1)), w, h)
    side = min(width, height)
    return Box((width - side) // 2, (height - side) // 2, side, side)
