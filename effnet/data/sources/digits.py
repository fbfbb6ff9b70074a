"""scikit-learn's handwritten digits as PNG files: real images that every installation has."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnet.data.sources.base import Entry, Sample

NUM_IMAGES = 1797


class Digits:
    """1,797 grey 8x8 images of ten classes (UCI Optical Recognition of Handwritten Digits, test part)."""

    classes = tuple(str(digit) for digit in range(10))

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def fingerprint(self) -> Mapping[str, Any]:
        """Return the name and size: the images themselves are part of scikit-learn and never change."""
        return {"source": "sklearn.datasets.load_digits", "images": NUM_IMAGES, "image_size": self.image_size}

    def entries(self) -> Sequence[Entry]:
        """Return all images in scikit-learn's order."""
        _, labels = _load()
        return [Entry(f"digit-{index:04d}", int(label)) for index, label in enumerate(labels)]

    def read(self, entry: Entry) -> Sample:
        """Return one image as a grey PNG, enlarged with Lanczos filtering."""
        from PIL import Image

        images, _ = _load()
        grey = images[int(entry.key.removeprefix("digit-"))]
        pixels = np.round(grey * (255 / 16)).astype(np.uint8)
        image = Image.fromarray(pixels).resize((self.image_size, self.image_size), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "png")
        return Sample(entry.key, buffer.getvalue(), "png", entry.label)


@functools.lru_cache(maxsize=1)
def _load() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images, data.target
