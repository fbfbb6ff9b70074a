"""Each operation gives Pillow's result, bit for bit, on photographs and noise; run by Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import product

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are imported, which here happens first in this process

from effnet.config import Augment
from effnet.data.augment import kernels, policies
from effnet.data.augment.codes import OPS, Layer, encode
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
    assert set(PILLOW_OPS) == OPS == set(VALUES)


def some(values: Iterable[float], images: list[Image.Image]) -> list[tuple[Image.Image, float]]:
    """Return each value with every third image, and so each image with every third value; all if values are few."""
    levels = list(values)
    apart = 3 if len(levels) > 3 else 1
    return [
        (image, level)
        for place, image in enumerate(images)
        for number, level in enumerate(levels)
        if (place + number) % apart == 0
    ]


def every(values: Iterable[float], images: list[Image.Image]) -> list[tuple[Image.Image, float]]:
    return list(product(images, values))


@pytest.mark.parametrize("cases_of", [some, pytest.param(every, marks=pytest.mark.slow)])
@pytest.mark.parametrize("op", sorted(OPS))
def test_equal_to_pillow(op: str, cases_of: Callable[..., list[tuple[Image.Image, float]]]) -> None:
    function = PILLOW_OPS[op]
    cases = [(image, float(value)) for image, value in cases_of(VALUES[op], pictures())]
    batch = torch.from_numpy(np.stack([np.asarray(image) for image, _ in cases])).permute(0, 3, 1, 2)
    layer = Layer(np.full(len(cases), op, object), np.array([value for _, value in cases], np.float64))
    found = kernels.apply(batch, encode([layer], *batch.shape[2:]))
    wanted = np.stack([np.asarray(function(image, value)) for image, value in cases])
    difference = np.abs(found.permute(0, 2, 3, 1).numpy().astype(int) - wanted)
    assert found.dtype == torch.uint8
    assert difference.max() == 0, [
        (value, int(row.max()), float((row > 0).mean()))
        for (_, value), row in zip(cases, difference, strict=True)
        if row.any()
    ]


@pytest.mark.parametrize("policy", ["autoaugment_v0", "autoaugment_imagenet", "randaugment"])
@pytest.mark.slow
def test_a_policy_gives_a_batch_the_same_bits(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = torch.from_numpy(np.stack([np.asarray(image) for image in pictures() * 4])).permute(0, 3, 1, 2)
    samples, config = np.arange(len(batch)), Augment(policy=policy, erase=0.5)
    here = policies.augment_batch(batch, config, samples, 3, 1)
    monkeypatch.setattr(policies, "_kernels", lambda _images: kernels)  # as on a GPU
    there = policies.augment_batch(batch, config, samples, 3, 1)
    assert torch.equal(here, there)
    assert not torch.equal(here, batch)
