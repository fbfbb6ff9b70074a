"""A member as people use it."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from effnet.arch.spec import Architecture
from effnet.data.images.decode import decode
from effnet.errors import ConfigError, DataError
from effnet.evaluation.images import pixels_of
from effnet.evaluation.predictor import Predictor, load_predictor, save_predictor
from effnet.models.build import build
from effnet.models.preprocess import normalize
from effnet.values import read_mapping
from tests.tiny import write_tiny

NAMES = ("cat", "dog", "Ärger")


@pytest.fixture
def arch(tmp_path: Path) -> Architecture:
    write_tiny(tmp_path)
    return Architecture.parse(read_mapping(tmp_path / "tiny-baseline.yaml"), "tiny")


@pytest.fixture
def predictor(arch: Architecture) -> Predictor:
    return Predictor(build(arch, 3, seed=0).eval(), NAMES, 0)


def test_any_size_and_number_of_images(predictor: Predictor) -> None:
    source = np.random.default_rng(0)
    sizes = [(8, 8), (5, 30), (300, 17)]
    images = [source.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    answers = predictor.predict(images)
    assert len(answers) == 3
    for answer in answers:
        assert set(answer["labels"]) == set(NAMES)
        assert answer["label"] == answer["labels"][0]
        assert sum(answer["probabilities"]) == pytest.approx(1)
        assert answer["probabilities"] == sorted(answer["probabilities"], reverse=True)
    many = predictor.probabilities(np.stack(images[:1] * 200))
    np.testing.assert_allclose(many, np.repeat(predictor.probabilities(images[:1]), 200, axis=0), rtol=1e-5)
    assert predictor.predict([]) == []
    assert len(predictor.predict(images, {"top": 1})[0]["labels"]) == 1


def test_an_image_of_the_networks_size_is_seen_as_it_is(predictor: Predictor, arch: Architecture) -> None:
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    with torch.inference_mode():
        logits = predictor.network(normalize(torch.from_numpy(image).permute(2, 0, 1)[None], arch))
    np.testing.assert_allclose(predictor.probabilities([image])[0], logits.softmax(1)[0], rtol=1e-5)


def encoded(pixels: np.ndarray, mode: str | None = None, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, kind)
    return buffer.getvalue()


def test_a_photograph_that_lies_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its left side
    upright = np.random.default_rng(2).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.rot90(upright)).save(buffer, "png", exif=exif)
    np.testing.assert_array_equal(pixels_of([buffer.getvalue()])[0], upright)


def test_what_training_accepts_a_model_accepts(predictor: Predictor) -> None:
    source = np.random.default_rng(0)
    rgb = source.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    grey, alpha = rgb[..., 0], source.integers(0, 256, (9, 7, 1), dtype=np.uint8)
    rgba, deep = np.concatenate([rgb, alpha], axis=2), source.integers(0, 65536, (9, 7), dtype=np.uint16)
    black = np.asarray(Image.alpha_composite(Image.new("RGBA", (7, 9), (0, 0, 0, 255)), Image.fromarray(rgba)))[..., :3]
    ways = {
        "colour": (rgb, [rgb, rgb.tolist(), torch.from_numpy(rgb), rgb.astype(np.int64), encoded(rgb)]),
        "grey": (np.repeat(grey[..., None], 3, 2), [grey, grey[..., None], grey.tolist(), encoded(grey)]),
        "alpha": (black, [encoded(rgba)]),
        "alpha as pixels": (pixels_of([rgba])[0], [rgba.tolist()]),
        "sixteen bits": (
            np.repeat(((deep.astype(int) + 128) // 257).astype(np.uint8)[..., None], 3, 2),
            [deep, encoded(deep)],
        ),
    }
    for wanted, given in ways.values():
        for found in pixels_of(given):
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, wanted)
    assert np.abs(pixels_of([rgba])[0].astype(int) - black).max() <= 1
    jpeg = encoded(rgb, kind="jpeg")
    text = base64.b64encode(jpeg).decode()
    table = pd.DataFrame({"image": [jpeg, text, f"data:image/jpeg;base64,{text}"]})
    same = [
        [jpeg, text, {"b64": text}],
        table,
        {"image": [text]},
        table.rename(columns={"image": "photo"}),
        np.array([text]),
        text,
    ]
    for given in same:
        for found in pixels_of(given):
            np.testing.assert_array_equal(found, decode(jpeg, "jpeg"))
    assert len(predictor.predict([rgb, grey, rgba, jpeg, text])) == 5
    assert len(predictor.predict(np.stack([grey] * 2))) == 2


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (np.zeros((1, 3, 8, 8), np.uint8), "image 0: expected .*, got \\(3, 8, 8\\)"),
        (np.zeros((1, 8, 8, 5), np.uint8), "image 0: expected"),
        (np.zeros((1, 8, 8, 3), np.float32), "image 0: expected whole numbers .* got float32 of 0.0 to 0.0"),
        (np.full((1, 8, 8, 3), 256), "image 0: expected whole numbers"),
        (np.zeros((8, 8, 3), np.uint8), "give it as a list"),
        ([np.zeros((8, 8, 3), np.uint8), b"GIF89a?"], "image 1: "),
        ([b""], "image 0: empty"),
        (["$$"], "image 0: text that is not an image file in base64"),
        ([[[1, 2], [1]]], "image 0: .* different lengths"),
        ([None], "image 0: expected .* got NoneType"),
        (3, "expected images, got int"),
        (pd.DataFrame({"a": [1], "b": [2]}), "rename the one with the images to 'image'"),
        ([np.zeros((0, 8, 3), np.uint8)], "image 0: expected"),
        ([[[["a"]]]], "image 0: expected"),
    ],
)
def test_other_things_are_refused_in_one_line(predictor: Predictor, bad: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        predictor.predict(bad)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="top: expected"):
        predictor.predict([], {"top": 0})


def test_saved_and_loaded_it_is_the_same(predictor: Predictor, tmp_path: Path) -> None:
    save_predictor(tmp_path / "model", predictor.network, NAMES, 4)
    again = load_predictor(tmp_path / "model")
    image = np.random.default_rng(2).integers(0, 256, (1, 20, 30, 3), dtype=np.uint8)
    predictor.crop_padding = 4
    assert again.predict(image) == predictor.predict(image)
    content = json.loads((tmp_path / "model" / "predictor.json").read_text())
    (tmp_path / "model" / "predictor.json").write_text(json.dumps({"crop_padding": content["crop_padding"]}))
    with pytest.raises(DataError, match="not a list of class names"):
        load_predictor(tmp_path / "model")
