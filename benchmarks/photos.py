"""A folder of JPEG files like ImageNet's (500 x 375 pixels, about 110 KB), cut from packaged photographs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import skimage.data
import sklearn.datasets
from PIL import Image

SIZE = (500, 375)


def write_photos(folder: Path, number: int, classes: int = 10) -> None:
    """Write `number` different files as folder/classK/photo-NNNNN.jpg, unless they are there."""
    if folder.is_dir() and sum(1 for _ in folder.glob("*/*.jpg")) == number:
        return
    photographs = [
        Image.fromarray(pixels)
        for pixels in (
            skimage.data.astronaut(),
            skimage.data.chelsea(),
            skimage.data.coffee(),
            skimage.data.rocket(),
            sklearn.datasets.load_sample_image("china.jpg"),
            sklearn.datasets.load_sample_image("flower.jpg"),
        )
    ]
    random = np.random.default_rng(0)
    for index in range(number):
        path = folder / f"class{index % classes}" / f"photo-{index:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_jpeg(photographs[index % len(photographs)], random))


def _jpeg(photograph: Image.Image, random: np.random.Generator) -> bytes:
    """Return a random cut with a little noise, at a quality that makes it about 110 KB."""
    share = random.uniform(0.7, 1.0)
    width, height = (int(side * share) for side in photograph.size)
    left, top = random.integers(0, photograph.width - width + 1), random.integers(0, photograph.height - height + 1)
    pixels = np.asarray(photograph.crop((left, top, left + width, top + height)).resize(SIZE), np.int16)
    noisy = Image.fromarray(np.clip(pixels + random.integers(-16, 17, pixels.shape), 0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    noisy.save(buffer, "jpeg", quality=int(random.integers(90, 95)))
    return buffer.getvalue()


if __name__ == "__main__":
    import sys

    write_photos(Path(sys.argv[1]), int(sys.argv[2]))
