"""From an Architecture to a torch module: the only bridge."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from effnet.arch.spec import Architecture, check_architecture, check_classes, out_size
from effnet.models.blocks import ConvNormAct, make_block, padding


class Noise(NamedTuple):
    """What decides which parts of a network are dropped for each of N samples: uniform numbers in [0, 1)."""

    depth: Tensor  # (N, blocks): stochastic depth
    features: Tensor  # (N, features before the classifier): dropout


class Dropout(nn.Dropout):
    """Dropout that can be given its random numbers."""

    def forward(self, x: Tensor, draw: Tensor | None = None) -> Tensor:
        """Zero the share `p` of (N, C), where `draw` is below it; scale the rest."""
        if draw is None or not self.training or not self.p:
            return super().forward(x)
        return x * ((draw >= self.p) / (1 - self.p)).to(x.dtype)


class Network(nn.Module):
    """Stem, blocks, head, classifier: (N, in_channels, H, W) float -> (N, num_classes) logits."""

    def __init__(self, arch: Architecture, num_classes: int) -> None:
        super().__init__()
        self.architecture = arch
        stem = arch.stem
        self.stem = nn.Sequential()
        self.stem.add_module(
            "conv",
            ConvNormAct(
                arch,
                arch.in_channels,
                stem.channels,
                size=arch.resolution,
                kernel=stem.kernel,
                stride=stem.stride,
            ),
        )
        blocks = arch.blocks()
        if stem.pool:
            self.stem.add_module("pool", _max_pool(arch))
        self.blocks = nn.Sequential(*(make_block(arch, block) for block in blocks))
        channels = arch.stages[-1].channels
        self.head: nn.Module = nn.Identity()
        if arch.head.channels:
            size = 1 if arch.head.pool_first else out_size(blocks[-1].in_size, blocks[-1].stride)
            self.head = ConvNormAct(arch, channels, arch.head.channels, size=size)
            channels = arch.head.channels
        self.dropout = Dropout(arch.head.dropout)
        self.recompute = False  # in training keep the blocks' inputs alone, and compute the rest again when needed
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Return logits for normalised images. In training `noise` decides what is dropped, if it is given."""
        features = self.features(x, noise)
        return self.classifier(self.dropout(features, noise.features if noise else None))  # type: ignore[no-any-return]

    def features(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Return what the classifier sees, (N, features), before dropout."""
        x = self.stem(x)
        for number, block in enumerate(self.blocks):
            draw = noise.depth[:, number] if noise else None
            x = _twice(block, x, draw) if self.recompute and self.training else block(x, draw)
        if self.architecture.head.pool_first:
            return self.head(x.mean((2, 3), keepdim=True)).flatten(1)  # type: ignore[no-any-return]
        return self.head(x).mean((2, 3))  # type: ignore[no-any-return]

    def maps(self, x: Tensor) -> Tensor:
        """Return (N, features, H, W) whose mean over positions is what the classifier sees, in evaluation mode."""
        x = self.blocks(self.stem(x))
        if not self.architecture.head.pool_first:
            return self.head(x)  # type: ignore[no-any-return]
        linear = self.head.norm(self.head.conv(x))  # type: ignore[operator]
        mean = linear.mean((2, 3), keepdim=True)
        # The activation scales the mean by a factor; the positions get it, too.
        factor = self.head.act(mean.clone()) / mean.where(mean != 0, 1)  # type: ignore[operator]
        return linear * factor  # type: ignore[no-any-return]


def build(arch: Architecture, num_classes: int = 1000, *, seed: int | None = None) -> Network:
    """Return a freshly initialised network, in training mode and float32.

    Args:
        arch: the network as a value.
        num_classes: outputs of the classifier, at least 1.
        seed: makes the initial weights a pure function of it; without one torch's global generator is used.

    Raises:
        ConfigError: if `arch` is not an Architecture, or `num_classes` is below 1.
    """
    check_architecture(arch)
    check_classes(num_classes)
    network = Network(arch, num_classes)
    generator = torch.Generator()
    generator.manual_seed(int(torch.randint(2**62, ())) if seed is None else seed)
    initialize(network, arch.initialization, generator)
    return network


def _twice(block: nn.Module, x: Tensor, draw: Tensor | None) -> Tensor:
    """Run a block without keeping what its backward pass needs, which is computed again then."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _unmoved_statistics(block)

    # All randomness is in `draw`: the generator's state does not matter.
    found: Tensor = checkpoint(block, x, draw, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    return found


@contextmanager
def _unmoved_statistics(block: nn.Module) -> Iterator[None]:
    """Keep a forward pass in training mode from moving the batch norms' statistics a second time."""
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]  # type: ignore[union-attr]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)  # type: ignore[union-attr]


def freeze_norms(network: nn.Module) -> None:
    """Let batch norms keep their statistics while the rest trains; their scales and shifts are still trained."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def initialize(network: nn.Module, rule: str, generator: torch.Generator) -> None:
    """Set initial weights.

    Both rules draw convolutions from a normal with std sqrt(2 / fan_out). The official code (efficientnet_model.py,
    conv_kernel_initializer) takes the fan-out of a depthwise kernel as k * k, `kaiming` as torch does, which for a
    depthwise kernel also is out_channels * k * k. The official classifier is uniform in ±1 / sqrt(num_classes).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            if rule == "tensorflow":
                fan_out //= module.groups
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out), generator=generator)
        elif isinstance(module, nn.Linear):
            fan = module.out_features if rule == "tensorflow" else module.in_features
            bound = 1.0 / math.sqrt(fan)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def _max_pool(arch: Architecture) -> nn.Module:
    size = out_size(arch.resolution, arch.stem.stride)
    before, after = padding(arch.padding, size, 3, 2)
    if before == after:
        return nn.MaxPool2d(3, 2, before)
    pad = nn.ConstantPad2d((before, after, before, after), -math.inf)
    return nn.Sequential(pad, nn.MaxPool2d(3, 2))
