"""Encoded bytes -> uint8 pixels -> a crop of the wanted size."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from effnet.data.images.turbojpeg import decode_region
from effnet.errors import DataError

Pixels = NDArray[np.uint8]  # (height, width, 3), RGB

MAX_PIXELS = 178_000_000  # Pillow refuses larger images; data.images.max_pixels keeps them out of shards
CROP_PADDING = 32  # pixels, of the official code's central crop
_FORMATS = ("PNG", "JPEG")
_JPEG = b"\xff\xd8"


class Box(NamedTuple):
    """A rectangle of an image, in pixels."""

    left: int
    top: int
    width: int
    height: int


def decode(data: bytes, where: str) -> Pixels:
    """Return an image's pixels as RGB; raise DataError naming `where` if the bytes are broken."""
    if data[:2] == _JPEG:
        return _decode_jpeg(data, where)
    return _decode_pillow(data, where)


def decode_box(data: bytes, size: tuple[int, int], box: Box, where: str) -> Pixels:
    """Return the pixels of a box of an image of this (width, height): what `decode` gives there, often quicker."""
    if data[:2] == _JPEG:
        region = decode_region(data, size, *box)
        if region is not None:
            return region
    return cut(decode(data, where), box)


def thumbnail(data: bytes, side: int, where: str) -> NDArray[np.uint8]:
    """Return all of an image as a grey square, (side, side); a JPEG is decoded no larger than that needs."""
    try:
        image = _open(data, where)
        image.draft("L", (2 * side, 2 * side))
        return np.array(image.convert("L").resize((side, side), Image.Resampling.BILINEAR))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{where}: broken image ({error})") from error


def cut(pixels: Pixels, box: Box) -> Pixels:
    """Return the box of decoded pixels."""
    return pixels[box.top : box.top + box.height, box.left : box.left + box.width]


def resize_into(out: Tensor, crop: Pixels, *, flip: bool = False) -> None:
    """Write pixels, resized to a square with bicubic filtering (antialiased when it shrinks), into a batch's row.

    torch's kernel for bytes rather than Pillow's: the same filter, several times as fast, and it writes into the row.

    Args:
        out: uint8, (resolution, resolution, 3), contiguous.
        crop: what to resize.
        flip: mirror it, left to right.
    """
    pixels = torch.from_numpy(crop)
    if flip:
        pixels = pixels.flip(1)
    if crop.shape == out.shape:
        out.copy_(pixels)
        return
    planes, row = pixels.permute(2, 0, 1)[None], out.permute(2, 0, 1)[None]
    torch.ops.aten._upsample_bicubic2d_aa.out(planes, list(out.shape[:2]), False, None, None, out=row)


def center_box(width: int, height: int, resolution: int, padding: int | None) -> Box:
    """Return the central square for evaluation: resolution / (resolution + padding) of the shorter side.

    Source: _decode_and_center_crop in preprocessing.py of the official code, where padding is 32 pixels. For networks
    below 224 pixels that would crop away too much (half of each side at 32): if `padding` is None it is a seventh of
    the resolution there, which is 32 pixels at 224 and what the official code has done since 2021.
    """
    side = max(1, int(min(width, height) * resolution / (resolution + padding_at(resolution, padding))))
    return Box((width - side + 1) // 2, (height - side + 1) // 2, side, side)


def padding_at(resolution: int, padding: int | None) -> int:
    """Return the pixels that `center_box` leaves away at a resolution."""
    return min(CROP_PADDING, round(resolution / 7)) if padding is None else padding


def _open(data: bytes, where: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (OSError, ValueError, Image.DecompressionBombError, SyntaxError) as error:
        raise DataError(f"{where}: not a readable PNG or JPEG image ({len(data)} bytes)") from error
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{where}: {image.width} x {image.height} pixels are more than {MAX_PIXELS:,}; shrink it first")
    return image


def _decode_pillow(data: bytes, where: str) -> Pixels:
    try:
        return np.array(_open(data, where).convert("RGB"))  # a copy that may be written to, as torch wants
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{where}: broken image ({error})") from error


def _decode_jpeg(data: bytes, where: str) -> Pixels:
    import simplejpeg

    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        if height * width <= MAX_PIXELS:
            return simplejpeg.decode_jpeg(data, "RGB")  # type: ignore[no-any-return]
    except ValueError:
        pass  # CMYK and other rarities
    return _decode_pillow(data, where)
