"""What a network costs, from the value alone: no torch, no tensor.

Conventions. `params` counts every trainable number (batch norm's two per channel included). `macs` counts the
multiply-adds of convolutions and the classifier for one image; the paper calls this number FLOPS. Norms, activations,
pooling and element-wise work are not in it, biases are not in it. `activations` counts the numbers that convolutions
and the classifier put out for one image.
"""

from __future__ import annotations

from typing import NamedTuple

from effnet.arch.spec import Architecture, Stage, mid_channels, out_size, se_channels


class Cost(NamedTuple):
    """Price of a network for one image of its resolution."""

    params: int = 0
    macs: int = 0
    activations: int = 0

    def plus(self, other: Cost, times: int = 1) -> Cost:
        """Return this cost and `times` the other one."""
        return Cost(
            self.params + times * other.params,
            self.macs + times * other.macs,
            self.activations + times * other.activations,
        )


def count(arch: Architecture, num_classes: int = 1000) -> Cost:
    """Return the cost of the network with a classifier of `num_classes` (with bias)."""
    stem_size = out_size(arch.resolution, arch.stem.stride)
    cost = _conv(arch.in_channels, arch.stem.channels, arch.stem.kernel, stem_size)
    channels, size = arch.stem.channels, arch.stem_size()
    for stage in arch.stages:
        cost = cost.plus(_block(arch, stage, channels, size, stage.stride))
        channels, size = stage.channels, out_size(size, stage.stride)
        if stage.repeats > 1:
            cost = cost.plus(_block(arch, stage, channels, size, 1), stage.repeats - 1)
    if arch.head.channels:
        cost = cost.plus(_conv(channels, arch.head.channels, 1, size))
        channels = arch.head.channels
    return cost.plus(Cost((channels + 1) * num_classes, channels * num_classes, num_classes))


def _conv(c_in: int, c_out: int, kernel: int, size: int, groups: int = 1) -> Cost:
    """Cost of a convolution without bias, and its batch norm, with a square output of side `size`."""
    weights = c_in // groups * c_out * kernel * kernel
    return Cost(weights + 2 * c_out, weights * size * size, c_out * size * size)


def _squeeze_excite(channels: int, squeezed: int) -> Cost:
    weights = 2 * channels * squeezed
    return Cost(weights + channels + squeezed, weights, channels + squeezed)


def _block(arch: Architecture, stage: Stage, c_in: int, size: int, stride: int) -> Cost:
    c_out, mid, out = stage.channels, mid_channels(stage, c_in), out_size(size, stride)
    if stage.block == "bottleneck":
        cost = _conv(c_in, mid, 1, size).plus(_conv(mid, mid, stage.kernel, out)).plus(_conv(mid, c_out, 1, out))
        if stage.skip and (stride != 1 or c_in != c_out):
            cost = cost.plus(_conv(c_in, c_out, 1, out))
        return cost
    cost = _conv(mid, mid, stage.kernel, out, groups=mid).plus(_conv(mid, c_out, 1, out))
    if stage.block == "mbconv" and stage.expand_ratio != 1:
        cost = cost.plus(_conv(c_in, mid, 1, size))
    squeezed = se_channels(stage, c_in, arch.se_base)
    return cost.plus(_squeeze_excite(mid, squeezed)) if squeezed else cost
