"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from effnet.config import Recipe

STAIR_EPOCHS, STAIR_DECAY = 2.4, 0.97  # paper, section 5.2


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return the rate of a step (counted from 0): linear warm-up, then the recipe's schedule.

    The peak is the recipe's rate per 256 images times the batch (utils.py, build_learning_rate, of the official code).
    """
    peak = recipe.learning_rate * recipe.batch_size / 256
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if recipe.schedule == "staircase":
        return peak * STAIR_DECAY ** math.floor(step / (STAIR_EPOCHS * steps_per_epoch))
    total = recipe.epochs * steps_per_epoch
    done = (step - warmup) / max(total - warmup, 1)
    return 0.5 * peak * (1 + math.cos(math.pi * done))
