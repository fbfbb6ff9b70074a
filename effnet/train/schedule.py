"""Learning rate, averaging and progressive learning as pure functions of the step."""

from __future__ import annotations

import math
from typing import NamedTuple

from effnet.arch.spec import Architecture
from effnet.config import Augment, Recipe

EMA_SHARE = 20  # the average looks back over at most one part in this many of the training's steps
WARMUP_SHARE = 10  # warming up takes at most one part in this many of the epochs


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return the rate of a step (counted from 0): linear warm-up, then the recipe's schedule.

    The peak is the recipe's rate per 256 images times the batch (utils.py, build_learning_rate, of the official code).
    As there, the staircase counts from step 0, not from the end of the warm-up.
    """
    peak = recipe.learning_rate * recipe.batch_size / 256
    warmup = warmup_epochs(recipe) * steps_per_epoch
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if recipe.schedule == "staircase":
        return peak * recipe.stair_decay ** math.floor(step / (recipe.stair_epochs * steps_per_epoch))
    total = recipe.epochs * steps_per_epoch
    done = (step - warmup) / max(total - warmup, 1)
    return 0.5 * peak * (1 + math.cos(math.pi * done))


def warmup_epochs(recipe: Recipe) -> float:
    """Return the recipe's warm-up, or a tenth of a short training. The paper's takes 5 of 350 epochs."""
    return min(recipe.warmup_epochs, recipe.epochs / WARMUP_SHARE)


def final_ema_decay(recipe: Recipe, steps_per_epoch: int) -> float:
    """Return the recipe's decay, or what a short training can use: 0.9999 looks back over 10,000 steps.

    The official training has 218,949 steps of 2,048 images, so its own decay is within the limit; the recipe `paper`,
    with 4,096 images a step, gets 0.9998 on ImageNet.
    """
    return max(0.0, min(recipe.ema_decay, 1 - EMA_SHARE / (recipe.epochs * steps_per_epoch)))


def ema_decay(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return the decay of the average after a step (counted from 0).

    It ramps up as min(decay, (1 + n) / (10 + n)) (tf.train.ExponentialMovingAverage with `num_updates`, as the official
    code uses it), so that the random start is forgotten.
    """
    return min(final_ema_decay(recipe, steps_per_epoch), (1 + step) / (10 + step))


def as_used(recipe: Recipe, steps_per_epoch: int) -> Recipe:
    """Return the recipe with the warm-up and the average's decay that its training really has."""
    changed = {"warmup_epochs": warmup_epochs(recipe), "ema_decay": final_ema_decay(recipe, steps_per_epoch)}
    return recipe.model_copy(update=changed)


def adapted(recipe: Recipe, steps_per_epoch: int) -> list[str]:
    """Say, a line each, where a short training deviates from its recipe."""
    notes = []
    if recipe.ema_decay and (decay := final_ema_decay(recipe, steps_per_epoch)) < recipe.ema_decay:
        notes.append(
            f"ema_decay {recipe.ema_decay:g} becomes {decay:.4g}: the training has only "
            f"{recipe.epochs * steps_per_epoch:,} steps"
        )
    if (warmup := warmup_epochs(recipe)) < recipe.warmup_epochs:
        notes.append(
            f"warmup_epochs {recipe.warmup_epochs:g} becomes {warmup:g}: the training has only {recipe.epochs} epochs"
        )
    return notes


class Stage(NamedTuple):
    """What an epoch of progressive learning trains with (arXiv 2104.00298, section 4.2)."""

    resolution: int
    dropout: float
    augment: Augment


def stage(recipe: Recipe, arch: Architecture, epoch: int) -> Stage:
    """Return an epoch's image side and strengths: they grow from stage to stage up to the network's and the recipe's.

    Stages but the last have sides that the network's strides divide, so that its padding means the same.
    """
    last = recipe.stages - 1
    number = min(epoch * recipe.stages // recipe.epochs, last)
    if number == last:
        return Stage(arch.resolution, arch.head.dropout, recipe.augment)
    share = number / last
    multiple = arch.total_stride
    side = arch.resolution * (recipe.first_resolution + share * (1 - recipe.first_resolution))
    strength = recipe.first_strength + share * (1 - recipe.first_strength)
    weaker = {name: getattr(recipe.augment, name) * strength for name in ("rand_magnitude", "erase", "mixup", "cutmix")}
    return Stage(
        max(multiple, int(side) // multiple * multiple),
        arch.head.dropout * strength,
        recipe.augment.model_copy(update=weaker),
    )
