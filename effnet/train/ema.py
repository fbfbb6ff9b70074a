"""Exponential moving average of a network's weights, batch-norm statistics included."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Ema:
    """A second network whose numbers follow the first one's.

    The decay ramps up as min(decay, (1 + n) / (10 + n)) with n updates done (tf.train.ExponentialMovingAverage with
    `num_updates`, as the official code uses it), so that short trainings forget the random start.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, network: nn.Module, updates: int) -> None:
        """Follow the network by one step, after `updates` earlier ones."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        followers, leaders = _tensors(self.network), _tensors(network)
        pairs = list(zip(followers, leaders, strict=True))
        floating = [(mine, theirs) for mine, theirs in pairs if mine.is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in floating], [theirs for _, theirs in floating], 1 - decay)
        for mine, theirs in pairs:
            if not mine.is_floating_point():  # counters of batches
                mine.copy_(theirs)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
