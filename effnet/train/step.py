"""One step: the rank's share of a batch forward and backward, then the weights."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effnet.data.augment.draws import mix, uniform
from effnet.data.augment.policies import augment_batch, mix_batch
from effnet.data.loader import Batch
from effnet.errors import MachineError
from effnet.gpu import uploaded
from effnet.machine import name
from effnet.models.build import Noise
from effnet.models.preprocess import normalize
from effnet.train.micro_batch import parts
from effnet.train.passes import Inputs
from effnet.train.schedule import Stage, ema_decay, learning_rate
from effnet.train.state import AbandonedError, TrainingState, noise_sizes

_DEPTH, _FEATURES = 0xD0, 0xD1  # streams of random numbers


def take_step(training: TrainingState, batch: Batch, stage: Stage) -> None:
    """Take one step; the loss is added up on the network's device, so that nothing waits for it.

    What is given up midway leaves nothing behind.

    Raises:
        AbandonedError: if the training is to stop.
        MachineError: if the device's memory is full.
    """
    recipe, step = training.spec.recipe, training.progress.step
    training.buffers.keep()
    loss_sum = torch.zeros_like(training.loss_sum)
    try:
        for number, part in enumerate(parts(len(batch.labels), training.parts)):
            training.look()
            loss_sum += training.passes(_inputs(training, batch, part, number, stage))
    except AbandonedError:
        training.optimizer.drop_gradients()
        training.buffers.put_back()
        raise
    except torch.OutOfMemoryError as error:
        raise MachineError(_full(training.micro_batch.images, recipe.batch_size)) from error
    training.loss_sum += loss_sum
    training.optimizer.step(
        learning_rate(recipe, step, training.steps_per_epoch),
        ema_decay(recipe, step, training.steps_per_epoch),
        step,
        training.world.sum_ if training.world.size > 1 else None,
    )
    training.progress.step += 1


def _full(images: int, batch_size: int) -> str:
    less = f"set recipe.micro_batch to less than {images}" if images > 1 else "train on a larger device"
    return (
        f"machine {name()}: the device's memory is full with {images} of a step's {batch_size} images at a time; does "
        f"another process use it? If not, {less}"
    )


def _inputs(training: TrainingState, batch: Batch, part: slice, number: int, stage: Stage) -> Inputs:
    """Return a micro-batch's inputs to the network. All that is random is a function of seed, epoch and sample."""
    spec, step, rank = training.spec, training.progress.step, training.world.rank
    epoch, device, samples = step // training.steps_per_epoch, training.device, batch.samples[part]
    noise = draw_noise(training, samples, epoch)
    pixels = batch.images[part].to(device, non_blocking=True)
    pixels = augment_batch(pixels, stage.augment, samples, spec.seed, epoch)
    labels = batch.labels[part].to(device, non_blocking=True)
    # Pairs are found within a micro-batch of a rank, so they alone depend on ranks and micro-batches.
    place = (rank, number) if number else (rank,) if rank else ()
    seed = int(mix(spec.seed, *place) >> np.uint64(32)) if place else spec.seed
    mixed = mix_batch(normalize(pixels, spec.architecture), labels, stage.augment, seed, step)
    if mixed.other_labels is labels:
        return Inputs(mixed.images, labels, noise)
    return Inputs(mixed.images, labels, noise, mixed.other_labels, mixed.share)


def draw_noise(training: TrainingState, samples: NDArray[np.int64], epoch: int) -> Noise:
    """Return the random numbers that decide stochastic depth and dropout, for each sample."""
    seed = training.spec.seed

    def draw(stream: int, number: int) -> Tensor:
        numbers = uniform(seed, epoch, stream, samples[:, None], np.arange(number))
        return uploaded(torch.from_numpy(numbers.astype(np.float32)), training.device)

    depth, features = noise_sizes(training.network)
    return Noise(draw(_DEPTH, depth), draw(_FEATURES, features))
