"""scikit-learn's handwritten digits as PNG files: real images that every installation has."""

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
from effnet.errors import DataError

NUM_IMAGES = 1797


class Digits:
    """1,797 grey 8x8 images of ten classes (UCI Optical Recognition of Handwritten Digits, test part)."""

    classes = class_names = tuple(str(digit) for digit in range(10))

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def fingerprint(self) -> Mapping[str, Any]:
        """Return the name and size: the images themselves are part of scikit-learn and never change."""
        return {"source": "sklearn.datasets.load_digits", "images": NUM_IMAGES, "image_size": self.image_size}

    def entries(self) -> Sequence[Entry]:
        """Return all images in scikit-learn's order."""
        _, labels = _load()
        return [Entry(f"digit-{index:04d}", int(label), offset=index) for index, label in enumerate(labels)]

    def remarks(self) -> Remarks:
        """There is nothing but images."""
        return Remarks()

    def mark(self, entry: Entry) -> bytes:
        """Return a checksum of the pixels."""
        images, _ = _load()
        return xxhash.xxh3_128(images[entry.offset].tobytes()).digest()

    def read(self, entry: Entry) -> bytes:
        """Return one image as a grey PNG, enlarged with Lanczos filtering."""
        from PIL import Image

        images, _ = _load()
        pixels = np.round(images[entry.offset] * (255 / 16)).astype(np.uint8)
        image = Image.fromarray(pixels).resize((self.image_size, self.image_size), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "png")
        return buffer.getvalue()

    def describe(self, entry: Entry) -> str:
        """Return the image's number in scikit-learn's array."""
        return f"sklearn.datasets.load_digits: image {entry.offset}"

    def close(self) -> None:
        """Nothing is open."""


@functools.lru_cache(maxsize=1)
def _load() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return what sklearn.datasets.load_digits does; a row of its file is 64 numbers from 0 to 16, and the label.

    The file is read without the package, whose import would take longer than all the rest.
    """
    from pyarrow import csv

    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DataError("data.source: digits come with scikit-learn, which is not here; install effnet again")
    path = Path(package.submodule_search_locations[0]) / "datasets/data/digits.csv.gz"
    if not path.is_file():
        raise DataError(f"{path}: not there; run: pip install --force-reinstall scikit-learn")
    table = csv.read_csv(path, read_options=csv.ReadOptions(autogenerate_column_names=True))
    rows = np.stack([column.to_numpy() for column in table.columns], axis=1)
    return rows[:, :-1].astype(np.float64).reshape(-1, 8, 8), rows[:, -1]
