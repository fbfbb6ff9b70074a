"""scikit-learn's handwritten digits as PNG files: real images that every installation has."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from effnet.data.sources.base import Entry, Remarks

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
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images, data.target
