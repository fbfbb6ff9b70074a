"""Every row of the table of docs/data.md."""

from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from effnet.config import ImagePolicy
from effnet.data.images import turbojpeg
from effnet.data.images.decode import MAX_PIXELS, _open, decode
from effnet.data.images.intake import BadImage, prepare
from effnet.errors import ConfigError
from tests.data.photographs import KEPT, REENCODED, bomb, encode, odd_images, photograph, sixteen_bit

POLICY = ImagePolicy()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.parametrize("seed", range(6))
def test_odd_images_are_treated_as_the_table_says(seed: int) -> None:
    for kind, data, wanted in odd_images(np.random.default_rng(seed)):
        try:
            prepared = prepare(data, POLICY)
        except BadImage:
            assert wanted == "refused", kind
            continue
        assert wanted == (KEPT if prepared.actions == ("kept",) else REENCODED), kind
        assert (prepared.image == data) == (wanted == KEPT), kind
        image = Image.open(io.BytesIO(prepared.image))
        assert image.size == (prepared.width, prepared.height), kind
        assert image.format == {"jpg": "JPEG", "png": "PNG"}[prepared.extension], kind
        assert image.mode in ("L", "RGB", "P", "1"), kind


def test_cmyk_keeps_its_colours() -> None:
    image = photograph()
    prepared = prepare(encode(image.convert("CMYK"), quality=95), POLICY)
    assert prepared.actions == ("cmyk",)
    assert np.abs(pixels(prepared.image) - np.asarray(image)).mean() < 3


def test_alpha_is_laid_over_black() -> None:
    image = photograph().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    prepared = prepare(encode(image, "png"), POLICY)
    alpha = np.asarray(image)[..., 3:].astype(float) / 255
    assert np.abs(pixels(prepared.image) - np.asarray(image)[..., :3] * alpha).max() <= 1


def test_sixteen_bits_keep_their_levels() -> None:
    grey = pixels(prepare(sixteen_bit(), POLICY).image)[..., 0].ravel()
    wanted = np.linspace(0, 255, grey.size)
    assert np.abs(grey - wanted).max() <= 1  # Pillow's own conversion would clip all but the first 256 levels


def test_what_came_without_loss_is_a_png_and_else_a_jpeg_of_the_configs_quality() -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    lossless, lossy = io.BytesIO(), io.BytesIO()
    photo.save(lossless, "PNG")
    photo.save(lossy, "JPEG", quality=97)
    found = prepare(lossless.getvalue(), ImagePolicy(resize_short=30))
    assert (found.extension, Image.open(io.BytesIO(found.image)).format) == ("png", "PNG")
    for quality in (60, 90):
        found = prepare(lossy.getvalue(), ImagePolicy(resize_short=30, jpeg_quality=quality))
        wanted = io.BytesIO()
        photo.save(wanted, "JPEG", quality=quality)
        tables = [Image.open(data).quantization for data in (io.BytesIO(found.image), wanted)]  # type: ignore[attr-defined]
        assert tables[0] == tables[1]


def test_progressive_becomes_baseline_without_loss() -> None:
    data = encode(photograph(), progressive=True, quality=90)
    prepared = prepare(data, ImagePolicy(baseline=True))
    assert prepared.actions == ("baseline",)
    assert np.array_equal(simplejpeg.decode_jpeg(prepared.image), simplejpeg.decode_jpeg(data))
    assert b"\xff\xc2" in data
    assert b"\xff\xc2" not in prepared.image
    assert prepare(prepared.image, ImagePolicy(baseline=True)).actions == ("kept",)
    with pytest.raises(ValueError, match=r"[Nn]ot a JPEG"):
        turbojpeg.to_baseline(b"nonsense" * 99)


def test_a_broken_progressive_jpeg_is_refused_when_it_is_rewritten() -> None:
    data = bytearray(encode(photograph(), progressive=True, quality=90))
    scan = data.index(b"\xff\xda")
    data[scan + 2 : scan + 12] = bytes(10)
    with pytest.raises(BadImage, match="broken: "):
        prepare(bytes(data), ImagePolicy(baseline=True))


def test_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turbojpeg, "_candidates", list)
    turbojpeg._library.cache_clear()
    with pytest.raises(ConfigError, match="pip install"):
        turbojpeg.to_baseline(b"")
    turbojpeg._library.cache_clear()


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_large_images_shrink_and_small_ones_stay(kind: str) -> None:
    data = encode(photograph(96), kind)
    prepared = prepare(data, ImagePolicy(resize_short=48))
    assert (prepared.width, prepared.height, prepared.actions) == (72, 48, ("resized",))
    small = photograph(96).resize((72, 48), Image.Resampling.LANCZOS)
    assert np.abs(pixels(prepared.image) - np.asarray(small)).mean() < 4
    assert prepare(data, ImagePolicy(resize_short=96)).image == data


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bomb()
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(BadImage, match="9000 x 9000 pixels are more than 50,000,000"):
        prepare(data, ImagePolicy(resize_short=48))


def test_decoding_finds_what_the_structure_hides() -> None:
    data = bytearray(encode(photograph(), quality=90))
    middle = len(data) // 2
    data[middle : middle + 60] = b"\xff\xd0" * 30  # restart marks where none belong; the end is in its place
    assert prepare(bytes(data), POLICY).actions == ("kept",)
    with pytest.raises(BadImage, match="broken"):
        prepare(bytes(data), ImagePolicy(decode=True))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("kind", ["colour", "grey", "progressive"])
def test_a_region_has_the_pixels_of_the_whole(subsampling: str, kind: str) -> None:
    image = photograph(150)
    data = encode(
        image.convert("L") if kind == "grey" else image, subsampling=subsampling, progressive=kind == "progressive"
    )
    whole = decode(data, "here")
    random = np.random.default_rng(0)
    for _ in range(200):
        width, height = int(random.integers(1, image.width + 1)), int(random.integers(1, image.height + 1))
        left, top = int(random.integers(0, image.width - width + 1)), int(random.integers(0, image.height - height + 1))
        region = turbojpeg.decode_region(data, image.size, left, top, width, height)
        assert region is not None
        assert np.array_equal(region, whole[top : top + height, left : left + width])


def test_broken_or_foreign_bytes_are_left_to_the_whole_decoder() -> None:
    assert turbojpeg.decode_region(b"nonsense" * 9, (90, 60), 0, 0, 9, 9) is None


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_most_pixels_that_a_config_may_allow_are_decoded() -> None:
    with pytest.raises(ValueError, match="less than or equal to"):
        ImagePolicy(max_pixels=MAX_PIXELS + 1)
    strip = encode(Image.new("1", (MAX_PIXELS // 100, 100)), "PNG")
    assert _open(strip, "a strip").width == MAX_PIXELS // 100  # which Pillow refuses where it finds too many
