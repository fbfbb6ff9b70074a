"""Pillow's image operations on batches: uint8 (n, 3, H, W) in and out, with a separate value for every sample.

Each gives Pillow's result bit for bit (tests/data/augment/test_device_ops.py). Pointwise operations become a
table of 256 entries per sample and channel; affine ones compute every source pixel in integers, as Pillow does. They
are for the device; on the CPU Pillow itself is faster (effnet.data.augment.pillow_ops).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effnet.data.augment.pillow_ops import FILL
from effnet.data.augment.upload import uploaded

_Values = NDArray[np.float64]  # (n,)

_LUMA = (19595, 38470, 7471)  # of 65536: ITU-R 601-2, as Pillow's convert("L")


def identity(images: Tensor, _values: _Values) -> Tensor:
    """Return the images."""
    return images


def invert(images: Tensor, _values: _Values) -> Tensor:
    """Return 255 - v."""
    return 255 - images


def solarize(images: Tensor, thresholds: _Values) -> Tensor:
    """Invert values at or above the threshold (0..256)."""
    levels = _levels(images).int()
    return _look_up(
        images,
        torch.where(levels < uploaded(thresholds, images.device)[:, None], levels, 255 - levels).to(torch.uint8)[
            :, None
        ],
    )


def solarize_add(images: Tensor, additions: _Values) -> Tensor:
    """Add (0..110) to values below 128 (autoaugment.py of the official code)."""
    levels = _levels(images).int()
    added = (levels + uploaded(additions, images.device).int()[:, None]).clamp_(max=255)
    return _look_up(images, torch.where(levels < 128, added, levels).to(torch.uint8)[:, None])


def posterize(images: Tensor, bits: _Values) -> Tensor:
    """Keep the highest bits (0..8)."""
    masks = uploaded((256 - 2 ** (8 - bits.astype(np.int64))).astype(np.uint8), images.device)
    return images & masks[:, None, None, None]


def brightness(images: Tensor, factors: _Values) -> Tensor:
    """Blend with black: 0 black, 1 unchanged."""
    black = torch.zeros(len(images), 1, device=images.device)
    return _look_up(images, _blend(black, _levels(images), uploaded(factors, images.device))[:, None])


def contrast(images: Tensor, factors: _Values) -> Tensor:
    """Blend with the mean grey: 0 grey, 1 unchanged."""
    grey = luma(images)
    mean = (grey.flatten(1).sum(1, dtype=torch.int64).double() / grey[0].numel() + 0.5).floor()
    return _look_up(images, _blend(mean[:, None], _levels(images), uploaded(factors, images.device))[:, None])


def color(images: Tensor, factors: _Values) -> Tensor:
    """Blend with the grey image: 0 grey, 1 unchanged."""
    return _blend(luma(images)[:, None].float(), images.float(), uploaded(factors, images.device))


def sharpness(images: Tensor, factors: _Values) -> Tensor:
    """Blend with the smoothed image (3x3, centre 5, others 1, of 13): 0 smooth, 1 unchanged; the border is kept."""
    smooth = images.clone()
    if min(images.shape[2:]) >= 3:
        v = images.short()
        rows = v[:, :, :-2] + v[:, :, 1:-1]
        rows += v[:, :, 2:]
        total = v[:, :, 1:-1, 1:-1] * 4
        for part in (rows[..., :-2], rows[..., 1:-1], rows[..., 2:]):
            total += part
        # (total + 6.5) / 13, truncated: exact in float32, as total is at most 3,315
        smooth[:, :, 1:-1, 1:-1] = ((total.float() + 6.5) / 13).to(torch.uint8)
    return _blend(smooth.float(), images.float(), uploaded(factors, images.device))


def autocontrast(images: Tensor, _values: _Values) -> Tensor:
    """Stretch every channel to 0..255."""
    low, high = (bound.double()[..., None] for bound in images.flatten(2).aminmax(dim=2))
    scale = torch.full_like(low, 255.0) / (high - low)  # a number / a tensor would be rounded twice
    table = (_levels(images).double() * scale + -low * scale).trunc().clamp_(0, 255)
    return _look_up(images, torch.where(high > low, table, _levels(images).double()).to(torch.uint8))


def equalize(images: Tensor, _values: _Values) -> Tensor:
    """Even out every channel's histogram."""
    n, channels = images.shape[:2]
    flat = images.flatten(2).long()
    histogram = torch.zeros(n, channels, 256, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(2, flat, torch.ones_like(flat))
    last = flat.amax(2, keepdim=True)
    step = (flat.shape[2] - histogram.gather(2, last)) // 255
    below = histogram.cumsum(2) - histogram
    table = ((step // 2 + below) // step.clamp(min=1)).clamp_(max=255)
    several = (histogram > 0).sum(2, keepdim=True) > 1
    return _look_up(images, torch.where((step > 0) & several, table, _levels(images).long()).to(torch.uint8))


def shear_x(images: Tensor, values: _Values) -> Tensor:
    """Move each row by `value` times its number."""
    return _affine(images, lambda v: (1.0, v, 0.0, 0.0, 1.0, 0.0), values)


def shear_y(images: Tensor, values: _Values) -> Tensor:
    """Move each column by `value` times its number."""
    return _affine(images, lambda v: (1.0, 0.0, 0.0, v, 1.0, 0.0), values)


def translate_x(images: Tensor, pixels: _Values) -> Tensor:
    """Show what lies `pixels` further right."""
    return _affine(images, lambda v: (1.0, 0.0, v, 0.0, 1.0, 0.0), pixels)


def translate_y(images: Tensor, pixels: _Values) -> Tensor:
    """Show what lies `pixels` further down."""
    return _affine(images, lambda v: (1.0, 0.0, 0.0, 0.0, 1.0, v), pixels)


def rotate(images: Tensor, degrees: _Values) -> Tensor:
    """Turn about the centre, counter-clockwise."""
    height, width = images.shape[2:]

    def matrix(angle: float) -> tuple[float, ...]:
        radians = -math.radians(angle % 360.0)
        cos, sin = round(math.cos(radians), 15), round(math.sin(radians), 15)
        x, y = width / 2.0, height / 2.0
        return cos, sin, -cos * x - sin * y + x, -sin, cos, sin * x - cos * y + y

    return _affine(images, matrix, degrees)


OPS: dict[str, Callable[[Tensor, _Values], Tensor]] = {
    "AutoContrast": autocontrast,
    "Brightness": brightness,
    "Color": color,
    "Contrast": contrast,
    "Equalize": equalize,
    "Identity": identity,
    "Invert": invert,
    "Posterize": posterize,
    "Rotate": rotate,
    "Sharpness": sharpness,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "Solarize": solarize,
    "SolarizeAdd": solarize_add,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
}


def luma(images: Tensor) -> Tensor:
    """Return grey (n, H, W), int32 in 0..255, as Pillow's convert("L")."""
    red, green, blue = (plane.int() for plane in images.unbind(1))
    return red.mul_(_LUMA[0]).add_(green.mul_(_LUMA[1])).add_(blue.mul_(_LUMA[2])).add_(0x8000) >> 16


def _levels(images: Tensor) -> Tensor:
    return torch.arange(256, dtype=torch.uint8, device=images.device)


def _blend(base: Tensor, image: Tensor, factors: Tensor) -> Tensor:
    """Return base + factor * (image - base) in float32, clipped to 0..255 and truncated, as in Pillow's blend."""
    factors = factors.float().reshape(-1, *[1] * (max(base.ndim, image.ndim) - 1))
    base = base.float()
    return (image.float() - base).mul_(factors).add_(base).clamp_(0, 255).to(torch.uint8)


def _look_up(images: Tensor, tables: Tensor) -> Tensor:
    """Replace every level by its entry in the tables, (n, channels or 1, 256)."""
    n, channels = images.shape[:2]
    tables = tables.expand(n, channels, 256)
    return tables.gather(2, images.flatten(2).long()).reshape(images.shape)


def _affine(images: Tensor, matrix: Callable[[float], tuple[float, ...]], values: _Values) -> Tensor:
    """Return images whose pixel (x, y) is the nearest to (a x + b y + c, d x + e y + f), grey where there is none.

    Fixed-point arithmetic with 16 bits, as affine_fixed in Pillow's Geometry.c. Without rotation or shear Pillow uses
    the float arithmetic of its ImagingScaleAffine, which gives the same for whole steps.
    """
    n, channels, height, width = images.shape
    device = images.device
    fixed = []
    for value in values.tolist():
        a, b, c, d, e, f = matrix(value)
        fixed.append([_fix(v) for v in (a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5)])
    a, b, c, d, e, f = uploaded(np.array(fixed, np.int64), device).T[..., None, None]
    x = torch.arange(width, device=device)
    y = torch.arange(height, device=device)[:, None]
    left, top = (c + a * x + b * y) >> 16, (f + d * x + e * y) >> 16
    inside = (left >= 0) & (left < width) & (top >= 0) & (top < height)
    place = torch.where(inside, top * width + left, 0).reshape(n, 1, -1).expand(n, channels, -1)
    moved = images.flatten(2).gather(2, place).reshape(images.shape)
    return torch.where(inside[:, None], moved, FILL)


def _fix(value: float) -> int:
    return math.floor(value * 65536.0 + 0.5)
