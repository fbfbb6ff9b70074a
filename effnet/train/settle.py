"""Before the first step of a process: how the batch goes through the network, tried out where memory may run out."""

from __future__ import annotations

import torch

from effnet.errors import ConfigError, MachineError
from effnet.machine import name
from effnet.memory import MicroBatch
from effnet.models.build import Noise
from effnet.process import say
from effnet.train.distributed import synchronize_norms
from effnet.train.micro_batch import keep_norms_pace, norm_ranks
from effnet.train.passes import Inputs
from effnet.train.state import TrainingState, noise_sizes


def settle(training: TrainingState) -> None:
    """Fix how the batch goes through the network, before the first step of this process; all ranks agree.

    On a GPU a pass with random pixels shows whether the micro-batch fits; one that does not is halved, but only before
    the training's first step.

    Raises:
        ConfigError: if not one image fits.
        MachineError: if what the training began with does not fit this device.
    """
    recipe = training.spec.recipe
    share = -(-recipe.batch_size // training.world.size)
    while True:
        training.network.recompute = training.micro_batch.recompute
        if training.device.type != "cuda" or training.world.least(_fits(training)):
            break
        training.micro_batch = _halved(training)
    if recipe.norms == "train":
        images = recipe.batch_size // training.world.size // training.parts
        ranks = norm_ranks(images, training.world.size, recipe.norm_ranks)
        synchronize_norms(training.network, training.world, ranks)
    keep_norms_pace(training.network, training.parts)
    if share % training.parts:  # parts of two sizes: a second graph needs as much memory as the first, once more
        training.passes = training.trial
    if training.micro_batch.images < share or training.micro_batch.recompute:
        again = ", each block computed a second time to save memory" if training.micro_batch.recompute else ""
        say(f"a step's {share} images go through the network {training.micro_batch.images} at a time{again}")


def _halved(training: TrainingState) -> MicroBatch:
    images, recipe = training.micro_batch.images, training.spec.recipe
    if training.micro_batch_is_settled:
        raise MachineError(
            f"machine {name()}: the training began with {images} images at a time, which its device's memory "
            "does not hold; resume it on a larger one"
        )
    if images == 1 or recipe.micro_batch:
        raise ConfigError(
            f"{training.spec.architecture.name}: the device's memory does not hold {images} images at a time; "
            + ("lower recipe.micro_batch" if images > 1 else "train on a larger one, or scale less")
        )
    return training.micro_batch._replace(images=-(-images // 2))


def _fits(training: TrainingState) -> bool:
    """Say whether a forward and a backward pass of the micro-batch fit the device; no state stays.

    The norms are not shared with other ranks yet, so that one rank can fail without the others.
    """
    arch, images, network = training.spec.architecture, training.micro_batch.images, training.network
    training.buffers.keep()
    network.train()
    try:
        pixels = torch.rand(images, arch.in_channels, arch.resolution, arch.resolution, device=training.device)
        labels = torch.zeros(images, dtype=torch.int64, device=training.device)
        noise = Noise(*(torch.rand(images, n, device=training.device) for n in noise_sizes(network)))
        training.trial(Inputs(pixels.contiguous(memory_format=torch.channels_last), labels, noise))
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        training.optimizer.drop_gradients()
        training.buffers.put_back()
        torch.cuda.empty_cache()
