"""Batches for one rank, in an order that is a pure function of (seed, epoch, position)."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effnet.config import Augment
from effnet.data.augment.crop import draws, is_flipped, random_box
from effnet.data.augment.draws import permutation
from effnet.data.images.decode import Box, Pixels, center_box, cut, decode, decode_box, resize_into
from effnet.data.order import Mixed, Order
from effnet.data.pixel_cache import DecodedCache
from effnet.data.shards.index import Index
from effnet.data.shards.manifest import INDEX
from effnet.data.shards.mirror import ShardFiles
from effnet.data.shards.plan import SPLITS
from effnet.errors import ConfigError, DataError, StoppedError
from effnet.process import stopping

_AHEAD = 2  # batches that are prepared while one is used
LOOK_SECONDS = 0.2  # between checks for a request to stop, while waiting for data
_SOON = 32  # batches whose shards are fetched ahead, if the dataset lies elsewhere


class WaitedError(StoppedError):
    """The process was asked to stop while it waited for data."""


class Batch(NamedTuple):
    """One rank's share of a step."""

    images: Tensor  # uint8, (n, 3, resolution, resolution), channels last in memory; pinned if there is CUDA
    labels: Tensor  # int64, (n,)
    samples: NDArray[np.int64]  # positions in the split's index


class Loader:
    """Batches of one split.

    Training (`train=True`) shuffles by (seed, epoch), augments by (seed, epoch, sample) and drops the last,
    smaller batch. Otherwise every sample comes once, in the order of the index, cropped at the centre. Threads decode
    straight into the batch; their number, like the number of ranks, changes no pixel.

    Args:
        folder: the dataset.
        split: "train", "minival" or "val".
        batch_size: images per step over all ranks.
        resolution: side of the images in pixels.
        augment: crop and flip settings.
        train: see above.
        seed: of order and augmentation.
        rank: of this process, from 0; its share of each step's samples is every `world`-th from `rank` on.
        world: the number of processes.
        shuffle_shards: mix the samples of this many shards at a time, in an order of shards that is drawn anew for
            every epoch, so that of shards fetched from elsewhere few have to be here at once; 0 mixes all.
        threads: that read and decode.
        cache: folder for decoded pixels, if they are to be kept; for splits small enough (effnet.data.pixel_cache).

    Raises:
        ConfigError: if there is no such split.
        DataError: if the index is broken, or the split holds less than one batch to train on.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        *,
        batch_size: int,
        resolution: int,
        augment: Augment,
        train: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle_shards: int = 0,
        threads: int = 1,
        cache: Path | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(f"split must be one of {', '.join(SPLITS)} (got {split!r:.60})")
        self.folder = folder = Path(folder)
        self.split, self.batch_size, self.resolution = split, batch_size, resolution
        self.augment, self.train, self.seed, self.rank, self.world = augment, train, seed, rank, world
        self.shuffle_shards, self.threads = shuffle_shards, threads
        self.index = Index.read(folder / INDEX, split)
        self._files = ShardFiles(folder, self.index.shard_names)
        self._decoded = DecodedCache.open(cache, f"{folder.name}-{split}", self.index) if cache else None
        if train and len(self.index) < batch_size:
            raise DataError(
                f"{folder}: the {split} split holds {len(self.index)} images, fewer than one batch of {batch_size}; "
                "lower recipe.batch_size"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps that `epoch` gives from its start."""
        whole, rest = divmod(len(self.index), self.batch_size)
        return whole if self.train or not rest else whole + 1

    def order(self, epoch: int) -> Order:
        """Return the positions of an epoch's samples, in order."""
        if not self.train:
            return np.arange(len(self.index))
        if not self.shuffle_shards:
            return permutation(len(self.index), self.seed, epoch)
        return Mixed(self.index, self.shuffle_shards, self.seed, epoch)

    def epoch(self, epoch: int, start_step: int = 0, resolution: int | None = None) -> Iterator[Batch]:
        """Yield this rank's batches of an epoch from a step on; `resolution` overrides the loader's."""
        side = resolution or self.resolution
        order = self.order(epoch)
        self._files.begin()
        pool = ThreadPoolExecutor(self.threads, f"load-{self.split}", initializer=torch.set_num_threads, initargs=(1,))
        waiting: deque[tuple[Batch, list[Future[None]]]] = deque()
        try:
            for step in range(start_step, self.steps_per_epoch):
                samples = order[step * self.batch_size : (step + 1) * self.batch_size][self.rank :: self.world]
                read = max(start_step, step - _AHEAD) * self.batch_size  # those before are read: they may make room
                soon = order[read : read + _SOON * self.batch_size]
                self._files.prefetch(dict.fromkeys(self.index.shards[soon].tolist()))
                if len(samples):  # the last step of an evaluation may not reach every rank
                    waiting.append(self._submit(pool, samples, epoch, side))
                if len(waiting) > _AHEAD:
                    yield _wait(*waiting.popleft())
            while waiting:
                yield _wait(*waiting.popleft())
        finally:
            pool.shutdown(wait=not stopping(), cancel_futures=True)
            self._files.rest()

    def batch(self, samples: NDArray[np.int64], epoch: int, resolution: int | None = None) -> Batch:
        """Return samples of the index, by their positions, as they are in an epoch, whatever its order."""
        with ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return _wait(*self._submit(pool, samples, epoch, resolution or self.resolution))

    def whole(self, sample: int) -> Pixels:
        """Return a sample of the index, by its position, whole and in its own size: uint8 (height, width, 3)."""
        return self._pixels(sample, Box(0, 0, int(self.index.widths[sample]), int(self.index.heights[sample])))

    def close(self) -> None:
        """Close the shards."""
        self._files.close()

    def _submit(
        self, pool: ThreadPoolExecutor, samples: NDArray[np.int64], epoch: int, side: int
    ) -> tuple[Batch, list[Future[None]]]:
        """Return a batch that threads are filling, each thread its part."""
        shape = (len(samples), side, side, 3)
        images = torch.empty(shape, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        rows = images.numpy()  # not a tensor: in inference mode threads may not write to this thread's
        parts = [
            pool.submit(self._fill, rows[part :: self.threads], samples[part :: self.threads], epoch)
            for part in range(min(self.threads, len(samples)))
        ]
        labels = torch.from_numpy(self.index.labels[samples])
        return Batch(images.permute(0, 3, 1, 2), labels, samples), parts

    def _fill(self, rows: NDArray[np.uint8], samples: NDArray[np.int64], epoch: int) -> None:
        numbers = draws(self.seed, epoch, samples) if self.train else None
        for row, sample in enumerate(samples.tolist()):
            width, height = int(self.index.widths[sample]), int(self.index.heights[sample])
            if numbers is None:
                box = center_box(width, height, rows.shape[1], self.augment.crop_padding)
                resize_into(torch.from_numpy(rows[row]), self._pixels(sample, box))
            else:
                box = random_box(width, height, self.augment, numbers[row])
                flip = is_flipped(self.augment, numbers[row])
                resize_into(torch.from_numpy(rows[row]), self._pixels(sample, box), flip=flip)

    def _pixels(self, sample: int, box: Box) -> Pixels:
        """Return the box of an image, from the cache or decoded; an image that goes into the cache is decoded whole."""
        if self._decoded and (pixels := self._decoded.get(sample)) is not None:
            return cut(pixels, box)
        data, where = self._read(sample), f"{self.folder}/{self.index.describe(sample)}"
        if not self._decoded:
            return decode_box(data, (int(self.index.widths[sample]), int(self.index.heights[sample])), box, where)
        pixels = decode(data, where)
        self._decoded.put(sample, pixels)
        return cut(pixels, box)

    def _read(self, sample: int) -> bytes:
        """Return an image's bytes, checked to be those that were written."""
        index = self.index
        data = self._files.read(int(index.shards[sample]), int(index.offsets[sample]), int(index.lengths[sample]))
        if hashlib.sha256(data).digest() != index.sha256[sample].tobytes():
            raise DataError(
                f"{self.folder}/{index.describe(sample)}: does not match its checksum; shard the dataset again"
            )
        return data


def some_images(dataset: Path, split: str, samples: Sequence[int], side: int) -> tuple[NDArray[np.uint8], Index]:
    """Return some of a split's images, uint8 (samples, side, side, 3), their whole central squares; and their index."""
    loader = Loader(dataset, split, batch_size=max(1, len(samples)), resolution=side, augment=Augment(crop_padding=0))
    loader.index = loader.index.take(samples)
    try:
        found = [batch.images.permute(0, 2, 3, 1).numpy() for batch in loader.epoch(0)]
    finally:
        loader.close()
    return np.concatenate(found) if found else np.empty((0, side, side, 3), np.uint8), loader.index


def _wait(batch: Batch, parts: list[Future[None]]) -> Batch:
    for part in parts:
        while not part.done() and wait([part], LOOK_SECONDS).not_done:
            if stopping():
                raise WaitedError("asked to stop while it waited for data")
        part.result()
    return batch
