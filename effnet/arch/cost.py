"""What a network costs, from the value alone: no torch, no tensor.

Conventions. `params` counts every trainable number (batch norm's two per channel included). `macs` counts the
multiply-adds of convolutions and the classifier for one image; the paper calls this number FLOPS. It leaves out norms,
activations, pooling, element-wise work and biases. `activations` counts the numbers that convolutions and the
classifier output for one image.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from effnet.arch.spec import (
    Architecture,
    Stage,
    check_architecture,
    check_classes,
    mid_channels,
    out_size,
    se_channels,
)

FORWARD_SHARE = 1 / 3  # of a training step's work: the backward pass takes about twice as much as the forward pass


class Cost(NamedTuple):
    """Price of a network, or of a part of one, for one image of the network's resolution."""

    params: int = 0
    macs: int = 0
    activations: int = 0


class PartCosts(NamedTuple):
    """Price of every part of a network; the sum of all is what `count` returns."""

    stem: Cost
    stages: tuple[Cost, ...]
    head: Cost  # with the classifier


# A convolution or linear layer: weights, output channels, output positions, and numbers per output channel besides the
# weights (2 for a batch norm, 1 for a bias). A plain tuple: thousands of networks are priced in one search.
_Layer: TypeAlias = tuple[int, int, int, int]


def count(arch: Architecture, num_classes: int = 1000) -> Cost:
    """Return the cost of the network with a classifier of `num_classes` (with bias).

    Raises:
        ConfigError: if `arch` is not an Architecture, or `num_classes` is below 1.
    """
    check_architecture(arch)
    check_classes(num_classes)
    stem, stages, head = count_parts(arch, num_classes)
    return Cost(*(sum(column) for column in zip(stem, head, *stages, strict=True)))


def count_parts(arch: Architecture, num_classes: int = 1000) -> PartCosts:
    """Return the cost of stem, stages and head of the network with a classifier of `num_classes` (with bias)."""
    stem_size = out_size(arch.resolution, arch.stem.stride)
    stem = _sum((_conv(arch.in_channels, arch.stem.channels, arch.stem.kernel, stem_size),))
    channels, size = arch.stem.channels, arch.stem_size()
    stages = []
    for stage in arch.stages:
        cost = _sum(_block(arch, stage, channels, size, stage.stride))
        channels, size = stage.channels, out_size(size, stage.stride)
        if stage.repeats > 1:
            params, macs, activations = _sum(_block(arch, stage, channels, size, 1))
            times = stage.repeats - 1
            cost = Cost(cost[0] + times * params, cost[1] + times * macs, cost[2] + times * activations)
        stages.append(cost)
    head: list[_Layer] = []
    if arch.head.channels:
        head.append(_conv(channels, arch.head.channels, 1, 1 if arch.head.pool_first else size))
        channels = arch.head.channels
    head.append((channels * num_classes, num_classes, 1, 1))
    return PartCosts(stem, tuple(stages), _sum(head))


def count_blocks(arch: Architecture) -> tuple[Cost, ...]:
    """Return the cost of every block, in order."""
    return tuple(_sum(_block(arch, each.spec, each.in_channels, each.in_size, each.stride)) for each in arch.blocks())


def _sum(layers: Iterable[_Layer]) -> Cost:
    params = macs = activations = 0
    for weights, channels, positions, extra in layers:
        params += weights + extra * channels
        macs += weights * positions
        activations += channels * positions
    return Cost(params, macs, activations)


def _conv(c_in: int, c_out: int, kernel: int, size: int) -> _Layer:
    """Return a convolution without bias, and its batch norm, with a square output of side `size`."""
    return c_in * c_out * kernel * kernel, c_out, size * size, 2


def _depthwise(channels: int, kernel: int, size: int) -> _Layer:
    return channels * kernel * kernel, channels, size * size, 2


def _block(arch: Architecture, stage: Stage, c_in: int, size: int, stride: int) -> list[_Layer]:
    c_out, mid, out = stage.channels, mid_channels(stage, c_in), out_size(size, stride)
    if stage.block == "bottleneck":
        layers = [_conv(c_in, mid, 1, size), _conv(mid, mid, stage.kernel, out), _conv(mid, c_out, 1, out)]
        if stage.skip and (stride != 1 or c_in != c_out):
            layers.append(_conv(c_in, c_out, 1, out))
        return layers
    if stage.block == "fused_mbconv":
        if stage.expand_ratio == 1:
            return [_conv(c_in, c_out, stage.kernel, out)]
        return [_conv(c_in, mid, stage.kernel, out), _conv(mid, c_out, 1, out)]
    if stage.block == "uib":
        inside = size if stage.kernel else out
        layers = [_conv(c_in, mid, 1, inside), _conv(mid, c_out, 1, out)]
        if stage.start_kernel:
            layers.append(_depthwise(c_in, stage.start_kernel, inside))
        if stage.kernel:
            layers.append(_depthwise(mid, stage.kernel, out))
        return layers
    layers = [_depthwise(mid, stage.kernel, out), _conv(mid, c_out, 1, out)]
    if stage.block == "mbconv" and stage.expand_ratio != 1:
        layers.append(_conv(c_in, mid, 1, size))
    if squeezed := se_channels(stage, c_in, arch.se_base):
        layers += [(mid * squeezed, squeezed, 1, 1), (mid * squeezed, mid, 1, 1)]
    return layers
