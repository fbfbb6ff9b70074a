"""How many images go through the network at a time: decided before the first step, then kept.

A batch that does not fit the device goes in micro-batches, whose gradients add up; the weights see the same batch. Only
batch norms see the micro-batch, so its size is part of what a result depends on: it is written into every checkpoint
and never changes within a training.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn

from effnet.memory import FEW_IMAGES, MicroBatch
from effnet.models.build import Network


def number_of_parts(micro_batch: MicroBatch, batch_size: int, world: int) -> int:
    """Return in how many parts each rank's share of a batch goes through the network: the same number on all ranks.

    Ranks meet in every pass, in batch norms that they share; and their shares may differ by an image.
    """
    largest_share = -(-batch_size // world)
    return min(-(-largest_share // micro_batch.images), batch_size // world)


def parts(images: int, number: int) -> list[slice]:
    """Return the micro-batches of some images: so many, that differ by an image at most."""
    bounds = [images * place // number for place in range(number + 1)]
    return [slice(first, last) for first, last in itertools.pairwise(bounds)]


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
