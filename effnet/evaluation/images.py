"""Images as people and programs hand them to a model: what training accepts, through the same policy.

A file's bytes go through the code that makes shards (effnet.data.images.intake): 16 bits become 8, transparency is laid
over black, and an image that a camera stored sideways is turned upright as EXIF says. Arrays are treated the same way.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnet.config import ImagePolicy
from effnet.data.images.decode import Pixels, decode
from effnet.data.images.intake import BadImage, prepare
from effnet.errors import ConfigError, DataError

COLUMN = "image"  # of a table, unless it has only one
_EXPECTED = "expected a file's bytes, its base64 text, or pixels of shape (height, width) or (height, width, 1, 3 or 4)"


def pixels_of(images: Any) -> list[Pixels]:
    """Return every image as RGB pixels, uint8, (height, width, 3).

    Args:
        images: an array (N, height, width) or (N, height, width, channels); a list of arrays, nested lists, bytes of
            image files, or base64 text of such bytes; or a table (pandas) or map with a column of them.

    Raises:
        ConfigError: in one line, naming the image that is none of these.
    """
    return [_pixels(image, f"image {number}") for number, image in enumerate(_items(images))]


def _items(images: Any) -> Iterator[Any]:
    if hasattr(images, "columns") and hasattr(images, "to_dict"):  # a pandas table; pandas is not imported for this
        images = {str(name): images[name].tolist() for name in images.columns}
    if isinstance(images, Mapping):
        name = COLUMN if COLUMN in images else next(iter(images), COLUMN)
        if len(images) != 1 and name != COLUMN:
            raise ConfigError(
                f"a table with the columns {', '.join(map(str, images))}: rename the one with the images to '{COLUMN}'"
            )
        return _items(images[name]) if images else iter(())
    if isinstance(images, bytes | bytearray | str):
        return iter([images])
    if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[2] in (1, 3, 4):
        raise ConfigError(f"expected several images, got one of {images.shape}: give it as a list, or as images[None]")
    if isinstance(images, np.ndarray) and images.ndim == 0:
        return _items(images.item())
    if not isinstance(images, Sequence | np.ndarray) and not hasattr(images, "__iter__"):
        raise ConfigError(f"expected images, got {type(images).__name__}")
    return iter(images)


def _pixels(image: Any, where: str) -> Pixels:
    if isinstance(image, str):
        try:
            image = base64.b64decode(image.partition("base64,")[2] or image, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ConfigError(f"{where}: text that is not an image file in base64 ({error})") from error
    if isinstance(image, bytes | bytearray | memoryview):
        return _decoded(bytes(image), where)
    if isinstance(image, Mapping) and isinstance(image.get("b64"), str):  # as TensorFlow Serving has it
        return _pixels(image["b64"], where)
    return _array(image, where)


def _decoded(data: bytes, where: str) -> Pixels:
    try:
        return decode(prepare(data, ImagePolicy(), turn=True).image, where)
    except BadImage as error:
        raise ConfigError(f"{where}: {error}") from error
    except DataError as error:
        raise ConfigError(str(error)) from error


def _array(image: Any, where: str) -> Pixels:
    try:
        pixels = np.asarray(image)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {_EXPECTED}, got rows of different lengths") from error
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not min(pixels.shape):
        raise ConfigError(f"{where}: {_EXPECTED}, got {_kind(image, pixels)}")
    pixels = _eight_bit(pixels, where)
    if pixels.shape[2] == 4:  # over black, as in the policy
        alpha = pixels[..., 3:].astype(np.uint32)
        return ((pixels[..., :3] * alpha + 127) // 255).astype(np.uint8)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _eight_bit(pixels: NDArray[Any], where: str) -> Pixels:
    if pixels.dtype == np.uint16:  # 0..65535, as in files of 16 bits
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype != np.uint8:
        if not np.issubdtype(pixels.dtype, np.integer) or pixels.min() < 0 or pixels.max() > 255:
            raise ConfigError(
                f"{where}: expected whole numbers from 0 to 255 (uint8) or from 0 to 65535 (uint16), got "
                f"{pixels.dtype} of {_range(pixels)}"
            )
        return pixels.astype(np.uint8)
    return pixels


def _range(pixels: NDArray[Any]) -> str:
    try:
        return f"{pixels.min()} to {pixels.max()}"
    except (TypeError, ValueError):
        return "no numbers"


def _kind(image: Any, pixels: NDArray[Any]) -> str:
    return str(pixels.shape) if isinstance(image, np.ndarray | Sequence) else type(image).__name__
