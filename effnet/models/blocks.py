"""The parts that networks are built from."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional

from effnet import gpu
from effnet.arch.spec import Architecture, Block, out_size


class _SiLU(nn.SiLU):
    """SiLU, in place except in training: there autograd needs its input, and torch would copy that first."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(x, inplace=not self.training)


_ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": _SiLU, "relu": nn.ReLU, "relu6": nn.ReLU6}


def activation(arch: Architecture) -> nn.Module:
    """Return the architecture's activation, working in place where that saves memory."""
    return _ACTIVATIONS[arch.activation](inplace=True)


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch norm, activation: (N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""

    def __init__(
        self,
        arch: Architecture,
        in_channels: int,
        out_channels: int,
        *,
        size: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        before, after = padding(arch.padding, size, kernel, stride)
        if before != after:  # TensorFlow's SAME is asymmetric where a stride meets an even size
            self.pad = nn.ZeroPad2d((before, after, before, after))
            before = 0
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, before, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, arch.norm_epsilon, arch.norm_momentum)
        if act:
            self.act = activation(arch)
        self.act_name = arch.activation if act else "none"

    def forward(self, x: Tensor, drop: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """Map (N, C_in, H, W) to act(norm(conv(x))) * drop + residual.

        Args:
            x: the input.
            drop: (N,), a factor for each sample, if there is one.
            residual: of the output's shape, if there is one.
        """
        *before, norm = [module for name, module in self.named_children() if name != "act"]
        for module in before:
            x = module(x)
        if (kernels := _kernels(x)) and type(norm) is nn.BatchNorm2d and norm.training:
            return kernels.norm_act(x, norm, self.act_name, drop, residual)  # type: ignore[no-any-return]
        x = norm(x)
        if self.act_name != "none":
            x = self.act(x)
        if drop is not None:
            x = x * drop.to(x.dtype)[:, None, None, None]
        return x if residual is None else x + residual


def _kernels(x: Tensor) -> ModuleType | None:
    return gpu.kernels("effnet.models.kernels", x)


def padding(rule: str, size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and after one side of `size` pixels.

    `symmetric` gives kernel // 2 on both; `same` what TensorFlow's SAME gives: as few as make ceil(size / stride)
    outputs, the odd one after. Static, so that exported and compiled graphs hold no shape arithmetic.
    """
    if rule == "symmetric":
        return kernel // 2, kernel // 2
    total = max(0, (out_size(size, stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2


class SqueezeExcite(nn.Module):
    """Channel attention (arXiv 1709.01507): pool, squeeze, expand, gate. Shape is kept."""

    def __init__(self, arch: Architecture, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = activation(arch)
        self.act_name = arch.activation
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of x (N, C, H, W)."""
        if self.training and self.act_name in ("silu", "relu") and (kernels := _kernels(x)):
            return kernels.squeeze_excite(x, self.reduce, self.expand, self.act_name)  # type: ignore[no-any-return]
        pooled = functional.adaptive_avg_pool2d(x, 1)
        if self.training:  # as matrices: setting a convolution up costs more than its arithmetic on one pixel
            gate = _linear(self.expand, self.act(_linear(self.reduce, pooled.flatten(1))))[:, :, None, None]
        else:
            gate = self.expand(self.act(self.reduce(pooled)))
        return x * gate.sigmoid()


def _linear(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Map (N, C_in) to (N, C_out) as the 1x1 convolution does."""
    return functional.linear(x, conv.weight.flatten(1), conv.bias)


class Residual(nn.Module):
    """A block's branch, added to its input when the block has a residual connection.

    Stochastic depth (arXiv 1603.09382; utils.py `drop_connect` of the official code): in training the branch is
    dropped per sample at `drop_rate`, and kept branches are divided by the chance of being kept.
    """

    def __init__(self, branch: nn.Sequential, block: Block) -> None:
        super().__init__()
        self.branch = branch
        self.residual = block.residual
        self.drop_rate = block.drop_rate

    def forward(self, x: Tensor, draw: Tensor | None = None) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W'); `draw`, (N,) in [0, 1), decides instead of torch's generator."""
        if not self.residual:
            return self.branch(x)  # type: ignore[no-any-return]
        drop = None
        if self.training and self.drop_rate:
            keep = 1.0 - self.drop_rate
            drop = ((torch.rand(len(x), device=x.device) if draw is None else draw) < keep) / keep
        *front, last = self.branch
        out = x
        for module in front:
            out = module(out)
        return last(out, drop, x)  # type: ignore[no-any-return]


class Bottleneck(Residual):
    """ResNet's bottleneck: the shortcut is projected where shapes differ, and an activation follows the sum."""

    def __init__(self, arch: Architecture, branch: nn.Sequential, block: Block, size: int) -> None:
        super().__init__(branch, block)
        out_channels = block.spec.channels
        self.shortcut = (
            ConvNormAct(arch, block.in_channels, out_channels, size=size, stride=block.stride, act=False)
            if block.residual and (block.stride != 1 or block.in_channels != out_channels)
            else nn.Identity()
        )
        self.act = activation(arch)

    def forward(self, x: Tensor, draw: Tensor | None = None) -> Tensor:  # noqa: ARG002 - nothing is dropped here
        """Map (N, C_in, H, W) to (N, C_out, H', W')."""
        out: Tensor = self.branch(x)
        if self.residual:
            out = out + self.shortcut(x)
        return self.act(out)  # type: ignore[no-any-return]


def make_block(arch: Architecture, block: Block) -> nn.Module:
    """Return the torch module of one block."""
    return _MAKERS[block.spec.block](arch, block)


def _mbconv(arch: Architecture, block: Block) -> nn.Module:
    mid, size = block.mid_channels, block.in_size
    branch = nn.Sequential()
    if block.spec.expand_ratio != 1:
        branch.add_module("expand", ConvNormAct(arch, block.in_channels, mid, size=size))
    branch.add_module("depthwise", _depthwise(arch, block))
    if block.se_channels:
        branch.add_module("squeeze_excite", SqueezeExcite(arch, mid, block.se_channels))
    small = out_size(size, block.stride)
    branch.add_module("project", ConvNormAct(arch, mid, block.spec.channels, size=small, act=False))
    return Residual(branch, block)


def _fused_mbconv(arch: Architecture, block: Block) -> nn.Module:
    spec, size = block.spec, block.in_size
    alone = spec.expand_ratio == 1
    channels = spec.channels if alone else block.mid_channels
    branch = nn.Sequential()
    full = ConvNormAct(arch, block.in_channels, channels, size=size, kernel=spec.kernel, stride=block.stride)
    branch.add_module("project" if alone else "expand", full)
    if not alone:
        small = out_size(size, block.stride)
        branch.add_module("project", ConvNormAct(arch, channels, spec.channels, size=small, act=False))
    return Residual(branch, block)


def _uib(arch: Architecture, block: Block) -> nn.Module:
    spec, size, channels = block.spec, block.in_size, block.in_channels
    small = out_size(size, block.stride)
    inside = size if spec.kernel else small  # the side that is expanded
    branch = nn.Sequential()
    if spec.start_kernel:
        stride = 1 if spec.kernel else block.stride
        start = ConvNormAct(
            arch, channels, channels, size=size, kernel=spec.start_kernel, stride=stride, groups=channels, act=False
        )
        branch.add_module("start", start)
    branch.add_module("expand", ConvNormAct(arch, channels, block.mid_channels, size=inside))
    if spec.kernel:
        branch.add_module("depthwise", _depthwise(arch, block))
    branch.add_module("project", ConvNormAct(arch, block.mid_channels, spec.channels, size=small, act=False))
    return Residual(branch, block)


def _separable(arch: Architecture, block: Block) -> nn.Module:
    small = out_size(block.in_size, block.stride)
    branch = nn.Sequential()
    branch.add_module("depthwise", _depthwise(arch, block))
    branch.add_module("pointwise", ConvNormAct(arch, block.in_channels, block.spec.channels, size=small))
    return Residual(branch, block)


def _bottleneck(arch: Architecture, block: Block) -> nn.Module:
    mid, size = block.mid_channels, block.in_size
    small = out_size(size, block.stride)
    branch = nn.Sequential()
    branch.add_module("reduce", ConvNormAct(arch, block.in_channels, mid, size=size))
    branch.add_module("spatial", ConvNormAct(arch, mid, mid, size=size, kernel=block.spec.kernel, stride=block.stride))
    branch.add_module("expand", ConvNormAct(arch, mid, block.spec.channels, size=small, act=False))
    return Bottleneck(arch, branch, block, size)


def _depthwise(arch: Architecture, block: Block) -> nn.Module:
    mid = block.mid_channels
    return ConvNormAct(arch, mid, mid, size=block.in_size, kernel=block.spec.kernel, stride=block.stride, groups=mid)


_MAKERS = {
    "mbconv": _mbconv,
    "fused_mbconv": _fused_mbconv,
    "uib": _uib,
    "separable": _separable,
    "bottleneck": _bottleneck,
}
