"""What a network costs, from the value alone: no torch, no tensor.

Conventions. `params` counts every trainable number (batch norm's two per channel included). `macs` counts the
multiply-adds of convolutions and the classifier for one image; the paper calls this number FLOPS. It leaves out norms,
activations, pooling, element-wise work and biases. `activations` counts the numbers that convolutions and the
classifier output for one image.
"""

from __future__ import annotations

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


# Plain tuples, as in Cost: a search prices thousands of networks.
_Sum: TypeAlias = tuple[int, int, int]


def count(arch: Architecture, num_classes: int = 1000) -> Cost:
    """Return the cost of the network with a classifier of `num_classes` (with bias).

    Raises:
        ConfigError: if `arch` is not an Architecture, or `num_classes` is below 1.
    """
    check_architecture(arch)
    check_classes(num_classes)
    params = macs = activations = 0
    for more_params, more_macs, more_activations in _parts(arch, num_classes):
        params += more_params
        macs += more_macs
        activations += more_activations
    return Cost(params, macs, activations)


def count_parts(arch: Architecture, num_classes: int = 1000) -> PartCosts:
    """Return the cost of stem, stages and head of the network with a classifier of `num_classes` (with bias)."""
    stem, *stages, head = (Cost(*part) for part in _parts(arch, num_classes))
    return PartCosts(stem, tuple(stages), head)


def count_blocks(arch: Architecture) -> tuple[Cost, ...]:
    """Return the cost of every block, in order."""
    return tuple(
        Cost(*_block(each.spec, arch.se_base, each.in_channels, each.in_size, each.stride)) for each in arch.blocks()
    )


def _parts(arch: Architecture, num_classes: int) -> list[_Sum]:
    """Return the cost of the stem, each stage, and the head with the classifier."""
    stem, head, base = arch.stem, arch.head, arch.se_base
    channels, size = stem.channels, arch.stem_size()
    found = [_conv(arch.in_channels * channels * stem.kernel**2, channels, out_size(arch.resolution, stem.stride) ** 2)]
    for stage in arch.stages:
        cost = _block(stage, base, channels, size, stage.stride)
        channels, size = stage.channels, -(-size // stage.stride)
        if (times := stage.repeats - 1) > 0:
            params, macs, activations = _block(stage, base, channels, size, 1)
            cost = cost[0] + times * params, cost[1] + times * macs, cost[2] + times * activations
        found.append(cost)
    params = macs = activations = 0
    if head.channels:
        params, macs, activations = _conv(channels * head.channels, head.channels, 1 if head.pool_first else size**2)
        channels = head.channels
    weights = channels * num_classes
    found.append((params + weights + num_classes, macs + weights, activations + num_classes))
    return found


def _conv(weights: int, channels: int, positions: int) -> _Sum:
    """Return the cost of a convolution without bias, and its batch norm."""
    return weights + 2 * channels, weights * positions, channels * positions


def _block(stage: Stage, se_base: str, c_in: int, size: int, stride: int) -> _Sum:
    """Return the cost of a block for a square input of side `size`.

    Its convolutions have a batch norm each and no bias. They are summed up by the side of their output: that of the
    block's input (`weights`, `channels`), or of its output (`small_weights`, `small_channels`).
    """
    full = size * size
    small = full if stride == 1 else (-(-size // stride)) ** 2
    weights = channels = mid = squeezed = 0
    kind = stage.block
    if kind in _DEPTHWISE:
        c_out, kernel, ratio = stage.channels, stage.kernel, stage.expand_ratio
        mid = c_in * ratio
        small_weights, small_channels = mid * (kernel * kernel + c_out), mid + c_out
        if ratio != 1:
            weights, channels = c_in * mid, mid
        if stage.se_ratio:
            squeezed = se_channels(stage, c_in, se_base)
    else:
        weights, channels, small_weights, small_channels = _OTHERS[kind](stage, c_in, stride)
    params = weights + small_weights + 2 * (channels + small_channels)
    macs = weights * full + small_weights * small
    activations = channels * full + small_channels * small
    if squeezed:
        both = 2 * mid * squeezed  # two layers with bias, each on one position
        return params + both + squeezed + mid, macs + both, activations + squeezed + mid
    return params, macs, activations


# As `_block` says: weights, channels, small_weights, small_channels.
_Convolutions: TypeAlias = tuple[int, int, int, int]


def _fused_mbconv(stage: Stage, c_in: int, stride: int) -> _Convolutions:  # noqa: ARG001 - the others need the stride
    c_out, mid, area = stage.channels, mid_channels(stage, c_in), stage.kernel**2
    if stage.expand_ratio == 1:
        return 0, 0, c_in * area * c_out, c_out
    return 0, 0, c_in * area * mid + mid * c_out, mid + c_out


def _uib(stage: Stage, c_in: int, stride: int) -> _Convolutions:  # noqa: ARG001
    c_out, mid = stage.channels, mid_channels(stage, c_in)
    weights, channels = c_in * (stage.start_kernel**2 + mid), mid + (c_in if stage.start_kernel else 0)
    if stage.kernel:
        return weights, channels, mid * (stage.kernel**2 + c_out), mid + c_out
    return 0, 0, weights + mid * c_out, channels + c_out


def _bottleneck(stage: Stage, c_in: int, stride: int) -> _Convolutions:
    c_out, mid = stage.channels, mid_channels(stage, c_in)
    small_weights, small_channels = mid * (mid * stage.kernel**2 + c_out), mid + c_out
    if stage.skip and (stride != 1 or c_in != c_out):
        small_weights, small_channels = small_weights + c_in * c_out, small_channels + c_out
    return c_in * mid, mid, small_weights, small_channels


_DEPTHWISE = ("mbconv", "separable")
_OTHERS = {"fused_mbconv": _fused_mbconv, "uib": _uib, "bottleneck": _bottleneck}
