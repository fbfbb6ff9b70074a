"""Pillow's image operations on a GPU, bit for bit: two kernels for each layer of a batch's augmentation.

Every sample has its own operation, a line of numbers (effnet.data.augment.codes) that the host wrote. The first kernel
works out the tables of those operations that map levels; the second makes the images. Written in Triton, which torch
for CUDA brings along; its interpreter runs the same code on a CPU for the tests (tests/data/augment/test_kernels.py).
On the CPU Pillow itself is faster (effnet.data.augment.pillow_ops).
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from effnet.data.augment import codes
from effnet.data.augment.pillow_ops import FILL
from effnet.gpu import uploaded

_PIXELS = 1024  # that a program looks at at a time

_AFFINE, _COLOR, _SHARPNESS, _ERASE = (
    tl.constexpr(kind) for kind in (codes.AFFINE, codes.COLOR, codes.SHARPNESS, codes.ERASE)
)
_INVERT, _SOLARIZE, _SOLARIZE_ADD, _POSTERIZE, _BRIGHTNESS, _CONTRAST, _AUTOCONTRAST, _EQUALIZE = (
    tl.constexpr(kind) for kind in range(codes.INVERT, codes.EQUALIZE + 1)
)
_WIDTH, _GREY = tl.constexpr(codes.WIDTH), tl.constexpr(FILL)


@triton.jit
def _luma(red, green, blue):
    """ITU-R 601-2, as Pillow's convert("L")."""
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


@triton.jit
def _factor(lines, place):
    """Read a factor: the bits of a float32."""
    return tl.load(lines + place).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _blend(base, level, factor):
    """base + factor * (level - base), clipped and truncated, as Pillow's blend."""
    base = base.to(tl.float32)
    mixed = (level.to(tl.float32) - base) * factor + base
    return tl.minimum(tl.maximum(mixed, 0.0), 255.0).to(tl.int32)


@triton.jit(do_not_specialize=("positions",))
def _write_tables(images, lines, tables, positions, PIXELS: tl.constexpr):
    """For each sample and channel whose operation has one, write the table of its 256 levels."""
    sample, channel = tl.program_id(0).to(tl.int64), tl.program_id(1)
    kind = tl.load(lines + sample * _WIDTH)
    if kind >= _INVERT:
        value = tl.load(lines + sample * _WIDTH + 1).to(tl.int32)
        factor = _factor(lines, sample * _WIDTH + 1)
        level = tl.arange(0, 256)
        count = tl.zeros((256,), tl.int32)
        if kind >= _CONTRAST:
            for first in range(0, positions, PIXELS):
                place = first + tl.arange(0, PIXELS)
                mask = place < positions
                base = images + (sample * positions + place) * 3
                v = tl.load(base + channel, mask=mask, other=0).to(tl.int32)
                if kind == _CONTRAST:
                    red = tl.load(base, mask=mask, other=0).to(tl.int32)
                    green = tl.load(base + 1, mask=mask, other=0).to(tl.int32)
                    blue = tl.load(base + 2, mask=mask, other=0).to(tl.int32)
                    v = tl.where(mask, _luma(red, green, blue), 0)
                count += tl.histogram(v, 256).to(tl.int32)
            padded = tl.cdiv(positions, PIXELS) * PIXELS - positions
            count -= tl.where(level == 0, padded, 0)
        table = level
        if kind == _INVERT:
            table = 255 - level
        if kind == _SOLARIZE:
            table = tl.where(level < value, level, 255 - level)
        if kind == _SOLARIZE_ADD:
            table = tl.where(level < 128, tl.minimum(level + value, 255), level)
        if kind == _POSTERIZE:
            table = level & (256 - (1 << (8 - value)))
        if kind == _BRIGHTNESS:
            table = _blend(level * 0, level, factor)
        if kind == _CONTRAST:
            total = tl.sum(count.to(tl.int64) * level.to(tl.int64), 0).to(tl.float64)
            mean = tl.floor(total / positions + 0.5).to(tl.int32)
            table = _blend(level * 0 + mean, level, factor)
        if kind == _AUTOCONTRAST:
            table = _stretched(count, level)
        if kind == _EQUALIZE:
            table = _evened(count, level, positions)
        tl.store(tables + (sample * 3 + channel) * 256 + level, table.to(tl.uint8))


@triton.jit
def _stretched(count, level):
    """Stretch from the lowest to the highest level that occurs to 0..255."""
    low = tl.min(tl.where(count > 0, level, 255), 0)
    high = tl.max(tl.where(count > 0, level, 0), 0)
    several = high > low
    scale = 255.0 / tl.where(several, high - low, 1).to(tl.float64)
    moved = level.to(tl.float64) * scale + (-low).to(tl.float64) * scale
    moved = tl.minimum(tl.maximum(moved, 0.0), 255.0).to(tl.int32)
    return tl.where(several, moved, level)


@triton.jit
def _evened(count, level, positions):
    """Even out the histogram."""
    last = tl.max(tl.where(count > 0, level, 0), 0)
    step = (positions - tl.sum(tl.where(level == last, count, 0), 0)) // 255
    below = tl.cumsum(count, 0) - count
    evened = tl.minimum((step // 2 + below) // tl.maximum(step, 1), 255)
    several = tl.sum((count > 0).to(tl.int32), 0) > 1
    return tl.where((step > 0) & several, evened, level)


@triton.jit
def _smooth(base, place, x, y, height, width, mask):
    """Return a channel smoothed by 3 x 3, the centre 5, the others 1, of 13; the border as it is."""
    inner = mask & (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
    v = tl.load(base + place * 3, mask=mask, other=0).to(tl.int32)
    total = v * 4
    for down in tl.static_range(-1, 2):
        for right in tl.static_range(-1, 2):
            total += tl.load(base + (place + down * width + right) * 3, mask=inner, other=0).to(tl.int32)
    # (total + 6.5) / 13, truncated
    return tl.where(inner, (2 * total + 13) // 26, v)


@triton.jit(do_not_specialize=("height", "width"))
def _write_images(images, lines, tables, out, height, width, PIXELS: tl.constexpr):
    """Make each sample's pixels by its operation."""
    sample = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    positions = height * width
    mask = place < positions
    x, y = place % width, place // width
    line = sample * _WIDTH
    kind = tl.load(lines + line)
    base = images + sample * positions * 3
    source, shown = place, mask
    if kind == _AFFINE:
        a, b, c = tl.load(lines + line + 1), tl.load(lines + line + 2), tl.load(lines + line + 3)
        d, e, f = tl.load(lines + line + 4), tl.load(lines + line + 5), tl.load(lines + line + 6)
        left = (c + a * x + b * y) >> 16
        top = (f + d * x + e * y) >> 16
        shown = mask & (left >= 0) & (left < width) & (top >= 0) & (top < height)
        source = tl.where(shown, top * width + left, 0).to(tl.int32)
    red = tl.load(base + source * 3, mask=shown, other=_GREY).to(tl.int32)
    green = tl.load(base + source * 3 + 1, mask=shown, other=_GREY).to(tl.int32)
    blue = tl.load(base + source * 3 + 2, mask=shown, other=_GREY).to(tl.int32)
    if kind >= _INVERT:
        table = tables + sample * 3 * 256
        red = tl.load(table + red, mask=mask, other=0).to(tl.int32)
        green = tl.load(table + 256 + green, mask=mask, other=0).to(tl.int32)
        blue = tl.load(table + 512 + blue, mask=mask, other=0).to(tl.int32)
    if kind == _COLOR:
        factor = _factor(lines, line + 1)
        grey = _luma(red, green, blue)
        red, green, blue = _blend(grey, red, factor), _blend(grey, green, factor), _blend(grey, blue, factor)
    if kind == _SHARPNESS:
        factor = _factor(lines, line + 1)
        red = _blend(_smooth(base, place, x, y, height, width, mask), red, factor)
        green = _blend(_smooth(base + 1, place, x, y, height, width, mask), green, factor)
        blue = _blend(_smooth(base + 2, place, x, y, height, width, mask), blue, factor)
    if kind == _ERASE:
        over = (x >= tl.load(lines + line + 1)) & (x < tl.load(lines + line + 3))
        over = over & (y >= tl.load(lines + line + 2)) & (y < tl.load(lines + line + 4))
        red, green, blue = tl.where(over, _GREY, red), tl.where(over, _GREY, green), tl.where(over, _GREY, blue)
    to = out + (sample * positions + place) * 3
    tl.store(to, red.to(tl.uint8), mask=mask)
    tl.store(to + 1, green.to(tl.uint8), mask=mask)
    tl.store(to + 2, blue.to(tl.uint8), mask=mask)


def apply(images: Tensor, lines: NDArray[np.int64]) -> Tensor:
    """Return images after each of the layers.

    Args:
        images: uint8 (n, 3, H, W), on a GPU.
        lines: (layers, n, codes.WIDTH).
    """
    now = images.permute(0, 2, 3, 1).contiguous()
    samples, height, width, _ = now.shape
    tables = torch.empty(samples, 3, 256, dtype=torch.uint8, device=now.device)
    grid = (samples, triton.cdiv(height * width, _PIXELS))
    for layer, host in zip(uploaded(torch.from_numpy(lines), now.device), lines, strict=True):
        if (host[:, 0] >= codes.INVERT).any():
            # Products and sums are rounded one by one, as on the CPU.
            _write_tables[(samples, 3)](now, layer, tables, height * width, PIXELS=_PIXELS, enable_fp_fusion=False)
        out = torch.empty_like(now)
        _write_images[grid](now, layer, tables, out, height, width, PIXELS=_PIXELS, enable_fp_fusion=False)
        now = out
    return now.permute(0, 3, 1, 2)
