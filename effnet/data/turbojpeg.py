"""Lossless work on JPEG files by libjpeg-turbo 3 (the wheel `turbojpeg`, or the system's library), through ctypes."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
from pathlib import Path

from effnet.errors import ConfigError

_TRANSFORM = 2  # TJINIT_TRANSFORM
_COPY_NOTHING = 64  # TJXOPT_COPYNONE: leaves comments and EXIF away


class _Transform(ctypes.Structure):
    """tjtransform of turbojpeg.h: region, operation, options, data, filter. All zero: change nothing."""

    _fields_ = (
        ("region", ctypes.c_int * 4),
        ("operation", ctypes.c_int),
        ("options", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("filter", ctypes.c_void_p),
    )


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
