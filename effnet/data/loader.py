"""Batches for one rank, in an order that is a pure function of (seed, epoch, position)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effnet.config import Augment
from effnet.data.augment import augment, draws
from effnet.data.decode import Pixels, center_box, crop_resize, decode
from effnet.data.index import Index
from effnet.data.keyed import permutation
from effnet.data.shards import INDEX
from effnet.errors import DataError

CACHE_BYTES = 256 << 20  # decoded images kept in memory: small datasets are read and decoded once


class Batch(NamedTuple):
    """One rank's share of a step."""

    images: Tensor  # uint8, (n, 3, resolution, resolution), channels last in memory
    labels: Tensor  # int64, (n,)
    samples: NDArray[np.int64]  # positions in the split's index


class Loader:
    """Batches of one split.

    Training (`train=True`) shuffles by (seed, epoch), augments by (seed, epoch, sample) and leaves away the last,
    smaller batch. Otherwise every sample comes once, in the order of the index, cropped at the centre.

    Args:
        folder: the dataset.
        split: "train", "minival" or "val".
        batch_size: images per step over all ranks.
        resolution: side of the images in pixels.
        augment: crop and flip settings.
        train: see above.
        seed: of order and augmentation.
        rank, world: this process's share: of each step's samples, every `world`-th from `rank` on.

    Raises:
        DataError: if the index is broken, or the split holds less than one batch to train on.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        batch_size: int,
        resolution: int,
        augment: Augment,
        train: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.folder, self.split, self.batch_size, self.resolution = folder, split, batch_size, resolution
        self.augment, self.train, self.seed, self.rank, self.world = augment, train, seed, rank, world
        self.index = Index.read(folder / INDEX, split)
        self._files: dict[str, int] = {}
        self._cache: dict[int, Pixels] = {}
        self._cached = 0
        if train and len(self.index) < batch_size:
            raise DataError(
                f"{folder}: the {split} split holds {len(self.index)} images, less than one batch of {batch_size}; "
                "lower recipe.batch_size"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps that `epoch` gives from its start."""
        whole, rest = divmod(len(self.index), self.batch_size)
        return whole if self.train or not rest else whole + 1

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the positions of an epoch's samples, in order."""
        num = len(self.index)
        return permutation(num, self.seed, epoch) if self.train else np.arange(num)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield this rank's batches of an epoch from a step on."""
        order = self.order(epoch)
        for step in range(start_step, self.steps_per_epoch):
            samples = order[step * self.batch_size : (step + 1) * self.batch_size][self.rank :: self.world]
            yield self._batch(samples, epoch)

    def close(self) -> None:
        """Close the shards."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def _batch(self, samples: NDArray[np.int64], epoch: int) -> Batch:
        images = np.empty((len(samples), self.resolution, self.resolution, 3), np.uint8)
        numbers = draws(self.seed, epoch, samples) if self.train else None
        for row, sample in enumerate(samples):
            pixels = self._pixels(int(sample))
            if numbers is not None:
                images[row] = augment(pixels, self.augment, self.resolution, numbers[row])
            else:
                box = center_box(pixels.shape[1], pixels.shape[0], self.resolution, self.augment.crop_padding)
                images[row] = crop_resize(pixels, box, self.resolution)
        labels = torch.from_numpy(self.index.labels[samples])
        return Batch(torch.from_numpy(images).permute(0, 3, 1, 2), labels, samples)

    def _pixels(self, sample: int) -> Pixels:
        pixels = self._cache.get(sample)
        if pixels is None:
            where = f"{self.folder / self.index.shards[sample]}: image {self.index.keys[sample]!r}"
            pixels = decode(self._read(sample, where), where)
            if self._cached + pixels.nbytes <= CACHE_BYTES:
                self._cache[sample] = pixels
                self._cached += pixels.nbytes
        return pixels

    def _read(self, sample: int, where: str) -> bytes:
        shard, length = self.index.shards[sample], int(self.index.lengths[sample])
        if shard not in self._files:
            try:
                self._files[shard] = os.open(self.folder / shard, os.O_RDONLY)
            except OSError as error:
                raise DataError(
                    f"{self.folder / shard}: {(error.strerror or '').lower()}; run `effnet verify`"
                ) from error
        data = os.pread(self._files[shard], length, int(self.index.offsets[sample]))
        if hashlib.sha256(data).digest() != self.index.sha256[sample]:
            raise DataError(f"{where}: its bytes are not those that were written; shard the dataset again")
        return data
