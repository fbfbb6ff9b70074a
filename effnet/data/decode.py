"""Encoded bytes -> uint8 pixels -> a crop of the wanted size."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnet.errors import DataError

Pixels = NDArray[np.uint8]  # (height, width, 3), RGB

MAX_PIXELS = 100_000_000  # refuses decompression bombs; the largest ImageNet image has about 20 million
_FORMATS = ("PNG", "JPEG")


class Box(NamedTuple):
    """A rectangle of an image, in pixels, not necessarily whole ones."""

    left: float
    top: float
    width: float
    height: float


def image_size(data: bytes, where: str) -> tuple[int, int]:
    """Return (width, height) from an image's header; raise DataError if it is no PNG or JPEG, or far too large."""
    image = _open(data, where)
    return image.size


def decode(data: bytes, where: str) -> Pixels:
    """Return an image's pixels as RGB; raise DataError naming `where` if the bytes are broken."""
    if data[:2] == b"\xff\xd8":
        return _decode_jpeg(data, where)
    return _decode_pillow(data, where)


def crop_resize(pixels: Pixels, box: Box, resolution: int) -> Pixels:
    """Return the box resized to a square with bicubic filtering (antialiased when it shrinks)."""
    edges = (box.left, box.top, box.left + box.width, box.top + box.height)
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=edges))


def center_box(width: int, height: int, resolution: int, padding: int) -> Box:
    """Return the central square for evaluation: resolution / (resolution + padding) of the shorter side.

    Source: _decode_and_center_crop in preprocessing.py of the official code, where padding is 32.
    """
    side = min(width, height) * resolution / (resolution + padding)
    return Box((width - side) / 2, (height - side) / 2, side, side)


def _open(data: bytes, where: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (OSError, ValueError, Image.DecompressionBombError, SyntaxError) as error:
        raise DataError(f"{where}: no readable PNG or JPEG image ({len(data)} bytes)") from error
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{where}: {image.width} x {image.height} pixels are more than {MAX_PIXELS:,}; shrink it first")
    return image


def _decode_pillow(data: bytes, where: str) -> Pixels:
    try:
        return np.asarray(_open(data, where).convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{where}: broken image ({error})") from error


def _decode_jpeg(data: bytes, where: str) -> Pixels:
    import simplejpeg

    image_size(data, where)  # the header's size limit
    try:
        return simplejpeg.decode_jpeg(data, "RGB")  # type: ignore[no-any-return]
    except ValueError:
        return _decode_pillow(data, where)  # CMYK and other rarities
