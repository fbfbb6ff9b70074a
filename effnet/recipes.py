"""Ways of training by name: what each sets; a config may change any of it. docs/training.md has the table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

RecipeName = Literal["paper", "modern", "resnet", "mobilenet", "finetune", "smoke"]

FINETUNE_RATE = 1e-4  # of AdamW, for batches of up to 64

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
    # Starting from weights. Batch norms keep the weights' own statistics: those of few images at another side, or of
    # another domain, would first undo what the weights know (keras-team's guide to fine-tuning EfficientNet freezes
    # them, too). Then nothing renormalises the weights, so that the step is adaptive and clipped. The new classifier
    # starts at zero, and learns faster than what is known already. `by_images` has the rest.
    "finetune": {
        "optimizer": "adamw",
        "warmup_epochs": 1.0,
        "schedule": "cosine",
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "norms": "frozen",
        "head_rate": 10.0,
        "patience": 8,
        "augment": {"crop_area": (0.3, 1.0)},
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


OPEN = (
    *("epochs", "batch_size", "learning_rate", "label_smoothing", "ema_decay"),
    *("augment.policy", "augment.rand_magnitude", "augment.mixup"),
)


def by_images(images: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields (OPEN) that `finetune` fits to the number of training images.

    Few images: small batches, so that there are enough steps; no smoothing, average or strong augmentation, which help
    long trainings. Big Transfer (arXiv 1912.11370) likewise mixes from 20,000 images on.

    Args:
        images: in the training split.
        given: `epochs` and `batch_size`, where the config has them.
    """
    batch = given.get("batch_size", max(2, min(images, 16)) if images < 1_000 else 32 if images < 10_000 else 64)
    steps = max(1, images // batch)
    epochs = given.get("epochs", min(30, max(8, math.ceil(200 / steps))))
    many = images >= 10_000
    return {
        "epochs": epochs,
        "batch_size": batch,
        "learning_rate": FINETUNE_RATE * max(1.0, math.sqrt(batch / 64)) * 256 / batch,  # per 256 images
        "label_smoothing": 0.1 if images >= 1_000 else 0.0,
        "ema_decay": 0.999 if steps * epochs >= 1_000 else 0.0,
        "augment.policy": "randaugment" if many else "none",
        "augment.rand_magnitude": 7.0 if many else 9.0,
        "augment.mixup": 0.1 if many else 0.0,
    }


def with_base(data: object) -> object:
    """Return a recipe's fields over those of the recipe that its `base` names; a name alone is a recipe as well."""
    if isinstance(data, str):
        data = {"base": data}
    data = with_tuples(data)
    if not isinstance(data, Mapping) or data.get("base") not in RECIPES:
        return data  # validation of the field refuses a wrong name
    base = RECIPES[data["base"]]
    merged = {**base, **data}
    if isinstance(given := data.get("augment"), Mapping):
        merged["augment"] = {**base.get("augment", {}), **given}
    if data["base"] == "finetune" and "left_open" not in data:
        merged["left_open"] = tuple(name for name in OPEN if not _has(data, name))
    return merged


def _has(data: Mapping[str, Any], name: str) -> bool:
    first, _, rest = name.partition(".")
    return first in data and (not rest or (isinstance(data[first], Mapping) and rest in data[first]))


def with_tuples(data: object) -> object:
    """Return plain data with tuples for lists: strict validation follows, which takes lists for tuples only in JSON."""
    if isinstance(data, Mapping):
        return {key: with_tuples(value) for key, value in data.items()}
    return tuple(map(with_tuples, data)) if isinstance(data, list) else data
