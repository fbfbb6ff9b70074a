"""How many images go through the network at a time: decided before the first step, then kept.

A batch that does not fit the device goes in micro-batches, whose gradients add up; the weights see the same batch. Only
batch norms see the micro-batch, so its size is part of what a result depends on: it is written into every checkpoint
and never changes within a training.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from effnet.arch.spec import Architecture
from effnet.errors import ConfigError
from effnet.memory import largest_micro_batch
from effnet.models.build import Network

# Batch norms over fewer images cost accuracy (arXiv 1803.08494, figure 1): rather compute activations twice.
FEW_IMAGES = 32


class MicroBatch(NamedTuple):
    """How a rank's share of a batch goes through the network."""

    images: int  # at a time, at most
    recompute: bool  # each block's activations are computed again in the backward pass instead of being kept


def plan(
    arch: Architecture, num_classes: int, share: int, *, memory: int | None, bfloat16: bool, wanted: int | None
) -> MicroBatch:
    """Return the largest micro-batch that the device's memory allows, in parts of about equal size.

    Args:
        arch: the network.
        num_classes: of its classifier.
        share: images of a batch that are this rank's.
        memory: bytes of the device; None if they are no concern, as on a CPU.
        bfloat16: whether the forward pass is under autocast to bfloat16.
        wanted: the recipe's micro-batch, if it has one.

    Raises:
        ConfigError: if not one image fits.
    """
    if memory is None:
        return MicroBatch(min(wanted or share, share), recompute=False)
    fits, fits_recomputed = (
        largest_micro_batch(arch, num_classes, memory, bfloat16=bfloat16, recompute=recompute)
        for recompute in (False, True)
    )
    if wanted:
        return MicroBatch(min(wanted, share), recompute=fits < min(wanted, share))
    recompute = fits < min(FEW_IMAGES, share) and fits_recomputed > fits
    if (most := fits_recomputed if recompute else fits) < 1:
        raise ConfigError(
            f"{arch.name}: one image of {arch.resolution} pixels does not fit into this device's "
            f"{memory / 1e9:.0f} GB; train it on a larger one, or scale it less"
        )
    return MicroBatch(_even(share, most), recompute)


def _even(share: int, most: int) -> int:
    """Return the size of the fewest parts of a share, each of at most `most` images, that are about equally large."""
    return -(-share // -(-share // most))


def parts(images: int, at_a_time: int) -> list[slice]:
    """Return the micro-batches of some images: as few as possible, of about equal size."""
    size = _even(images, at_a_time) if images else 1
    return [slice(first, first + size) for first in range(0, images, size)]


def norm_ranks(images: int, world: int, wanted: int | None) -> int:
    """Return how many neighbouring ranks' batch norms share their statistics.

    Args:
        images: of a rank's micro-batch.
        world: the number of ranks.
        wanted: the recipe's number; 0: all; None: as few as have `FEW_IMAGES` together.
    """
    if wanted is None:
        return min(world, -(-FEW_IMAGES // images))
    return min(wanted or world, world)


def keep_norms_pace(network: Network, micro_batches: int) -> None:
    """Let batch norms' statistics move as far in a step of several micro-batches as they do in one pass.

    They move once per forward pass: of `momentum`, the share that is new, each of k passes takes
    1 - (1 - momentum)^(1/k).
    """
    if micro_batches == 1:
        return
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.momentum:
            module.momentum = 1 - math.exp(math.log1p(-module.momentum) / micro_batches)


def device_memory(device: torch.device) -> int | None:
    """Return the bytes of a GPU that this process may use, None for a CPU.

    `torch.cuda.set_per_process_memory_fraction` limits them further.
    """
    if device.type != "cuda":
        return None
    total = int(torch.cuda.get_device_properties(device).total_memory)
    return round(total * torch.cuda.get_per_process_memory_fraction(device))
