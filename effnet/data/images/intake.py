"""What happens to an image's bytes on the way into a shard. docs/data.md has the table.

Most images are kept byte for byte: their structure is read, not their pixels. What a loader would stumble over (CMYK,
alpha, 16 bits, formats other than JPEG and PNG, rotation by EXIF) is decoded and encoded again; what cannot be
trusted is refused.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Transpose

from effnet.config import ImagePolicy

# What Pillow warns about is refused (sizes, damage) or harmless (EXIF); a thousand warnings would hide the summary.
warnings.filterwarnings("ignore", module=r"PIL\.")

_SOI, _EOI, _PNG = b"\xff\xd8\xff", b"\xff\xd9", b"\x89PNG\r\n\x1a\n"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_SCAN, _APP1, _ALONE = 0xDA, 0xE1, frozenset((0x01, *range(0xD0, 0xD9)))
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_EXIF, _ORIENTATION, _SHORT = b"Exif\0\0", 0x0112, 3
_JPEG_IN_TIFF = (6, 7)  # values of TIFF's tag Compression
_COMPRESSION = 259
_FORMATS = {
    "jpg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "bmp": "BMP",
    "tiff": "TIFF",
    "gif": "GIF",
    "avif": "AVIF",
    "heif": "HEIF",
}  # Pillow's names; never its other readers
_PILLOW_RAISES = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, LookupError, TypeError, struct.error)
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}  # from EXIF orientations to upright
_RARE_TIFF = "TIFF of a rare kind"
DENIED = "permission denied"
_NO_HEIC, _NO_AVIF = "HEIC needs an extra", "AVIF is not read by this Pillow"
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
# Other files that people keep among images, for messages to name.
_STRANGERS = {b"%PDF": "PDF", b"PK\3\4": "zip", b"8BPS": "Photoshop", b"<svg": "SVG", b"\x1aE\xdf\xa3": "video"}
HEAD = 512  # bytes that say what a file is


class BadImage(Exception):  # noqa: N818 - a verdict about data, caught and listed
    """An image that does not go into a shard. `kind` is the reason, shared with other images; the text says more."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


class Prepared(NamedTuple):
    """An image as it goes into a shard."""

    image: bytes
    extension: str  # of the bytes, whatever the file was called: "jpg" or "png"
    width: int
    height: int
    actions: tuple[str, ...]  # ("kept",), or all that was done to it: "webp", "cmyk", "turned", "resized", ...


class _Header(NamedTuple):
    kind: str  # what the bytes are: "jpg", "png", or another key of _FORMATS
    width: int
    height: int
    actions: tuple[str, ...] = ()  # what must be done to it, whatever the policy says
    orientation: int = 1  # of EXIF: 1 is upright
    progressive: bool = False
    target: str = "png"  # what it becomes if it is encoded again


def prepare(data: bytes, policy: ImagePolicy, *, turn: bool = False) -> Prepared:
    """Return an image as the policy wants it; raise BadImage if it is refused.

    Args:
        data: the encoded image, of whatever format.
        policy: the config's settings.
        turn: whether EXIF's orientation is applied.
    """
    header = _read_header(data, policy.max_pixels)
    actions = header.actions + (("turned",) if turn and header.orientation != 1 else ())
    if policy.resize_short and min(header.width, header.height) > policy.resize_short:
        actions += ("resized",)
    if actions:
        return _encode(data, header, policy, actions)
    if policy.decode:
        _pixels(data, header)
    if header.progressive and policy.baseline:
        from effnet.data.images.turbojpeg import to_baseline

        try:
            baseline = to_baseline(data)
        except ValueError as error:
            raise _broken(error) from error
        return Prepared(baseline, "jpg", header.width, header.height, ("baseline",))
    return Prepared(data, header.kind, header.width, header.height, ("kept",))


def is_image(head: bytes) -> bool:
    """Say whether a file that begins like this may be a usable image, or would be one with an extra installed."""
    return head.startswith((_SOI, _PNG)) or _foreign_kind(head) is not None


def _read_header(data: bytes, max_pixels: int) -> _Header:
    if data.startswith(_SOI):
        header = _read_jpeg(data)
    elif data.startswith(_PNG):
        header = _read_png(data)
    elif kind := _foreign_kind(data):
        header = _read_foreign(data, kind)
    else:
        raise BadImage(*what_else(data))
    if not header.width or not header.height:
        raise BadImage("without pixels", f"{header.width} x {header.height}")
    if header.width * header.height > max_pixels:
        raise BadImage("too many pixels", f"{header.width} x {header.height} pixels are more than {max_pixels:,}")
    return header


def what_else(data: bytes) -> tuple[str, str]:
    """Return kind and detail of bytes that are not an image."""
    if not data:
        return "empty", ""
    detail = f"{len(data):,} bytes"
    start = data[:HEAD].lstrip()
    for magic, name in _STRANGERS.items():
        if start.startswith(magic) or (name == "SVG" and magic in start):
            return f"no image but {name}", detail
    if data[4:8] == b"ftyp":
        return "no image but video", detail
    try:
        text = start.decode("utf-8", "strict" if len(data) < HEAD else "ignore")
    except UnicodeDecodeError:
        return "no image", detail
    return ("no image but text", detail) if _looks_like_text(text, len(start)) else ("no image", detail)


def _looks_like_text(text: str, length: int) -> bool:
    """Say whether nearly all of `length` bytes became printable characters."""
    printable = sum(character.isprintable() or character in "\n\r\t" for character in text)
    return printable == len(text) and len(text.encode()) >= length - 3


def _read_jpeg(data: bytes) -> _Header:
    """Read the frame header, and look for the end after the first scan's start: it cannot occur inside a scan."""
    frame, scan, orientation = None, 0, 1
    try:
        for marker, position in _segments(data):
            if marker in _FRAMES:
                frame = (marker, *struct.unpack_from(">BHHB", data, position + 2))
            elif marker == _APP1 and data.startswith(_EXIF, position + 2):
                orientation = _orientation(data[position + 2 + len(_EXIF) : position + 2 + 65536])
            scan = position
    except (IndexError, struct.error):
        raise BadImage("JPEG cut short", "before its image data") from None
    if frame is None:
        raise BadImage("JPEG damaged", "no frame header")
    if data.find(_EOI, max(scan, len(data) - 64)) < 0 and data.find(_EOI, scan) < 0:
        raise BadImage("JPEG cut short", "it has no end")
    kind, precision, height, width, components = frame
    if kind not in (_BASELINE, _EXTENDED, _PROGRESSIVE) or precision != 8 or components not in (1, 3, 4):
        raise BadImage("JPEG of a rare kind", f"frame {kind:02x}, {precision} bits, {components} components")
    actions = ("cmyk",) if components == 4 else ()
    return _Header("jpg", width, height, actions, orientation, kind == _PROGRESSIVE, "jpg")


def _orientation(tiff: bytes) -> int:
    """Return what the first directory of EXIF data says of the orientation, 1 to 8; 1 if it says nothing readable."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (number,) = struct.unpack_from(f"{order}H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * number, 12):
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if tag == _ORIENTATION:
                return value if kind == _SHORT and count == 1 and 1 <= value <= 8 else 1
    except struct.error:
        pass  # "possibly corrupt EXIF data": common, and the pixels are sound
    return 1


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (marker, position of its length) of every segment up to the start of the first scan."""
    position = 2
    while True:
        if data[position] != 0xFF:
            raise BadImage("JPEG damaged", f"no marker at byte {position}")
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
    header, names, orientation = None, set[bytes](), 1
    for name, start, end in _chunks(data):
        if not names and (name != b"IHDR" or end - start != 13):
            raise BadImage("PNG damaged", "does not begin with its header")
        if header is None:
            header = struct.unpack_from(">IIBB", data, start)
        if name == b"eXIf":
            orientation = _orientation(data[start:end])
        names.add(name)
    if header is None or b"IDAT" not in names:
        raise BadImage("PNG damaged", "no image data")
    width, height, depth, colour = header
    if colour not in (_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA):
        raise BadImage("PNG damaged", f"unknown colour type {colour}")
    has_alpha = colour in (_GREY_ALPHA, _RGBA) or b"tRNS" in names
    actions = (("sixteen_bit",) if depth == 16 else ()) + (("alpha",) if has_alpha else ())
    return _Header("png", width, height, actions, orientation)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, end) of every chunk's data up to the end of the image, after checking its checksum."""
    position, name = len(_PNG), b""
    while name != b"IEND":
        if position + 12 > len(data):
            raise BadImage("PNG cut short", "it has no end")
        length, name = struct.unpack_from(">I4s", data, position)
        start, end = position + 8, position + 8 + length
        if end + 4 > len(data):
            raise BadImage("PNG cut short", "it has no end")
        if zlib.crc32(memoryview(data)[position + 4 : end]) != int.from_bytes(data[end : end + 4]):
            raise BadImage(
                "PNG damaged", f"chunk {name.decode('latin-1')} at byte {position} does not match its checksum"
            )
        yield name, start, end
        position = end + 4


def _foreign_kind(data: bytes) -> str | None:
    """Recognise one of the formats that are converted, by the first bytes; None for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        size = min(int.from_bytes(data[:4]), 256)
        brands = {data[8:12], *(data[at : at + 4] for at in range(16, size, 4))}
        return "avif" if brands & _AVIF_BRANDS else "heif" if brands & _HEIF_BRANDS else None
    magics = {b"GIF8": "gif", b"II*\0": "tiff", b"MM\0*": "tiff", b"BM": "bmp"}
    return next((kind for magic, kind in magics.items() if data.startswith(magic)), None)


def _read_foreign(data: bytes, kind: str) -> _Header:
    """Read the header of an image in a format that is converted. Its pixels are not decoded."""
    with _opened(data, kind) as image:
        exif = image.getexif()
        lossy = kind in ("avif", "heif") or (kind == "webp" and b"VP8L" not in data[:64] and b"VP8 " in data)
        lossy = lossy or (kind == "tiff" and exif.get(_COMPRESSION) in _JPEG_IN_TIFF)
        orientation = exif.get(_ORIENTATION, 1)
        orientation = orientation if orientation in range(1, 9) else 1
        actions: tuple[str, ...] = (kind,)
        actions += ("cmyk",) if image.mode == "CMYK" else ()
        actions += ("sixteen_bit",) if image.mode.startswith("I") else ()
        actions += ("alpha",) if image.has_transparency_data else ()
        if kind == "tiff" and orientation != 1:  # part of the format: Pillow itself turns it
            actions, orientation = (*actions, "turned"), 1
        return _Header(kind, *image.size, actions, orientation, target="jpg" if lossy else "png")


@contextlib.contextmanager
def _opened(data: bytes, kind: str) -> Iterator[Image.Image]:
    """Open an image with Pillow's reader of this format alone; whatever that raises becomes a BadImage."""
    from PIL import UnidentifiedImageError

    if kind == "heif" and not _heif_opener():
        raise BadImage(_NO_HEIC, "pip install 'effnet[heif]'")
    if kind == "avif" and not _reads_avif():
        raise BadImage(_NO_AVIF, "pip install --upgrade pillow")
    try:
        with Image.open(io.BytesIO(data), formats=(_FORMATS[kind],)) as image:
            yield image
    except UnidentifiedImageError:
        raise BadImage("broken", f"a {_FORMATS[kind]} whose header cannot be read") from None
    except Image.DecompressionBombError as error:
        raise BadImage("too many pixels", str(error).splitlines()[0]) from None
    except _PILLOW_RAISES as error:
        raise _broken(error) from error


def _broken(error: Exception) -> BadImage:
    return BadImage("broken", (str(error) or type(error).__name__).splitlines()[0])


def _reads_avif() -> bool:
    from PIL import features

    return bool(features.check("avif"))


@functools.cache
def _heif_opener() -> bool:
    """Teach Pillow to read HEIC, if the package for it is there; say whether it is."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


# By reason of refusal, where that is a missing reader: whether the reader is there now.
READERS: dict[str, Callable[[], bool]] = {_NO_HEIC: lambda: _heif_opener(), _NO_AVIF: _reads_avif}


def _pixels(data: bytes, header: _Header) -> NDArray[np.uint8]:
    """Decode strictly to RGB, (height, width, 3), in the stored orientation: a decoder's warning is an error."""
    if header.kind == "jpg" and "cmyk" not in header.actions:
        import simplejpeg

        try:
            return simplejpeg.decode_jpeg(data, "RGB", strict=True)  # type: ignore[no-any-return]
        except ValueError as error:
            raise _broken(error) from error
    with _opened(data, header.kind) as image:
        image.load()
        return _to_rgb(image)


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Return a decoded image as 8-bit RGB: alpha over black, 16-bit grey from 0..65535 to 0..255, rounded.

    Pillow itself reads 16-bit colour as 8-bit.
    """
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65_535:
            raise BadImage(_RARE_TIFF, "levels of 32 bits")
        grey = ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise BadImage(_RARE_TIFF, "levels with fractions")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba))[..., :3]
    return np.asarray(image.convert("RGB"))


def _encode(data: bytes, header: _Header, policy: ImagePolicy, actions: tuple[str, ...]) -> Prepared:
    """Decode, turn and shrink if the actions say so, and encode again: losslessly if the original was lossless."""
    image = Image.fromarray(np.ascontiguousarray(_pixels(data, header)))
    if "turned" in actions and header.orientation != 1:
        image = image.transpose(_TURNS[header.orientation])
    short = policy.resize_short
    if short and min(image.size) > short:
        scale = short / min(image.size)
        size = (max(short, round(image.width * scale)), max(short, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    if header.target == "jpg":
        import simplejpeg

        encoded = simplejpeg.encode_jpeg(np.asarray(image), quality=policy.jpeg_quality, colorsubsampling="444")
    else:
        buffer = io.BytesIO()
        image.save(buffer, "png")
        encoded = buffer.getvalue()
    return Prepared(encoded, header.target, image.width, image.height, actions)
