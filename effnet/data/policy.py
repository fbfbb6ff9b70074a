"""What happens to an image's bytes on the way into a shard. docs/data.md has the table.

Most images are kept byte for byte: their structure is read, not their pixels. What a loader would stumble over (CMYK,
alpha, 16 bits) is decoded and encoded again; what cannot be trusted is refused.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effnet.config import ImagePolicy

_SOI, _EOI, _PNG = b"\xff\xd8\xff", b"\xff\xd9", b"\x89PNG\r\n\x1a\n"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_SCAN, _ALONE = 0xDA, frozenset((0x01, *range(0xD0, 0xD9)))
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_FOREIGN = {b"GIF8": "a GIF", b"RIFF": "a WebP", b"II*\0": "a TIFF", b"MM\0*": "a TIFF", b"BM": "a BMP", b"<": "text"}


class BadImage(Exception):  # noqa: N818 - a verdict about data, caught and listed
    """An image that does not go into a shard; the text says why."""


class Prepared(NamedTuple):
    """An image as it goes into a shard."""

    image: bytes
    extension: str  # of the bytes, whatever the file was called: "jpg" or "png"
    width: int
    height: int
    action: str  # "kept", or why it was encoded again: "cmyk", "alpha", "sixteen_bit", "baseline", "resized"


class _Header(NamedTuple):
    extension: str
    width: int
    height: int
    action: str  # "kept", or what must be done to it


def prepare(data: bytes, policy: ImagePolicy) -> Prepared:
    """Return an image as the policy wants it; raise BadImage if it is refused."""
    header = _read_header(data, policy.max_pixels)
    short = policy.resize_short
    if short and min(header.width, header.height) > short:
        return _encode(data, header, policy, "resized" if header.action in ("kept", "progressive") else header.action)
    if header.action == "progressive":
        if policy.decode:
            _pixels(data, header)
        if policy.baseline:
            from effnet.data.turbojpeg import to_baseline

            return Prepared(to_baseline(data), "jpg", header.width, header.height, "baseline")
        return Prepared(data, "jpg", header.width, header.height, "kept")
    if header.action != "kept":
        return _encode(data, header, policy, header.action)
    if policy.decode:
        _pixels(data, header)
    return Prepared(data, *header)


def _read_header(data: bytes, max_pixels: int) -> _Header:
    if data.startswith(_SOI):
        header = _read_jpeg(data)
    elif data.startswith(_PNG):
        header = _read_png(data)
    else:
        kind = next((kind for magic, kind in _FOREIGN.items() if data.lstrip().startswith(magic)), "something else")
        raise BadImage(f"no JPEG or PNG: {kind} of {len(data):,} bytes" if data else "empty")
    if not header.width or not header.height:
        raise BadImage(f"{header.width} x {header.height} pixels")
    if header.width * header.height > max_pixels:
        raise BadImage(f"{header.width} x {header.height} pixels are more than {max_pixels:,}")
    return header


def _read_jpeg(data: bytes) -> _Header:
    """Read the frame header, and look for the end after the first scan's start: it cannot occur inside of a scan."""
    frame, scan = None, 0
    try:
        for marker, position in _segments(data):
            if marker in _FRAMES:
                frame = (marker, *struct.unpack_from(">BHHB", data, position + 2))
            scan = position
    except (IndexError, struct.error):
        raise BadImage("JPEG: cut short before its image data") from None
    if frame is None:
        raise BadImage("JPEG: no frame header")
    if data.find(_EOI, max(scan, len(data) - 64)) < 0 and data.find(_EOI, scan) < 0:
        raise BadImage("JPEG: cut short, it has no end")
    kind, precision, height, width, components = frame
    if kind not in (_BASELINE, _EXTENDED, _PROGRESSIVE) or precision != 8 or components not in (1, 3, 4):
        raise BadImage(f"JPEG: of a rare kind (frame {kind:02x}, {precision} bits, {components} components)")
    action = "cmyk" if components == 4 else "progressive" if kind == _PROGRESSIVE else "kept"
    return _Header("jpg", width, height, action)


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (marker, position of its length) of every segment up to the start of the first scan."""
    position = 2
    while True:
        if data[position] != 0xFF:
            raise BadImage(f"JPEG: no marker at byte {position}")
        marker = data[position + 1]
        if marker == 0xFF:  # fill
            position += 1
            continue
        position += 2
        if marker in _ALONE:
            continue
        yield marker, position
        if marker == _SCAN:
            return
        (length,) = struct.unpack_from(">H", data, position)
        position += length


def _read_png(data: bytes) -> _Header:
    """Check every chunk's checksum, and read the header."""
    header, names = None, set[bytes]()
    for name, start, end in _chunks(data):
        if not names and (name != b"IHDR" or end - start != 13):
            raise BadImage("PNG: does not begin with its header")
        if header is None:
            header = struct.unpack_from(">IIBB", data, start)
        names.add(name)
    if header is None or b"IDAT" not in names:
        raise BadImage("PNG: no image data")
    width, height, depth, colour = header
    if colour not in (_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA):
        raise BadImage(f"PNG: unknown colour type {colour}")
    has_alpha = colour in (_GREY_ALPHA, _RGBA) or b"tRNS" in names
    return _Header("png", width, height, "sixteen_bit" if depth == 16 else "alpha" if has_alpha else "kept")


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, end) of every chunk's data up to the end of the image; their checksums are right."""
    position, name = len(_PNG), b""
    while name != b"IEND":
        if position + 12 > len(data):
            raise BadImage("PNG: cut short, it has no end")
        length, name = struct.unpack_from(">I4s", data, position)
        start, end = position + 8, position + 8 + length
        if end + 4 > len(data):
            raise BadImage("PNG: cut short, it has no end")
        if zlib.crc32(memoryview(data)[position + 4 : end]) != int.from_bytes(data[end : end + 4]):
            raise BadImage(f"PNG: chunk {name.decode('latin-1')} at byte {position} does not match its checksum")
        yield name, start, end
        position = end + 4


def _pixels(data: bytes, header: _Header) -> NDArray[np.uint8]:
    """Decode strictly to RGB, (height, width, 3): no warning of a decoder is let pass."""
    from PIL import Image

    try:
        if header.extension == "jpg" and header.action != "cmyk":
            import simplejpeg

            return simplejpeg.decode_jpeg(data, "RGB", strict=True)  # type: ignore[no-any-return]
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if header.action == "sixteen_bit":
                return _eight_bit(image)
            if header.action == "alpha":  # over black
                rgba = image.convert("RGBA")
                return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba))[..., :3]
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadImage(f"broken: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error


def _eight_bit(image: object) -> NDArray[np.uint8]:
    """Return 16-bit grey as 8-bit RGB, 0..65535 as 0..255, rounded. (16-bit colour Pillow itself reads as 8-bit.)"""
    from PIL import Image

    assert isinstance(image, Image.Image)  # noqa: S101
    if not image.mode.startswith("I"):
        return np.asarray(image.convert("RGB"))
    grey = ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _encode(data: bytes, header: _Header, policy: ImagePolicy, action: str) -> Prepared:
    """Decode, shrink if the policy says so, and encode again in the format that it came in."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(_pixels(data, header)))
    short = policy.resize_short
    if short and min(image.size) > short:
        scale = short / min(image.size)
        size = (max(short, round(image.width * scale)), max(short, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    if header.extension == "jpg":
        import simplejpeg

        encoded = simplejpeg.encode_jpeg(np.asarray(image), quality=policy.jpeg_quality, colorsubsampling="444")
    else:
        buffer = io.BytesIO()
        image.save(buffer, "png")
        encoded = buffer.getvalue()
    return Prepared(encoded, header.extension, image.width, image.height, action)
