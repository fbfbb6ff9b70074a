"""One step: the rank's share of a batch forward and backward, then the weights."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from effnet.data.augment.draws import mix, uniform
from effnet.data.augment.policies import Mixed, augment_batch, mix_batch
from effnet.data.loader import Batch
from effnet.models.build import Noise
from effnet.models.preprocess import normalize
from effnet.train.schedule import Stage, ema_decay, learning_rate
from effnet.train.state import AbandonedError, TrainingState

_DEPTH, _FEATURES = 0xD0, 0xD1  # streams of random numbers


def take_step(training: TrainingState, batch: Batch, stage: Stage) -> None:
    """Take one step; the loss is added up on the network's device, so that nothing waits for it.

    What does not fit into the device's memory is cut in half until it does; the weights see the same batch. A step that
    is given up midway leaves nothing behind.
    """
    recipe, step = training.spec.recipe, training.progress.step
    images, labels, noise = _inputs(training, batch, stage)
    training.buffers.keep()
    while True:
        try:
            loss_sum = _backward(training, images, labels, noise)
            break
        except (torch.OutOfMemoryError, AbandonedError) as error:
            training.network.zero_grad(set_to_none=True)
            training.buffers.put_back()
            if isinstance(error, AbandonedError):
                raise
            if training.micro_batch <= 1 or training.world.size > 1:
                raise  # ranks would no longer agree on how often their batch norms meet
            training.micro_batch = -(-min(training.micro_batch, len(labels)) // 2)
            training.warn(
                f"out of memory: {training.micro_batch} images at a time from now on; the batch size stays the same"
            )
    training.loss_sum += loss_sum
    training.optimizer.step(
        learning_rate(recipe, step, training.steps_per_epoch),
        ema_decay(recipe, step, training.steps_per_epoch),
        step,
        training.world.sum_ if training.world.size > 1 else None,
    )
    training.progress.step += 1


def _inputs(training: TrainingState, batch: Batch, stage: Stage) -> tuple[Mixed, Tensor, Noise]:
    """Return the network's inputs. All that is random is a function of seed, epoch and sample."""
    spec, step = training.spec, training.progress.step
    epoch, device = step // training.steps_per_epoch, training.device
    noise = draw_noise(training, batch.samples, epoch)
    pixels = batch.images.to(device, non_blocking=True)
    pixels = augment_batch(pixels, stage.augment, batch.samples, spec.seed, epoch)
    labels = batch.labels.to(device, non_blocking=True)
    # Pairs are found within a rank, so they alone depend on the number of ranks.
    seed = int(mix(spec.seed, training.world.rank) >> np.uint64(32)) if training.world.rank else spec.seed
    return mix_batch(normalize(pixels, spec.architecture), labels, stage.augment, seed, step), labels, noise


def draw_noise(training: TrainingState, samples: NDArray[np.int64], epoch: int) -> Noise:
    """Return the random numbers that decide stochastic depth and dropout, for each sample."""
    network, seed = training.network, training.spec.seed

    def draw(stream: int, number: int) -> Tensor:
        numbers = torch.from_numpy(uniform(seed, epoch, stream, samples[:, None], np.arange(number)).astype(np.float32))
        if training.device.type == "cuda":
            numbers = numbers.pin_memory()
        return numbers.to(training.device, non_blocking=True)

    return Noise(draw(_DEPTH, len(network.blocks)), draw(_FEATURES, network.classifier.in_features))


def _backward(training: TrainingState, mixed: Mixed, labels: Tensor, noise: Noise) -> Tensor:
    """Return the sum of the images' losses, after adding their gradients to the weights'."""
    recipe, total = training.spec.recipe, torch.zeros_like(training.loss_sum)
    for first in range(0, len(labels), training.micro_batch):
        training.look()
        part = slice(first, first + training.micro_batch)
        with torch.autocast(training.device.type, torch.bfloat16, enabled=training.bfloat16):
            logits = training.network(mixed.images[part], Noise(noise.depth[part], noise.features[part]))
        logits = logits.float()
        losses = _losses(logits, labels[part], recipe.label_smoothing, training.class_weights)
        if mixed.other_labels is not labels:
            others = _losses(logits, mixed.other_labels[part], recipe.label_smoothing, training.class_weights)
            losses = mixed.share[part] * losses + (1 - mixed.share[part]) * others
        loss = losses.sum()
        (loss / recipe.batch_size).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total


def _losses(logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None) -> Tensor:
    losses = functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    return losses if weights is None else losses * weights[labels]
