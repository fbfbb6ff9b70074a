"""Images that occur twice in a dataset: the same bytes, or nearly the same picture (resized, compressed anew, lighter).

Near twins are found by a perceptual hash of 64 bits (`phash`: the signs of the lowest frequencies of a discrete cosine
transform, as in pHash and the package imagehash; ten lines of NumPy and SciPy, which are here already). A hash alone
also pairs different pictures, so a pair has to look alike as well: the correlation of the two thumbnails.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effnet.data.images.decode import thumbnail
from effnet.data.shards.index import read_table
from effnet.data.shards.manifest import INDEX, MANIFEST, load_manifest
from effnet.data.shards.mirror import ShardFiles
from effnet.errors import ConfigError

BITS = 6  # that the hashes of near twins may differ in, of 64
ALIKE = 0.97  # least correlation of their thumbnails
MIN_SIDE = 64  # pixels; smaller images (MNIST, CIFAR) of a class are alike without being twins
MIN_CONTRAST = 8.0  # standard deviation of grey values, 0 to 255; below, a hash is of noise
_SIDE, _LOW = 32, 8  # of the thumbnail, and of the square of frequencies
_BANDS = (10, 9, 9, 9, 9, 9, 9)  # of bits: hashes that differ in 6 bits are equal in one of seven bands
_BLOCK = 512  # images that are compared with as many others at a time
_CHUNK = 64  # images that one thread reads at a time


class Twins(NamedTuple):
    """Two images of a dataset that are the same, or nearly."""

    kind: str  # "same" bytes, or "near"
    image: str
    twin: str
    image_split: str
    twin_split: str
    image_class: str
    twin_class: str
    correlation: float  # of the thumbnails, -1 to 1

    @property
    def leak(self) -> bool:
        """Whether one is learned from, or decides, and the other is in another split."""
        return self.image_split != self.twin_split

    @property
    def conflict(self) -> bool:
        """Whether they have different classes: one of the labels is wrong, or both fit."""
        return self.image_class != self.twin_class


@dataclass(frozen=True)
class Duplicates:
    """The twins of a dataset: all of the same bytes; near ones where split or class differ, each image's nearest."""

    twins: tuple[Twins, ...]
    small: int  # images that are compared by their bytes alone: smaller than MIN_SIDE
    flat: int  # likewise: of nearly one colour


class _Images(NamedTuple):
    """The images of a dataset as columns."""

    keys: list[str]
    splits: NDArray[np.int64]
    labels: NDArray[np.int64]
    content: NDArray[np.int64]  # equal where the bytes are


def find_duplicates(folder: Path, progress: Callable[[int, int], None] | None = None) -> Duplicates:
    """Find a dataset's twins. Every image is decoded once, at a small size.

    Args:
        folder: of the dataset.
        progress: called with (images read, images in all).

    Raises:
        ConfigError: if the folder is no dataset.
        DataError: if an image is broken.
    """
    manifest = load_manifest(folder)
    if manifest is None:
        raise ConfigError(f"{folder}: no {MANIFEST} here; a dataset is a folder that effnet wrote")
    table = read_table(folder / INDEX)
    split_names = table["split"].to_pylist()
    known = {name: place for place, name in enumerate(sorted({*split_names}))}
    hashes = np.frombuffer(b"".join(table["sha256"].to_pylist()), "V32")
    images = _Images(
        table["key"].to_pylist(),
        np.array([known[name] for name in split_names], np.int64),
        table["label"].to_numpy().astype(np.int64),
        np.unique(hashes, return_inverse=True)[1].reshape(-1),
    )
    large = np.minimum(table["width"].to_numpy(), table["height"].to_numpy()) >= MIN_SIDE
    # Of copies in one split and class one is enough.
    first = np.unique(np.stack([images.content, images.splits, images.labels]), axis=1, return_index=True)[1]
    chosen = np.array(sorted({*first.tolist()} & {*np.flatnonzero(large).tolist()}), np.int64)
    thumbnails = _thumbnails(folder, table.take(chosen), progress or (lambda *_: None))
    contrast = thumbnails.reshape(len(chosen), -1).std(1) if len(chosen) else np.zeros(0)
    clear = contrast >= MIN_CONTRAST
    found = [*_same(images), *_near(images, chosen[clear], thumbnails[clear])]
    classes, names = manifest.classes, sorted(known)

    def told(kind: str, image: int, twin: int, alike: float) -> Twins:
        pair = [(images.keys[n], names[images.splits[n]], classes[images.labels[n]]) for n in (image, twin)]
        (key, split, label), (other, its_split, its_label) = pair
        return Twins(kind, key, other, split, its_split, label, its_label, round(alike, 4))

    twins = sorted((told(*each) for each in found), key=lambda t: (t.kind != "same", not t.leak, not t.conflict, t))
    return Duplicates(tuple(twins), int((~large).sum()), int((~clear).sum()))


def phash(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the hashes, (images,), of grey thumbnails, (images, 32, 32): a bit per frequency above the median."""
    from scipy.fft import dctn

    found = np.empty(len(thumbnails), np.uint64)
    for start in range(0, len(thumbnails), 1024):
        low = dctn(thumbnails[start : start + 1024].astype(np.float32), axes=(1, 2))[:, :_LOW, :_LOW].reshape(-1, 64)
        bits = low > np.median(low[:, 1:], axis=1, keepdims=True)  # without the mean, which is the first
        found[start : start + 1024] = np.packbits(bits, axis=1).view(">u8")[:, 0]
    return found


def _thumbnails(folder: Path, table: Any, progress: Callable[[int, int], None]) -> NDArray[np.uint8]:
    """Return grey thumbnails of images, (images, 32, 32)."""
    rows = table.select(["shard", "offset", "length", "key"]).to_pylist()
    names = sorted({row["shard"] for row in rows})
    numbers = {name: number for number, name in enumerate(names)}
    found = np.zeros((len(rows), _SIDE, _SIDE), np.uint8)

    def fill(start: int) -> None:
        for place, row in enumerate(rows[start : start + _CHUNK], start):
            data = files.read(numbers[row["shard"]], row["offset"], row["length"])
            found[place] = thumbnail(data, _SIDE, f"{folder / row['shard']}: image '{row['key']}'")

    with (
        contextlib.closing(ShardFiles(folder, names)) as files,
        ThreadPoolExecutor(len(os.sched_getaffinity(0)), "look") as pool,
    ):
        for done, _ in enumerate(pool.map(fill, range(0, len(rows), _CHUNK)), 1):
            progress(min(done * _CHUNK, len(rows)), len(rows))
    return found


def _same(images: _Images) -> Iterator[tuple[str, int, int, float]]:
    """Yield the images of the same bytes as an earlier one, with that one."""
    first: dict[int, int] = {}
    for place, content in enumerate(images.content.tolist()):
        if first.setdefault(content, place) != place:
            yield "same", first[content], place, 1.0


def _near(
    images: _Images, chosen: NDArray[np.int64], thumbnails: NDArray[np.uint8]
) -> Iterator[tuple[str, int, int, float]]:
    """Yield each image's nearest twin in another split, and in another class; a pair once."""
    hashes, pixels = phash(thumbnails), thumbnails.reshape(len(thumbnails), _SIDE * _SIDE)
    splits, labels, content = images.splits[chosen], images.labels[chosen], images.content[chosen]
    found = [(other, np.full(len(chosen), ALIKE), np.full(len(chosen), -1)) for other in (splits, labels)]
    for one, two, close in _candidates(hashes):
        alike = _units(pixels[one]) @ _units(pixels[two]).T
        close &= content[one][:, None] != content[two]
        for other, best, twin in found:
            scores = np.where(close & (other[one][:, None] != other[two]), alike, -1)
            nearest = scores.argmax(1)
            score = scores[np.arange(len(one)), nearest]
            better = score >= best[one]
            best[one[better]], twin[one[better]] = score[better], two[nearest[better]]
    pairs: dict[tuple[int, int], float] = {}
    for _, best, twin in found:
        for place in np.flatnonzero(twin >= 0).tolist():
            ends = sorted((int(chosen[place]), int(chosen[twin[place]])))
            pairs[ends[0], ends[1]] = float(best[place])
    for (image, its_twin), correlation in pairs.items():
        yield "near", image, its_twin, correlation


def _candidates(
    hashes: NDArray[np.uint64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]]:
    """Yield blocks of images, (a,) and (b,), and which hashes differ in few bits, (a, b); a pair once each way."""
    shift = 0
    for width in _BANDS:
        band = (hashes >> np.uint64(shift)) & np.uint64((1 << width) - 1)
        order = np.argsort(band, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
            if len(members) < 2:
                continue
            blocks = [members[start : start + _BLOCK] for start in range(0, len(members), _BLOCK)]
            for one, two in itertools.product(blocks, blocks):
                differ = hashes[one][:, None] ^ hashes[two]
                close = np.bitwise_count(differ) <= BITS
                close &= ~_equal_in_a_band(differ, before=shift)
                some, others = close.any(1), close.any(0)
                if some.any():
                    yield one[some], two[others], close[np.ix_(some, others)]
        shift += width


def _equal_in_a_band(differ: NDArray[np.uint64], before: int) -> NDArray[np.bool_]:
    """Say which pairs have an equal band that begins below a bit: these were seen with that band."""
    seen, shift = np.zeros(differ.shape, bool), 0
    for width in _BANDS:
        if shift >= before:
            break
        seen |= (differ >> np.uint64(shift)) & np.uint64((1 << width) - 1) == 0
        shift += width
    return seen


def _units(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return pixels, (images, pixels), without their mean and of length 1: their products are correlations."""
    found = pixels - pixels.mean(1, keepdims=True, dtype=np.float32)
    return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9), np.float32)
