"""Each operation gives Pillow's result, bit for bit, on photographs and noise."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from effnet.data.augment.device_ops import OPS
from effnet.data.augment.pillow_ops import PILLOW_OPS

VALUES: dict[str, Iterable[float]] = {
    "AutoContrast": (0,),
    "Brightness": (0, 0.1, 0.37, 1, 1.27, 1.9),
    "Color": (0, 0.1, 0.37, 1, 1.27, 1.9),
    "Contrast": (0, 0.1, 0.37, 1, 1.27, 1.9),
    "Equalize": (0,),
    "Identity": (0,),
    "Invert": (0,),
    "Posterize": range(9),
    "Rotate": (-30, -27, -13.7, -3, 3, 12, 21, 30),
    "Sharpness": (0, 0.1, 0.37, 1, 1.27, 1.9),
    "ShearX": (-0.3, -0.27, -0.12, 0.03, 0.18, 0.3),
    "ShearY": (-0.3, -0.27, -0.12, 0.03, 0.18, 0.3),
    "Solarize": (0, 76, 128, 255, 256),
    "SolarizeAdd": (0, 33, 77, 110),
    "TranslateX": (-225, -40, -1, 0, 1, 17, 70, 225),
    "TranslateY": (-225, -40, -1, 0, 1, 17, 70, 225),
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
    assert PILLOW_OPS.keys() == OPS.keys() == VALUES.keys()


@pytest.mark.parametrize("op", OPS)
def test_equal_to_pillow(op: str) -> None:
    images = pictures()
    function, values = PILLOW_OPS[op], VALUES[op]
    cases = [(image, float(value)) for value in values for image in images]
    batch = torch.from_numpy(np.stack([np.asarray(image) for image, _ in cases])).permute(0, 3, 1, 2)
    found = OPS[op](batch, np.array([value for _, value in cases], np.float64))
    wanted = np.stack([np.asarray(function(image, value)) for image, value in cases])
    difference = np.abs(found.permute(0, 2, 3, 1).numpy().astype(int) - wanted)
    assert found.dtype == torch.uint8
    assert difference.max() == 0, [
        (value, int(row.max()), float((row > 0).mean()))
        for (_, value), row in zip(cases, difference, strict=True)
        if row.any()
    ]
