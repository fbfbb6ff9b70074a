"""A preview shows what the training itself will show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig
from effnet.data.loader import Loader
from effnet.data.shards.manifest import Manifest
from effnet.store import Store
from effnet.train.preview import Preview, preview, preview_figure

CHANGED = {"epochs": 4, "stages": 2, "first_resolution": 0.5}


@pytest.fixture
def seen(config: FamilyConfig, baseline: Architecture, dataset_store: Store, manifest: Manifest) -> Preview:
    recipe = config.recipe.model_copy(update=CHANGED)
    folder = dataset_store.datasets / manifest.digest
    return preview(folder, manifest.class_names, recipe, baseline, seed=3, images=12, draws=2)


def test_pixels_are_those_of_the_training(
    seen: Preview, config: FamilyConfig, dataset_store: Store, manifest: Manifest
) -> None:
    folder = dataset_store.datasets / manifest.digest
    loader = Loader(
        folder, "train", batch_size=32, resolution=8, augment=config.recipe.augment, train=True, seed=3
    )  # the second stage, whose augmentation is the recipe's: epochs 2 and 3, counted from 0
    for draw, epoch in enumerate((2, 3), start=1):
        trained = {
            image.tobytes() for batch in loader.epoch(epoch) for image in batch.images.permute(0, 2, 3, 1).numpy()
        }
        shown = [image.tobytes() for image in seen.stages[1].pixels[:, draw]]
        assert sum(each in trained for each in shown) >= 11  # the last, smaller batch of an epoch is dropped
    loader.close()


def test_stages_have_their_sides_and_classes_take_turns(seen: Preview, tmp_path: Path) -> None:
    assert [stage.pixels.shape for stage in seen.stages] == [(12, 3, 4, 4, 3), (12, 3, 8, 8, 3)]
    assert [stage.title.partition(", crops")[0] for stage in seen.stages] == [
        "stage 1 of 2, epochs 1 to 2: 4 pixels",
        "stage 2 of 2, epochs 3 to 4: 8 pixels",
    ]
    counts = [seen.names.count(name) for name in dict.fromkeys(seen.names)]
    assert sorted(counts) == [1] * 8 + [2] * 2
    preview_figure(seen, tmp_path / "preview.png")
    with Image.open(tmp_path / "preview.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 20


def test_strong_augmentation_is_told(
    config: FamilyConfig, baseline: Architecture, dataset_store: Store, manifest: Manifest
) -> None:
    strong = config.recipe.augment.model_copy(update={"policy": "randaugment", "mixup": 0.4, "flip": True})
    recipe = config.recipe.model_copy(update=CHANGED | {"augment": strong})
    folder = dataset_store.datasets / manifest.digest
    found = preview(folder, manifest.class_names, recipe, baseline, seed=3, images=4, draws=1)
    assert found.stages[0].title.endswith("flips, randaugment 2 × 2.7, mixup 0.12")  # three tenths
    assert found.stages[1].title.endswith("flips, randaugment 2 × 9, mixup 0.4")
