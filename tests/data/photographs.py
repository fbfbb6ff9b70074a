"""Images that are good, odd and bad, made from a real photograph."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import skimage.data
from PIL import Image

OTHER_FORMATS: dict[str, dict[str, object]] = {"gif": {}, "webp": {}, "tiff": {}, "bmp": {}, "avif": {"speed": 10}}
KEPT, REENCODED, REFUSED = "kept", "encoded again", "refused"


def photograph(side: int = 96) -> Image.Image:
    return Image.fromarray(skimage.data.chelsea()).resize((side + side // 2, side))


def encode(image: Image.Image, kind: str = "jpeg", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sixteen_bit(width: int = 40, height: int = 30) -> bytes:
    ramp = np.linspace(0, 65535, width * height).reshape(height, width).astype(np.uint16)
    return encode(Image.fromarray(ramp), "png")


def odd_images(random: np.random.Generator) -> Iterator[tuple[str, bytes, str]]:
    """Yield (kind, bytes, what the policy makes of it) for every kind, cut and damaged at random places."""
    image = photograph(int(random.integers(40, 120)))
    quality = int(random.integers(60, 96))
    jpeg, png = encode(image, quality=quality), encode(image, "png")
    progressive = encode(image, progressive=True, quality=quality)
    yield "baseline JPEG", jpeg, KEPT
    yield "progressive JPEG", progressive, KEPT
    yield "grey JPEG", encode(image.convert("L"), quality=quality), KEPT
    yield "JPEG with bytes after its end", jpeg + random.bytes(int(random.integers(1, 2000))), KEPT
    yield "RGB PNG", png, KEPT
    yield "palette PNG", encode(image.convert("P"), "png"), KEPT
    yield "one-bit PNG", encode(image.convert("1"), "png"), KEPT
    yield "CMYK JPEG", encode(image.convert("CMYK"), quality=quality), REENCODED
    yield "RGBA PNG", encode(image.convert("RGBA"), "png"), REENCODED
    yield "grey and alpha PNG", encode(image.convert("LA"), "png"), REENCODED
    yield "16-bit PNG", sixteen_bit(), REENCODED
    for kind, data in (("JPEG", jpeg), ("progressive JPEG", progressive), ("PNG", png)):
        yield f"{kind} cut short", data[: int(random.integers(1, len(data) - 2))], REFUSED
    at = int(random.integers(8, len(png) - 12))
    yield "PNG with a flipped bit", png[:at] + bytes([png[at] ^ 1 << int(random.integers(8))]) + png[at + 1 :], REFUSED
    for kind, options in OTHER_FORMATS.items():
        yield kind, encode(image, kind, **options), REENCODED
        data = encode(image, kind, **options)
        yield f"{kind} cut short", data[: int(random.integers(1, len(data) // 2))], REFUSED
    yield "turned JPEG", encode(image, exif=orientation(6)), KEPT
    yield "JPEG with broken EXIF", encode(image, exif=b"Exif\0\0MM\0*" + random.bytes(20)), KEPT
    yield "nothing", b"", REFUSED
    yield "one byte", random.bytes(1), REFUSED
    yield "web page", b"<!doctype html><title>404</title>" * 9, REFUSED
    yield "noise", random.bytes(int(random.integers(2, 5000))), REFUSED
    yield "bomb", bomb(), REFUSED


def orientation(value: int) -> Image.Exif:
    """EXIF data that say how a camera was held."""
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def bomb(side: int = 9000) -> bytes:
    """A small PNG of far too many pixels."""
    return encode(Image.new("1", (side, side)), "png")
