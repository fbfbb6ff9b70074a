"""Each operation gives Pillow's result, bit for bit, on photographs and noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageEnhance, ImageOps

from effnet.data.image_ops import FILL, OPS

GREY = (FILL,) * 3


def affine(matrix: Callable[[float], tuple[float, ...]]) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, v: image.transform(
        image.size, Image.Transform.AFFINE, matrix(v), Image.Resampling.NEAREST, fillcolor=GREY
    )


def add(image: Image.Image, value: float) -> Image.Image:
    return image.point([min(255, level + int(value)) if level < 128 else level for level in range(256)] * 3)


PILLOW: dict[str, tuple[Callable[[Image.Image, float], Image.Image], tuple[float, ...]]] = {
    "AutoContrast": (lambda image, _: ImageOps.autocontrast(image), (0,)),
    "Brightness": (lambda image, v: ImageEnhance.Brightness(image).enhance(v), (0, 0.1, 0.37, 1, 1.27, 1.9)),
    "Color": (lambda image, v: ImageEnhance.Color(image).enhance(v), (0, 0.1, 0.37, 1, 1.27, 1.9)),
    "Contrast": (lambda image, v: ImageEnhance.Contrast(image).enhance(v), (0, 0.1, 0.37, 1, 1.27, 1.9)),
    "Equalize": (lambda image, _: ImageOps.equalize(image), (0,)),
    "Identity": (lambda image, _: image, (0,)),
    "Invert": (lambda image, _: ImageOps.invert(image), (0,)),
    "Posterize": (
        lambda image, v: image.point([level & (256 - 2 ** (8 - int(v))) for level in range(256)] * 3),
        range(9),
    ),
    "Rotate": (
        lambda image, v: image.rotate(v, Image.Resampling.NEAREST, fillcolor=GREY),
        (-30, -27, -13.7, -3, 3, 12, 21, 30),
    ),
    "Sharpness": (lambda image, v: ImageEnhance.Sharpness(image).enhance(v), (0, 0.1, 0.37, 1, 1.27, 1.9)),
    "ShearX": (affine(lambda v: (1, v, 0, 0, 1, 0)), (-0.3, -0.27, -0.12, 0.03, 0.18, 0.3)),
    "ShearY": (affine(lambda v: (1, 0, 0, v, 1, 0)), (-0.3, -0.27, -0.12, 0.03, 0.18, 0.3)),
    "Solarize": (lambda image, v: ImageOps.solarize(image, int(v)), (0, 76, 128, 255, 256)),
    "SolarizeAdd": (add, (0, 33, 77, 110)),
    "TranslateX": (affine(lambda v: (1, 0, v, 0, 1, 0)), (-225, -40, -1, 0, 1, 17, 70, 225)),
    "TranslateY": (affine(lambda v: (1, 0, 0, 0, 1, v)), (-225, -40, -1, 0, 1, 17, 70, 225)),
}


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    photographs = [
        Image.fromarray(image()) for image in (skimage.data.astronaut, skimage.data.chelsea, skimage.data.coffee)
    ]
    dark = Image.fromarray((np.asarray(photographs[0]) // 3 + 20).astype(np.uint8))
    made = [
        Image.fromarray(random.integers(0, 256, (97, 64, 3), dtype=np.uint8)),
        Image.fromarray(np.full((97, 64, 3), 77, np.uint8)),  # one level: nothing to stretch
        Image.fromarray(random.integers(0, 2, (97, 64, 3), dtype=np.uint8) * 255),
    ]
    return [image.resize((64, 97)) for image in (*photographs, dark)] + made


def test_every_operation_is_compared() -> None:
    assert PILLOW.keys() == OPS.keys()


@pytest.mark.parametrize("op", OPS)
def test_equal_to_pillow(op: str) -> None:
    images = pictures()
    function, values = PILLOW[op]
    cases = [(image, float(value)) for value in values for image in images]
    batch = torch.from_numpy(np.stack([np.asarray(image) for image, _ in cases])).permute(0, 3, 1, 2)
    found = OPS[op](batch, torch.tensor([value for _, value in cases], dtype=torch.float64))
    wanted = np.stack([np.asarray(function(image, value)) for image, value in cases])
    difference = np.abs(found.permute(0, 2, 3, 1).numpy().astype(int) - wanted)
    assert found.dtype == torch.uint8
    assert difference.max() == 0, [
        (value, int(row.max()), float((row > 0).mean()))
        for (_, value), row in zip(cases, difference, strict=True)
        if row.any()
    ]
