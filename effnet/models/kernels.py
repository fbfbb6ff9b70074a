"""Batch norm, activation, residual and squeeze-and-excitation of a training on a GPU, in as few passes as possible.

These are bound by memory: cuDNN's norm, torch's activation and the rest read and write an image's activations two dozen
times per step where half of it would do, and keep each twice for the backward pass. Here a norm with its activation
reads its input twice and writes once, and keeps the input alone. Images are channels last in memory, (rows, channels);
sums are in float32 and in a fixed order, so that results repeat to the bit.

Written in Triton, which torch for CUDA brings along; its interpreter runs the same code on a CPU for the tests.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_TILE = 4096  # numbers that a program holds at a time
_PROGRAMS = 1024  # that share a reduction, about; a large GPU runs as many at once

ACTIVATIONS = {"none": 0, "silu": 1, "relu": 2, "relu6": 3}


@triton.jit
def _activate(z, ACT: tl.constexpr):
    if ACT == 1:
        z = z * tl.sigmoid(z)
    if ACT >= 2:
        z = tl.maximum(z, 0.0)
    if ACT == 3:
        z = tl.minimum(z, 6.0)
    return z


@triton.jit
def _slope(z, ACT: tl.constexpr):
    slope = tl.full(z.shape, 1.0, tl.float32)
    if ACT == 1:
        s = tl.sigmoid(z)
        slope = s * (1.0 + z * (1.0 - s))
    if ACT == 2:
        slope = tl.where(z > 0.0, 1.0, 0.0)
    if ACT == 3:
        slope = tl.where((z > 0.0) & (z < 6.0), 1.0, 0.0)
    return slope


@triton.jit(do_not_specialize=("rows", "units", "stretch"))
def _sum_forward(x, shift, partial, rows, units, stretch, UNIT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Sum x - shift and its square over a stretch of rows: partial, (2, stretches, channels)."""
    channels = units * UNIT
    number, stretches = tl.program_id(0), tl.num_programs(0)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    there = col < channels
    k = tl.load(shift + col, mask=there, other=0.0)
    one = tl.zeros((ROWS, COLS), tl.float32)
    two = tl.zeros((ROWS, COLS), tl.float32)
    end = tl.minimum((number + 1) * stretch, rows)
    for first in range(number * stretch, end, ROWS):
        row = first + tl.arange(0, ROWS)
        mask = (row < end)[:, None] & there[None, :]
        v = tl.load(x + row.to(tl.int64)[:, None] * channels + col[None, :], mask=mask, other=0.0).to(tl.float32)
        v = tl.where(mask, v - k[None, :], 0.0)
        one += v
        two += v * v
    tl.store(partial + number * channels + col, tl.sum(one, 0), mask=there)
    tl.store(partial + (stretches + number) * channels + col, tl.sum(two, 0), mask=there)


@triton.jit(do_not_specialize=("stretches", "rows", "units"))
def _statistics(
    partial, weight, bias, running_mean, running_var, kept, stretches, rows, units, momentum, epsilon,
    UNIT: tl.constexpr, PARTS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Move the running statistics; write scale, shift, mean and 1 / standard deviation: kept, (4, channels)."""
    channels = units * UNIT
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    there = col < channels
    one = tl.zeros((COLS,), tl.float32)
    two = tl.zeros((COLS,), tl.float32)
    for first in range(0, stretches, PARTS):
        part = first + tl.arange(0, PARTS)
        mask = (part < stretches)[:, None] & there[None, :]
        place = part[:, None] * channels + col[None, :]
        one += tl.sum(tl.load(partial + place, mask=mask, other=0.0), 0)
        two += tl.sum(tl.load(partial + stretches * channels + place, mask=mask, other=0.0), 0)
    k = tl.load(running_mean + col, mask=there, other=0.0)
    before = tl.load(running_var + col, mask=there, other=0.0)
    away = one / rows
    mean = k + away
    variance = tl.maximum(two / rows - away * away, 0.0)
    unbiased = variance * (rows / tl.maximum(rows - 1.0, 1.0))
    inverse = 1.0 / tl.sqrt(variance + epsilon)
    scale = tl.load(weight + col, mask=there, other=0.0) * inverse
    tl.store(running_mean + col, k + momentum * away, mask=there)
    tl.store(running_var + col, before + momentum * (unbiased - before), mask=there)
    tl.store(kept + col, scale, mask=there)
    tl.store(kept + channels + col, tl.load(bias + col, mask=there, other=0.0) - mean * scale, mask=there)
    tl.store(kept + 2 * channels + col, mean, mask=there)
    tl.store(kept + 3 * channels + col, inverse, mask=there)


@triton.jit(do_not_specialize=("rows", "units", "positions"))
def _norm_forward(
    x, kept, drop, residual, y, rows, units, positions,
    ACT: tl.constexpr, DROP: tl.constexpr, ADD: tl.constexpr,
    UNIT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """y = act(x * scale + shift) * drop[sample] + residual."""
    channels = units * UNIT
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    mask = (row < rows)[:, None] & (col < channels)[None, :]
    place = row.to(tl.int64)[:, None] * channels + col[None, :]
    scale = tl.load(kept + col, mask=col < channels, other=0.0)[None, :]
    shift = tl.load(kept + channels + col, mask=col < channels, other=0.0)[None, :]
    z = _activate(tl.load(x + place, mask=mask, other=0.0).to(tl.float32) * scale + shift, ACT)
    if DROP:
        z *= tl.load(drop + row // positions, mask=row < rows, other=0.0)[:, None]
    if ADD:
        z += tl.load(residual + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + place, z.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=("rows", "units", "positions", "stretch"))
def _sum_backward(
    x, dy, kept, drop, partial, rows, units, positions, stretch,
    ACT: tl.constexpr, DROP: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Sum the gradient of the norm's output, and its product with the normalised input, over a stretch of rows."""
    channels = units * UNIT
    number, stretches = tl.program_id(0), tl.num_programs(0)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    there = col < channels
    scale, shift, mean, inverse = _load_kept(kept, col, there, channels)
    one = tl.zeros((ROWS, COLS), tl.float32)
    two = tl.zeros((ROWS, COLS), tl.float32)
    end = tl.minimum((number + 1) * stretch, rows)
    for first in range(number * stretch, end, ROWS):
        row = first + tl.arange(0, ROWS)
        mask = (row < end)[:, None] & there[None, :]
        place = row.to(tl.int64)[:, None] * channels + col[None, :]
        v = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
        g = tl.load(dy + place, mask=mask, other=0.0).to(tl.float32) * _slope(v * scale + shift, ACT)
        if DROP:
            g *= tl.load(drop + row // positions, mask=row < end, other=0.0)[:, None]
        one += g
        two += g * (v - mean) * inverse
    tl.store(partial + number * channels + col, tl.sum(one, 0), mask=there)
    tl.store(partial + (stretches + number) * channels + col, tl.sum(two, 0), mask=there)


@triton.jit
def _load_kept(kept, col, there, channels):
    scale = tl.load(kept + col, mask=there, other=0.0)[None, :]
    shift = tl.load(kept + channels + col, mask=there, other=0.0)[None, :]
    mean = tl.load(kept + 2 * channels + col, mask=there, other=0.0)[None, :]
    inverse = tl.load(kept + 3 * channels + col, mask=there, other=0.0)[None, :]
    return scale, shift, mean, inverse


@triton.jit(do_not_specialize=("rows", "units", "positions"))
def _norm_backward(
    x, dy, kept, drop, sums, dx, rows, units, positions,
    ACT: tl.constexpr, DROP: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """dx = scale * (g - mean of g - normalised x * mean of g * normalised x), g the gradient of the norm's output."""
    channels = units * UNIT
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    there = col < channels
    mask = (row < rows)[:, None] & there[None, :]
    place = row.to(tl.int64)[:, None] * channels + col[None, :]
    scale, shift, mean, inverse = _load_kept(kept, col, there, channels)
    one = tl.load(sums + col, mask=there, other=0.0)[None, :] / rows
    two = tl.load(sums + channels + col, mask=there, other=0.0)[None, :] / rows
    v = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(dy + place, mask=mask, other=0.0).to(tl.float32) * _slope(v * scale + shift, ACT)
    if DROP:
        g *= tl.load(drop + row // positions, mask=row < rows, other=0.0)[:, None]
    d = scale * (g - one - (v - mean) * inverse * two)
    tl.store(dx + place, d.to(dx.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=("units", "positions"))
def _sum_positions(
    x, other, found, units, positions, factor,
    TIMES: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Sum x, or x times another, over a sample's positions, times a factor: found, (samples, channels)."""
    channels = units * UNIT
    sample = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    total = tl.zeros((ROWS, COLS), tl.float32)
    for first in range(0, positions, ROWS):
        row = first + tl.arange(0, ROWS)
        mask = (row < positions)[:, None] & (col < channels)[None, :]
        place = (sample * positions + row)[:, None] * channels + col[None, :]
        v = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
        if TIMES:
            v *= tl.load(other + place, mask=mask, other=0.0).to(tl.float32)
        total += v
    tl.store(found + sample * channels + col, tl.sum(total, 0) * factor, mask=col < channels)


@triton.jit(do_not_specialize=("rows", "units", "positions"))
def _times_gate(
    x, gate, more, y, rows, units, positions,
    ADD: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """y = x * gate[sample, channel] + more[sample, channel]."""
    channels = units * UNIT
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    mask = (row < rows)[:, None] & (col < channels)[None, :]
    place = row.to(tl.int64)[:, None] * channels + col[None, :]
    of = (row // positions)[:, None] * channels + col[None, :]
    v = tl.load(x + place, mask=mask, other=0.0).to(tl.float32) * tl.load(gate + of, mask=mask, other=0.0)
    if ADD:
        v += tl.load(more + of, mask=mask, other=0.0)
    tl.store(y + place, v.to(y.dtype.element_ty), mask=mask)


def _unit(channels: int) -> int:
    """Return the largest power of two, up to 16, that divides a number of channels: so wide are loads and stores.

    A kernel that knows it is compiled once for all numbers of channels that share it.
    """
    return math.gcd(channels, 16)


def _columns(channels: int) -> int:
    """Return how many channels a program takes: all that fit, or what wastes the fewest lanes."""
    if channels <= 128:
        return max(16, triton.next_power_of_2(channels))
    return min((256, 128, 64), key=lambda size: triton.cdiv(channels, size) * size)


def _tiles(channels: int, tile: int = _TILE) -> tuple[int, int]:
    cols = _columns(channels)
    return max(1, tile // cols), cols


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor,
        momentum: float, epsilon: float, act: int, drop: Tensor | None, residual: Tensor | None,
    ) -> Tensor:  # fmt: skip
        x = x.contiguous(memory_format=torch.channels_last)
        samples, channels, height, width = x.shape
        positions = height * width
        rows, unit = samples * positions, _unit(channels)
        kept = torch.empty(4, channels, dtype=torch.float32, device=x.device)
        partial, stretch, grid = _partial(x, rows, channels)
        row, cols = _tiles(channels, _TILE // 2)
        _sum_forward[grid](x, running_mean, partial, rows, channels // unit, stretch, UNIT=unit, ROWS=row, COLS=cols)
        _statistics[(triton.cdiv(channels, 16),)](
            partial, weight, bias, running_mean, running_var, kept, grid[0], rows, channels // unit, momentum, epsilon,
            UNIT=unit, PARTS=64, COLS=16,
        )  # fmt: skip
        y = torch.empty_like(x)
        if residual is not None:
            residual = residual.contiguous(memory_format=torch.channels_last)
        row, cols = _tiles(channels)
        _norm_forward[(triton.cdiv(rows, row), triton.cdiv(channels, cols))](
            x, kept, kept if drop is None else drop, x if residual is None else residual, y, rows,
            channels // unit, positions, ACT=act, DROP=drop is not None, ADD=residual is not None,
            UNIT=unit, ROWS=row, COLS=cols,
        )  # fmt: skip
        ctx.save_for_backward(x, kept, drop)
        ctx.act, ctx.adds = act, residual is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, kept, drop = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        samples, channels, height, width = x.shape
        positions = height * width
        rows = samples * positions
        partial, stretch, grid = _partial(x, rows, channels)
        row, cols = _tiles(channels, _TILE // 2)
        options = {"ACT": ctx.act, "DROP": drop is not None, "UNIT": (unit := _unit(channels))}
        given = kept if drop is None else drop
        _sum_backward[grid](
            x, dy, kept, given, partial, rows, channels // unit, positions, stretch, ROWS=row, COLS=cols, **options
        )
        sums = partial.sum(1)  # (2, channels): the gradients of bias and weight
        dx = torch.empty_like(x)
        row, cols = _tiles(channels)
        _norm_backward[(triton.cdiv(rows, row), triton.cdiv(channels, cols))](
            x, dy, kept, given, sums, dx, rows, channels // unit, positions, ROWS=row, COLS=cols, **options
        )
        return dx, sums[1], sums[0], None, None, None, None, None, None, dy if ctx.adds else None


def _partial(x: Tensor, rows: int, channels: int) -> tuple[Tensor, int, tuple[int, int]]:
    """Return room for the sums of stretches of rows, a stretch's length, and the grid of programs."""
    row, cols = _tiles(channels, _TILE // 2)
    across = triton.cdiv(channels, cols)
    stretches = max(1, min(triton.cdiv(rows, row), _PROGRAMS // across))
    stretch = triton.cdiv(triton.cdiv(rows, stretches), row) * row
    stretches = triton.cdiv(rows, stretch)
    return torch.empty(2, stretches, channels, dtype=torch.float32, device=x.device), stretch, (stretches, across)


def norm_act(
    x: Tensor, norm: nn.BatchNorm2d, act: str, drop: Tensor | None = None, residual: Tensor | None = None
) -> Tensor:
    """Return act(norm(x)) * drop + residual, the norm in training mode: its running statistics move.

    Args:
        x: (N, C, H, W), best channels last in memory.
        norm: of C channels.
        act: none, silu, relu or relu6.
        drop: float32 (N,), a factor of each sample's branch: stochastic depth.
        residual: of the shape of x.
    """
    assert norm.momentum is not None  # noqa: S101 - a norm of ours has one
    assert norm.num_batches_tracked is not None  # noqa: S101
    norm.num_batches_tracked.add_(1)
    found: Tensor = _NormAct.apply(  # type: ignore[no-untyped-call]
        x, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps, ACTIVATIONS[act],
        drop, residual,
    )  # fmt: skip
    return found


class _SqueezeExcite(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, reduce: Tensor, reduce_bias: Tensor, expand: Tensor, expand_bias: Tensor, act: int
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        pooled = _over_positions(x, None, 1.0 / (x.shape[2] * x.shape[3]))
        with torch.autocast(x.device.type, enabled=False):  # a few numbers for each sample, in float32
            before = torch.addmm(reduce_bias, pooled, reduce.T)
            squeezed = torch.nn.functional.silu(before) if act == ACTIVATIONS["silu"] else before.relu()
            gate = torch.addmm(expand_bias, squeezed, expand.T).sigmoid_()
        ctx.save_for_backward(x, reduce, expand, pooled, before, squeezed, gate)
        ctx.act = act
        return _gated(x, gate, None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, reduce, expand, pooled, before, squeezed, gate = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        d_gate = _over_positions(x, dy, 1.0) * gate * (1 - gate)
        d_squeezed = d_gate @ expand
        if ctx.act == ACTIVATIONS["silu"]:
            s = before.sigmoid()
            d_before = d_squeezed * s * (1 + before * (1 - s))
        else:
            d_before = d_squeezed * (before > 0)
        d_pooled = (d_before @ reduce) / (x.shape[2] * x.shape[3])
        dx = _gated(dy, gate, d_pooled)
        return dx, d_before.T @ pooled, d_before.sum(0), d_gate.T @ squeezed, d_gate.sum(0), None


def _over_positions(x: Tensor, other: Tensor | None, factor: float) -> Tensor:
    """Return the sum of x, or of x times another, over each sample's positions, float32 (N, C)."""
    samples, channels, height, width = x.shape
    found = torch.empty(samples, channels, dtype=torch.float32, device=x.device)
    rows, cols = _tiles(channels, _TILE // 2)
    rows = min(rows, triton.next_power_of_2(height * width))
    _sum_positions[(samples, triton.cdiv(channels, cols))](
        x, x if other is None else other, found, channels // _unit(channels), height * width, factor,
        UNIT=_unit(channels),
        TIMES=other is not None, ROWS=rows, COLS=cols,
    )  # fmt: skip
    return found


def _gated(x: Tensor, gate: Tensor, more: Tensor | None) -> Tensor:
    samples, channels, height, width = x.shape
    y, rows = torch.empty_like(x), samples * height * width
    row, cols = _tiles(channels)
    _times_gate[(triton.cdiv(rows, row), triton.cdiv(channels, cols))](
        x, gate, gate if more is None else more, y, rows, channels // _unit(channels), height * width,
        UNIT=_unit(channels),
        ADD=more is not None, ROWS=row, COLS=cols,
    )  # fmt: skip
    return y


def squeeze_excite(x: Tensor, reduce: nn.Conv2d, expand: nn.Conv2d, act: str) -> Tensor:
    """Return x with each channel times its gate (arXiv 1709.01507), (N, C, H, W).

    Args:
        x: (N, C, H, W), best channels last in memory.
        reduce: 1 x 1, from C to fewer channels.
        expand: 1 x 1, back to C.
        act: between both: silu or relu.
    """
    weights = (
        reduce.weight.flatten(1), reduce.bias, expand.weight.flatten(1), expand.bias
    )  # fmt: skip
    found: Tensor = _SqueezeExcite.apply(x, *weights, ACTIVATIONS[act])  # type: ignore[no-untyped-call]
    return found
