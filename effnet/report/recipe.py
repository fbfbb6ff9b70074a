"""A config as short as it can be written, and its recipe as it was carried out."""

from __future__ import annotations

from typing import Any

import yaml

from effnet.config import FamilyConfig, Recipe
from effnet.runs import RunResult


def config_yaml(config: FamilyConfig, used: Recipe) -> str:
    """Return a config as YAML without what is the default or the base recipe's; where it lies is left out too.

    Fields of the recipe that a short training changed say so, and what they became.

    Args:
        config: of the family.
        used: the recipe as it was carried out.
    """
    data = config.model_dump(mode="json", exclude_defaults=True, exclude={"store", "recipe"})
    if recipe := _written(config.recipe):
        data["recipe"] = recipe
    lines = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100).splitlines()
    for name in ("warmup_epochs", "ema_decay"):
        if (became := getattr(used, name)) != getattr(config.recipe, name):
            start = f"  {name}:"
            lines = [f"{line}  # {became:.4g} was used" if line.startswith(start) else line for line in lines]
    return "\n".join(lines) + "\n"


def recipe_rows(used: Recipe, run: RunResult) -> list[tuple[str, str]]:
    """Return what a training was made of, by name, as it was carried out.

    Args:
        used: the recipe, fitted to the images, with what a short training changes.
        run: the training.
    """
    epochs = f"{run.epochs}" if run.epochs == used.epochs else f"{run.epochs} of at most {used.epochs}"
    peak = used.learning_rate * used.batch_size / 256
    falls = "cosine" if used.schedule == "cosine" else f"× {used.stair_decay:g} every {used.stair_epochs:g} epochs"
    rows = [
        ("epochs", f"{epochs}, {run.steps:,} steps"),
        ("batch", f"{used.batch_size:,} images"),
        ("optimizer", used.optimizer),
        ("learning rate", f"peak {peak:.4g} ({used.learning_rate:.4g} per 256 images), {falls}"),
        ("warm-up", f"{used.warmup_epochs:.4g} epochs" if used.warmup_epochs else "none"),
        ("weight decay", f"{used.weight_decay:g}"),
        ("label smoothing", f"{used.label_smoothing:g}"),
        ("averaged weights (EMA)", f"decay {used.ema_decay:.4g}" if used.ema_decay else "none"),
        ("augmentation", _augmentation(used)),
        ("device", run.environment.get("device", "unknown")),
    ]
    if used.stages > 1:
        rows.insert(-1, ("progressive learning", f"{used.stages} stages from {used.first_resolution:g} of the side"))
    if used.balance:
        rows.insert(-1, ("loss", "every class counts the same"))
    if used.teacher:
        told = f"{used.teacher}, {used.teacher_weight:g} of the loss, temperature {used.temperature:g}"
        rows.insert(-1, ("teacher", told))
    return rows


def _augmentation(used: Recipe) -> str:
    augment = used.augment
    low, high = augment.crop_area
    parts = [f"crops of {low:g} to {high:g} of the area"]
    parts += ["flips"] if augment.flip else []
    if augment.policy == "randaugment":
        parts.append(f"randaugment of {augment.rand_layers} operations, magnitude {augment.rand_magnitude:g}")
    elif augment.policy != "none":
        parts.append(augment.policy)
    for name in ("erase", "mixup", "cutmix"):
        if value := getattr(augment, name):
            parts.append(f"{name} {value:g}")
    return ", ".join(parts)


def _written(recipe: Recipe) -> dict[str, Any]:
    """Return the fields that make this recipe out of its base, or out of the defaults."""
    base = Recipe(base=recipe.base)
    fitted = set(base.left_open) - set(recipe.left_open)  # stated: or they would be fitted to the images again
    found = _differing(recipe.model_dump(mode="json"), base.model_dump(mode="json"), fitted)
    return ({"base": recipe.base} if recipe.base else {}) | found


def _differing(one: dict[str, Any], other: dict[str, Any], stated: set[str], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in one.items():
        if name == "left_open":
            continue
        if isinstance(value, dict):
            if inner := _differing(value, other[name], stated, f"{name}."):
                found[name] = inner
        elif value != other[name] or f"{prefix}{name}" in stated:
            found[name] = value
    return found
