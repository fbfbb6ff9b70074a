"""Ways of training by name: what each sets; a config may change any of it. docs/training.md has the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

RecipeName = Literal["paper", "modern", "resnet", "mobilenet", "smoke"]

RECIPES: Mapping[RecipeName, Mapping[str, Any]] = {
    # Paper, section 5.2; batch, warm-up, label smoothing and what is decayed from main.py and utils.py of the official
    # code; the policy is the code's own "v0" (autoaugment.py).
    "paper": {
        "epochs": 350,
        "batch_size": 4096,
        "optimizer": "rmsprop",
        "learning_rate": 0.016,
        "warmup_epochs": 5.0,
        "schedule": "staircase",
        "stair_epochs": 2.4,
        "stair_decay": 0.97,
        "weight_decay": 1e-5,
        "decay_biases": True,
        "label_smoothing": 0.1,
        "ema_decay": 0.9999,
        "augment": {"policy": "autoaugment_v0"},
    },
    # Progressive learning as in EfficientNetV2 (arXiv 2104.00298, section 4), on a third of the paper's epochs.
    "modern": {
        "epochs": 100,
        "batch_size": 1024,
        "optimizer": "rmsprop",
        "learning_rate": 0.016,
        "warmup_epochs": 5.0,
        "schedule": "cosine",
        "weight_decay": 1e-5,
        "label_smoothing": 0.1,
        "ema_decay": 0.9999,
        "clip_norm": 5.0,
        "stages": 4,
        "first_resolution": 0.57,
        "first_strength": 0.33,
        "augment": {"policy": "randaugment", "rand_layers": 2, "rand_magnitude": 15.0, "mixup": 0.2},
    },
    # What published ResNet-50 baselines share, SGD with momentum at 0.1 per 256 images; with Nesterov's momentum as the
    # TPU code's ResNet has it (torchvision's reference training does without).
    "resnet": {
        "epochs": 90,
        "batch_size": 1024,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "warmup_epochs": 5.0,
        "schedule": "cosine",
        "weight_decay": 1e-4,
        "label_smoothing": 0.1,
        "ema_decay": 0.0,
    },
    # MobileNetV2 (arXiv 1801.04381, section 6.1): RMSProp, 0.045 for batches of 96, falling by 2 % an epoch, 4e-5.
    "mobilenet": {
        "epochs": 300,
        "batch_size": 96,
        "optimizer": "rmsprop",
        "learning_rate": 0.12,
        "warmup_epochs": 0.0,
        "schedule": "staircase",
        "stair_epochs": 1.0,
        "stair_decay": 0.98,
        "weight_decay": 4e-5,
        "label_smoothing": 0.0,
        "ema_decay": 0.9999,
    },
    # To see that everything works, not to learn much.
    "smoke": {
        "epochs": 2,
        "batch_size": 32,
        "optimizer": "rmsprop",
        "learning_rate": 0.06,
        "warmup_epochs": 0.5,
        "schedule": "cosine",
        "ema_decay": 0.9,
        "augment": {"crop_area": (0.7, 1.0), "crop_padding": 0},
    },
}


def with_base(data: object) -> object:
    """Return a recipe's fields over those of the recipe that its `base` names; a name alone is a recipe as well."""
    if isinstance(data, str):
        data = {"base": data}
    data = _with_tuples(data)
    if not isinstance(data, Mapping) or data.get("base") not in RECIPES:
        return data  # validation of the field refuses a wrong name
    base = RECIPES[data["base"]]
    merged = {**base, **data}
    if isinstance(given := data.get("augment"), Mapping):
        merged["augment"] = {**base.get("augment", {}), **given}
    return merged


def _with_tuples(data: object) -> object:
    """Return plain data with tuples for lists: strict validation follows, which takes lists for tuples only in JSON."""
    if isinstance(data, Mapping):
        return {key: _with_tuples(value) for key, value in data.items()}
    return tuple(map(_with_tuples, data)) if isinstance(data, list) else data
