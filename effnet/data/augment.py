"""Training augmentation, drawn by number: the same (seed, epoch, sample) always gives the same image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from effnet.config import Augment
from effnet.data.decode import Box, Pixels, crop_resize
from effnet.data.keyed import uniform

_TRIES = 10  # as in the official code and torchvision
_DRAWS = 1 + 4 * _TRIES


def draws(seed: int, epoch: int, samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (len(samples), draws per sample) numbers in [0, 1)."""
    return uniform(seed, epoch, samples[:, None], np.arange(_DRAWS))


def augment(pixels: Pixels, config: Augment, resolution: int, numbers: NDArray[np.float64]) -> Pixels:
    """Return a random crop, resized and perhaps mirrored: (resolution, resolution, 3)."""
    box = random_box(pixels.shape[1], pixels.shape[0], config, numbers[1:])
    crop = crop_resize(pixels, box, resolution)
    return crop[:, ::-1] if config.flip and numbers[0] < 0.5 else crop


def random_box(width: int, height: int, config: Augment, numbers: NDArray[np.float64]) -> Box:
    """Return a box of random area and ratio inside the image; the central square if no try fits.

    Inception-style cropping (Szegedy et al., 2014), as distorted_bounding_box_crop in preprocessing.py of the official
    code without its object boxes.
    """
    low, high = (math.log(ratio) for ratio in config.crop_ratio)
    for area, ratio, x, y in numbers.reshape(_TRIES, 4):
        target = width * height * (config.crop_area[0] + area * (config.crop_area[1] - config.crop_area[0]))
        aspect = math.exp(low + ratio * (high - low))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(x * (width - w + 1)), int(y * (height - h + 1)), w, h)
    side = min(width, height)
    return Box((width - side) // 2, (height - side) // 2, side, side)
