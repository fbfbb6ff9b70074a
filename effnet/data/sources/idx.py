"""IDX files (yann.lecun.com/exdb/mnist): MNIST, Fashion-MNIST and their kin."""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from effnet.data.sources.base import Entry, Remarks
from effnet.data.sources.files import stamp
from effnet.errors import ConfigError, DataError

_SPLITS = {"train": "train", "t10k": "val"}
_MAX_BYTES = 8 << 30
_IMAGES, _LABELS = 0x0803, 0x0801  # unsigned bytes in three dimensions, in one


class Idx:
    """Grey images and labels of `train-*` and `t10k-*`, plain or gzipped; each image becomes a PNG file."""

    def __init__(self, folder: Path, classes: Sequence[str] | None) -> None:
        self._paths = {
            (prefix, kind): _find(folder, f"{prefix}-{kind}")
            for prefix in _SPLITS
            for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
        }
        self._images = {prefix: _load(self._paths[prefix, "images-idx3-ubyte"], _IMAGES) for prefix in _SPLITS}
        self._labels = {prefix: _load(self._paths[prefix, "labels-idx1-ubyte"], _LABELS) for prefix in _SPLITS}
        for prefix in _SPLITS:
            if len(self._images[prefix]) != len(self._labels[prefix]):
                images, labels = len(self._images[prefix]), len(self._labels[prefix])
                raise DataError(f"{folder}: {prefix} has {images:,} images and {labels:,} labels")
            if not self._images[prefix].size:
                raise DataError(
                    f"{self._paths[prefix, 'images-idx3-ubyte']}: no images in it, or images without pixels"
                )
        number = int(max(labels.max() for labels in self._labels.values())) + 1
        self.classes = tuple(classes or map(str, range(number)))
        if len(self.classes) < number:
            raise ConfigError(
                f"{folder}: the labels go up to {number - 1}, but data.source.classes names {len(self.classes)}"
            )
        self.class_names = self.classes

    def fingerprint(self) -> Mapping[str, Any]:
        """Return a digest of the files' names, sizes and times."""
        return {"source": "idx", "files": stamp(list(self._paths.values())), "classes": list(self.classes)}

    def entries(self) -> Sequence[Entry]:
        """Return all images in the files' order."""
        return [
            Entry(f"{prefix}-{index:05d}", int(label), split, file, index)
            for file, (prefix, split) in enumerate(_SPLITS.items())
            for index, label in enumerate(self._labels[prefix])
        ]

    def remarks(self) -> Remarks:
        """There is nothing but images."""
        return Remarks()

    def mark(self, entry: Entry) -> bytes:
        """Return a checksum of the pixels."""
        return xxhash.xxh3_128(self._images[tuple(_SPLITS)[entry.file]][entry.offset].tobytes()).digest()

    def read(self, entry: Entry) -> bytes:
        """Return one image as a grey PNG."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self._images[tuple(_SPLITS)[entry.file]][entry.offset]).save(buffer, "png", compress_level=6)
        return buffer.getvalue()

    def describe(self, entry: Entry) -> str:
        """Return the file and the image's number in it."""
        return f"{self._paths[tuple(_SPLITS)[entry.file], 'images-idx3-ubyte']}: image {entry.offset}"

    def close(self) -> None:
        """Nothing stays open."""


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise ConfigError(f"{folder}: neither {name} nor {name}.gz in it; check data.source.folder in the config")


def _load(path: Path, magic: int) -> NDArray[np.uint8]:
    """Return an IDX file's array; raise DataError if it is not one, or not whole."""
    dimensions = magic & 0xFF
    start = 4 + 4 * dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(start)
            if len(head) < start or struct.unpack_from(">I", head)[0] != magic:
                raise DataError(f"{path}: not an IDX file of unsigned bytes in {dimensions} dimensions")
            shape = struct.unpack_from(f">{dimensions}I", head, 4)
            size = math.prod(shape)
            body = np.frombuffer(file.read(min(size, _MAX_BYTES) + 1), np.uint8)  # no more than the header states
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: broken or cut short ({error})") from error
    if len(body) != size:
        found, stated = "more" if len(body) > size else f"{len(body):,}", " x ".join(map(str, shape))
        raise DataError(f"{path}: {found} bytes of data, but its header says {stated}; get it again")
    return body.reshape(shape)
