"""What libjpeg-turbo 3 can do and simplejpeg does not offer: decoding a part of an image, and lossless rewriting.

Through ctypes, from the wheel `turbojpeg` or the system's library; where neither is, images are decoded whole.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effnet.errors import ConfigError

_DECOMPRESS, _TRANSFORM = 1, 2  # TJINIT_...
_RGB = 0  # TJPF_RGB
_ALIGN = 32  # pixels: a region's left edge lies between blocks of every subsampling
_MARGIN = 4  # pixels around a region: chroma is interpolated from neighbours
_COPY_NOTHING = 64  # TJXOPT_COPYNONE: drops comments and EXIF


class _Transform(ctypes.Structure):
    """tjtransform of turbojpeg.h: region, operation, options, data, filter. All zero: change nothing."""

    _fields_ = (
        ("region", ctypes.c_int * 4),
        ("operation", ctypes.c_int),
        ("options", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("filter", ctypes.c_void_p),
    )


class _Region(ctypes.Structure):
    """tjregion of turbojpeg.h."""

    _fields_ = (("x", ctypes.c_int), ("y", ctypes.c_int), ("width", ctypes.c_int), ("height", ctypes.c_int))


def decode_region(
    data: bytes, size: tuple[int, int], left: int, top: int, width: int, height: int
) -> NDArray[np.uint8] | None:
    """Return a rectangle of a JPEG, (height, width, 3) RGB: the pixels that decoding it whole gives there, bit for bit.

    Args:
        data: the JPEG.
        size: its (width, height).
        left, top, width, height: the rectangle, inside the image.

    Returns None if the library is missing or refuses (a rare kind of JPEG): then decode the JPEG whole.
    """
    library = _library_if_any()
    if library is None:
        return None
    x0, y0 = (
        left // _ALIGN * _ALIGN - (_ALIGN if left % _ALIGN < _MARGIN and left >= _ALIGN else 0),
        max(0, top - _MARGIN),
    )
    x1, y1 = min(size[0], left + width + _MARGIN), min(size[1], top + height + _MARGIN)
    handle = _decoder(library)
    pixels = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
    if library.tj3DecompressHeader(handle, data, len(data)) or library.tj3SetCroppingRegion(
        handle, _Region(x0, y0, x1 - x0, y1 - y0)
    ):
        return None
    if library.tj3Decompress8(handle, data, len(data), pixels.ctypes.data, 0, _RGB):
        return None
    return pixels[top - y0 : top - y0 + height, left - x0 : left - x0 + width]


def to_baseline(data: bytes) -> bytes:
    """Return a JPEG with the same pixels whose data come in one pass, which is several times quicker to decode.

    Raises:
        ConfigError: if there is no libjpeg-turbo 3.
        ValueError: if the JPEG is broken.
    """
    library = _library()
    handle = library.tj3Init(_TRANSFORM)
    try:
        output, size = ctypes.c_void_p(), ctypes.c_size_t()
        change = _Transform(options=_COPY_NOTHING)
        failed = library.tj3Transform(
            handle, data, len(data), 1, ctypes.byref(output), ctypes.byref(size), ctypes.byref(change)
        )
        try:
            if failed:
                raise ValueError(library.tj3GetErrorStr(handle).decode(errors="replace"))
            return ctypes.string_at(output, size.value)
        finally:
            library.tj3Free(output)
    finally:
        library.tj3Destroy(handle)


_threads = threading.local()


def _decoder(library: ctypes.CDLL) -> int:
    """Return this thread's decoder; it lives as long as the thread."""
    if not hasattr(_threads, "decoder"):
        _threads.decoder = library.tj3Init(_DECOMPRESS)
    return _threads.decoder  # type: ignore[no-any-return]


@functools.cache
def _library_if_any() -> ctypes.CDLL | None:
    try:
        return _library()
    except ConfigError:
        return None


@functools.cache
def _library() -> ctypes.CDLL:
    for path in _candidates():
        try:
            library = ctypes.CDLL(path)
            library.tj3Init.restype = ctypes.c_void_p
        except (OSError, AttributeError):  # not there, or older than 3
            continue
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        library.tj3Transform.argtypes = (
            pointer, ctypes.c_char_p, size, ctypes.c_int, ctypes.POINTER(pointer), ctypes.POINTER(size),
            ctypes.POINTER(_Transform),
        )  # fmt: skip
        library.tj3DecompressHeader.argtypes = (pointer, ctypes.c_char_p, size)
        library.tj3SetCroppingRegion.argtypes = (pointer, _Region)
        library.tj3Decompress8.argtypes = (pointer, ctypes.c_char_p, size, pointer, ctypes.c_int, ctypes.c_int)
        library.tj3GetErrorStr.argtypes, library.tj3GetErrorStr.restype = (pointer,), ctypes.c_char_p
        library.tj3Free.argtypes = library.tj3Destroy.argtypes = (pointer,)
        return library
    raise ConfigError("images.baseline needs libjpeg-turbo 3: pip install 'effnet[turbojpeg]'")


def _candidates() -> list[str]:
    found = [name] if (name := ctypes.util.find_library("turbojpeg")) else []
    spec = importlib.util.find_spec("turbojpeg")
    if spec and spec.origin:
        folder = Path(spec.origin).parent
        places = (folder, folder.parent / "turbojpeg.libs", folder / "turbojpeg.libs")
        found += [str(path) for place in places for path in sorted(place.glob("*turbojpeg*.so*"))]
    return found
