"""The operations of augmentation policies on the CPU: Pillow's own, one image after the other, in threads.

On a GPU the same results come from effnet.data.augment.kernels, a whole batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

FILL = 128  # grey, which the official code fills in where an image was moved away
_GREY = (FILL,) * 3

Step = tuple[str, float]  # operation, value


def _affine(matrix: Callable[[float], tuple[float, ...]]) -> Callable[[Image.Image, float], Image.Image]:
    def move(image: Image.Image, value: float) -> Image.Image:
        return image.transform(
            image.size, Image.Transform.AFFINE, matrix(value), Image.Resampling.NEAREST, fillcolor=_GREY
        )

    return move


def _posterize(image: Image.Image, bits: float) -> Image.Image:
    mask = 256 - 2 ** (8 - int(bits))  # ImageOps.posterize refuses 0 bits
    return image.point([level & mask for level in range(256)] * 3)


def _solarize_add(image: Image.Image, addition: float) -> Image.Image:
    return image.point([min(255, level + int(addition)) if level < 128 else level for level in range(256)] * 3)


PILLOW_OPS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "Color": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "Contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Identity": lambda image, _: image,
    "Invert": lambda image, _: ImageOps.invert(image),
    "Posterize": _posterize,
    "Rotate": lambda image, degrees: image.rotate(degrees, Image.Resampling.NEAREST, fillcolor=_GREY),
    "Sharpness": lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
    "ShearX": _affine(lambda v: (1, v, 0, 0, 1, 0)),
    "ShearY": _affine(lambda v: (1, 0, 0, v, 1, 0)),
    "Solarize": lambda image, threshold: ImageOps.solarize(image, int(threshold)),
    "SolarizeAdd": _solarize_add,
    "TranslateX": _affine(lambda v: (1, 0, v, 0, 1, 0)),
    "TranslateY": _affine(lambda v: (1, 0, 0, 0, 1, v)),
}


def apply(images: Tensor, steps: Sequence[Sequence[Step]]) -> Tensor:
    """Return uint8 (n, 3, H, W) images, each after its own steps, in as many threads as torch has."""
    changed = images.permute(0, 2, 3, 1).contiguous()
    changed = changed.clone() if changed.data_ptr() == images.data_ptr() else changed
    pixels = changed.numpy()
    threads = min(torch.get_num_threads(), len(pixels))
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for _ in pool.map(lambda first: _run(pixels[first::threads], steps[first::threads]), range(threads)):
            pass
    return changed.permute(0, 3, 1, 2)


def _run(pixels: NDArray[np.uint8], steps: Sequence[Sequence[Step]]) -> None:
    for row, wanted in zip(pixels, steps, strict=True):
        if wanted:
            image = Image.fromarray(row)
            for op, value in wanted:
                image = PILLOW_OPS[op](image, value)
            row[:] = np.asarray(image)
