"""Decoded images of a split in one memory-mapped file, shared by all processes of this machine.

Each image is decoded once, by whoever needs it first; later epochs and other candidates find its pixels. The file's
name holds the machine's boot ID: after a crash, pages that may not have reached the disk are not trusted.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effnet.data.images.decode import Pixels
from effnet.data.shards.index import Index
from effnet.store import new_file

MAX_BYTES = 8 << 30
_MAX_SHARE = 4  # of the free disk: at most one part in this many
FIRST = 100_000  # images that are enough to say of most large splits that they are too many
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class DecodedCache:
    """Pixels by sample. Several threads and processes may read and fill it: they all write the same bytes."""

    def __init__(self, path: Path, widths: NDArray[np.int32], heights: NDArray[np.int32]) -> None:
        self._shapes = np.stack([heights, widths], axis=1).astype(np.int64)
        sizes = self._shapes.prod(axis=1) * 3
        self._starts = len(sizes) + np.concatenate([[0], np.cumsum(sizes)])
        self._data = np.memmap(path, np.uint8, "r+", shape=(int(self._starts[-1]),))
        self._there = self._data[: len(sizes)]  # 1 where an image's pixels are whole

    @classmethod
    def open(cls, folder: Path, name: str, index: Index, max_bytes: int = MAX_BYTES) -> DecodedCache | None:
        """Return the cache of a split, made if it is new; None if its pixels are too many to be kept."""
        if _bytes(index, FIRST) > max_bytes:  # without a look at all of a large index
            return None
        size = len(index) + _bytes(index, len(index))
        path = folder / f"{name}-{_BOOT.read_text().strip()[:8]}.pixels"
        if not path.exists():
            for stale in set(folder.glob("*.pixels")) - set(folder.glob(f"*-{path.stem[-8:]}.pixels")):
                stale.unlink(missing_ok=True)
            folder.mkdir(parents=True, exist_ok=True)
            if size > min(max_bytes, shutil.disk_usage(folder).free // _MAX_SHARE) or not _reserve(path, size):
                return None
        return cls(path, index.widths, index.heights)

    def get(self, sample: int) -> Pixels | None:
        """Return an image's pixels, (height, width, 3), read-only in spirit; None if nobody decoded it yet."""
        if not self._there[sample]:
            return None
        return self._data[self._starts[sample] : self._starts[sample + 1]].reshape(*self._shapes[sample], 3)

    def put(self, sample: int, pixels: Pixels) -> None:
        """Keep an image's pixels."""
        if pixels.shape[:2] == tuple(self._shapes[sample]):
            self._data[self._starts[sample] : self._starts[sample + 1]] = pixels.reshape(-1)
            self._there[sample] = 1


def _bytes(index: Index, images: int) -> int:
    """Return the bytes of the first images' pixels."""
    return int((index.widths[:images].astype(np.int64) * index.heights[:images]).sum() * 3)


def _reserve(path: Path, size: int) -> bool:
    """Make a file with all blocks allocated, so that its memory map cannot run out of disk; say whether it worked."""
    try:
        with new_file(path, replace=False, flush=False) as temporary, temporary.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except FileExistsError:  # another process made it meanwhile
        return True
    except OSError:
        return False
    return True
