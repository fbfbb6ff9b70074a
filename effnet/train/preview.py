"""What a network will see: training images as they come out of the augmentation, at each stage of the training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from effnet.arch.spec import Architecture
from effnet.config import Augment, Recipe
from effnet.data.augment.policies import augment_batch, mix_batch
from effnet.data.loader import Loader
from effnet.report.style import drawing
from effnet.train.schedule import Stage, stage

SIDE = 96  # of the pictures, pixels
GAP = 4  # of these, between two
INCH = 0.75  # of a picture


class StageSeen(NamedTuple):
    """What a stage of the training shows of some images."""

    title: str
    pixels: NDArray[np.uint8]  # (images, columns, side, side, 3); the first column is the image without augmentation


class Preview(NamedTuple):
    """What a training shows of some images."""

    names: tuple[str, ...]  # of the images' classes
    stages: tuple[StageSeen, ...]


def preview(
    dataset: Path, class_names: Sequence[str], recipe: Recipe, arch: Architecture, *, seed: int, images: int, draws: int
) -> Preview:
    """Return what a training with this recipe shows of some images of its training split.

    Crops, flips, policies and erasing are those that the training itself will draw for these images in the first
    epochs of each stage. Mixing pairs images of a batch: here those that are shown.

    Args:
        dataset: its folder.
        class_names: of the dataset.
        recipe: fitted to the images (Recipe.sized).
        arch: of the network.
        seed: of the training.
        images: how many, each of another class if there are enough.
        draws: of each image.
    """
    augment = recipe.augment
    loader = Loader(dataset, "train", batch_size=1, resolution=arch.resolution, augment=augment, train=True, seed=seed)
    plain = Loader(dataset, "train", batch_size=1, resolution=arch.resolution, augment=Augment(crop_padding=0))
    try:
        chosen = _of_several_classes(loader.index.labels, images)
        firsts = {_number(recipe, epoch): epoch for epoch in reversed(range(recipe.epochs))}  # epoch that begins each
        stages = tuple(
            _seen(loader, plain, chosen, recipe, stage(recipe, arch, epoch), epoch, draws)
            for _, epoch in sorted(firsts.items())
        )
        names = tuple(class_names[label] for label in loader.index.labels[chosen])
    finally:
        loader.close()
        plain.close()
    return Preview(names, stages)


def preview_figure(seen: Preview, target: Path) -> None:
    """Draw a preview: a panel for each stage, a row for each image, a column for each draw."""
    rows, columns = seen.stages[0].pixels.shape[:2]
    size = (1.4 + INCH * columns, len(seen.stages) * (0.45 + INCH * rows))
    with drawing([target], size, rows=len(seen.stages)) as (_, axes):
        for axis, each in zip(axes, seen.stages, strict=True):
            sheet = np.concatenate([np.concatenate([_enlarged(one) for one in row], 1) for row in each.pixels])
            axis.imshow(sheet, interpolation="none")
            axis.set_yticks([SIDE * (row + 0.5) for row in range(rows)], [f"{name:.20}" for name in seen.names], size=8)
            axis.set_xticks([SIDE * (column + 0.5) for column in range(columns)], _heads(columns), size=8)
            axis.set_title(each.title, size=9, loc="left")
            axis.tick_params(length=0)
            for spine in axis.spines.values():
                spine.set_visible(False)


def _seen(
    loader: Loader, plain: Loader, chosen: NDArray[np.int64], recipe: Recipe, now: Stage, epoch: int, draws: int
) -> StageSeen:
    columns = [plain.batch(chosen, 0, now.resolution).images]
    for place in range(epoch, epoch + draws):
        batch = loader.batch(chosen, place, now.resolution)
        pixels = augment_batch(batch.images, now.augment, batch.samples, loader.seed, place)
        mixed = mix_batch(pixels.float(), batch.labels, now.augment, loader.seed, place).images
        columns.append(mixed.round().clamp(0, 255).to(torch.uint8))
    pixels = torch.stack([column.permute(0, 2, 3, 1) for column in columns], 1)
    return StageSeen(_title(recipe, now, epoch), pixels.numpy())


def _title(recipe: Recipe, now: Stage, epoch: int) -> str:
    number = _number(recipe, epoch)
    last = max(each for each in range(recipe.epochs) if _number(recipe, each) == number)
    augment = now.augment
    parts = [f"{now.resolution} pixels", f"crops of {augment.crop_area[0]:g} to {augment.crop_area[1]:g}"]
    parts += ["flips"] if augment.flip else []
    if augment.policy == "randaugment":
        parts.append(f"randaugment {augment.rand_layers} × {augment.rand_magnitude:.3g}")
    elif augment.policy != "none":
        parts.append(augment.policy)
    parts += [f"{name} {value:.3g}" for name in ("erase", "mixup", "cutmix") if (value := getattr(augment, name))]
    which = f"stage {number + 1} of {recipe.stages}, " if recipe.stages > 1 else ""
    return f"{which}epochs {epoch + 1} to {last + 1}: {', '.join(parts)}"


def _number(recipe: Recipe, epoch: int) -> int:
    """Return the stage of an epoch, both counted from 0, as effnet.train.schedule.stage does."""
    return min(epoch * recipe.stages // recipe.epochs, recipe.stages - 1)


def _of_several_classes(labels: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Return places of images: the first of as many classes as there are, then the second of each, in their order."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])
    turn = np.arange(len(labels)) - starts  # which image of its class
    return np.sort(order[np.lexsort((labels[order], turn))][:number])


def _heads(columns: int) -> list[str]:
    return ["the image", *(f"draw {number}" for number in range(1, columns))]


def _enlarged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture of SIDE pixels, with the gap to the next: few pixels stay to be seen as squares."""
    from PIL import Image

    how = Image.Resampling.NEAREST if pixels.shape[0] < SIDE else Image.Resampling.BOX
    large = np.asarray(Image.fromarray(pixels).resize((SIDE - GAP, SIDE - GAP), how))
    return np.pad(large, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
