"""What a family was trained on: counts, duplicates, and some of the images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from effnet.data.shards.contents import report
from effnet.data.shards.index import Index
from effnet.data.shards.manifest import INDEX, Manifest
from effnet.data.shards.plan import SPLITS
from effnet.report.pictures import Sample, Strip, tile
from effnet.report.words import counted

CLASSES = 12  # of which images are shown, at most
EACH = {"train": 4, "minival": 2, "val": 2}  # images of a class
SIDE = 64  # of the pictures, pixels


class ClassRow(NamedTuple):
    """A class of the dataset."""

    label: int
    name: str
    samples: dict[str, int]  # by split


class Contents(NamedTuple):
    """What there is to say about a dataset."""

    classes: tuple[ClassRow, ...]  # those that are shown
    all_classes: int
    told: tuple[str, ...]  # sentences


def contents(folder: Path, manifest: Manifest) -> Contents:
    """Return the facts of a dataset; of more than CLASSES classes, some evenly through the list."""
    found = report(folder)
    rows = [
        ClassRow(label, row["name"], {split: row[split] for split in SPLITS})
        for label, row in enumerate(found["classes"])
    ]
    shown = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), CLASSES)).round().astype(int))
    return Contents(tuple(rows[int(label)] for label in shown), len(rows), tuple(_told(found, rows, manifest)))


def some_samples(folder: Path, rows: Sequence[ClassRow]) -> list[Sample]:
    """Return the first few images of each of these classes in each split, in the order of the index."""
    from effnet.data.loader import some_images

    samples: list[Sample] = []
    for split in SPLITS:
        labels = Index.read(folder / INDEX, split).labels
        chosen = [int(place) for row in rows for place in np.flatnonzero(labels == row.label)[: EACH[split]]]
        if not chosen:
            continue
        pixels, index = some_images(folder, split, chosen, SIDE)
        samples += [Sample(image, int(label), split) for image, label in zip(pixels, index.labels, strict=True)]
    return samples


def sample_strips(samples: Sequence[Sample], rows: Sequence[ClassRow]) -> list[Strip]:
    """Return them as pictures of the page: for each class, a strip for each split."""
    return [
        Strip(
            label=f"{row.name}, {split}",
            tiles=tuple(
                tile(each.pixels, f"{row.name}, of {split}")
                for each in samples
                if (each.label, each.split) == (row.label, split)
            ),
        )
        for row in rows
        for split in SPLITS
    ]


def _told(found: dict[str, Any], rows: Sequence[ClassRow], manifest: Manifest) -> list[str]:
    """Return what counts and duplicates say, a sentence each."""
    sizes, same = found["sizes"], found["duplicates"]
    width, height = sizes["width"], sizes["height"]
    told = [
        f"Images are {_span(width)} pixels wide and {_span(height)} high.",
        _balance(rows),
    ]
    if same["images"]:
        told.append(
            f"Duplicates: {counted(same['images'], 'image')} in {counted(same['groups'], 'group')} of equal bytes, "
            f"{counted(same['across_splits'], 'group')} across splits, which makes scores too good, and "
            f"{counted(same['across_classes'], 'group')} across classes, where a label is wrong."
        )
    else:
        told.append("No two images have the same bytes.")
    left = manifest.quarantined
    told.append(
        f"{counted(left, 'image')} {'was' if left == 1 else 'were'} left out; quarantine.jsonl of the dataset says why."
        if left
        else "No image was left out."
    )
    return told


def _span(sizes: dict[str, float]) -> str:
    low, middle, high = (f"{sizes[name]:,.0f}" for name in ("min", "median", "max"))
    return low if low == high else f"{low} to {high} (median {middle})"


def _balance(rows: Sequence[ClassRow]) -> str:
    train = [row.samples["train"] for row in rows]
    val = [row.samples["val"] for row in rows]
    span = f"{min(train):,}" if min(train) == max(train) else f"{min(train):,} to {max(train):,}"
    return (
        f"A class has {span} images to train on. Always naming the commonest class is right on "
        f"{100 * max(val) / sum(val):.1f} % of val."
    )
