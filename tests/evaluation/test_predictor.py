"""A member as people use it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from effnet.arch.spec import Architecture
from effnet.errors import ConfigError, DataError
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


@pytest.mark.parametrize(
    "bad", [np.zeros((1, 8, 8), np.uint8), np.zeros((1, 8, 8, 4), np.uint8), np.zeros((1, 8, 8, 3), np.float32)]
)
def test_other_things_are_refused(predictor: Predictor, bad: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="image 0: expected"):
        predictor.predict(bad)


def test_saved_and_loaded_it_is_the_same(predictor: Predictor, tmp_path: Path) -> None:
    save_predictor(tmp_path / "model", predictor.network, NAMES, 4)
    again = load_predictor(tmp_path / "model")
    image = np.random.default_rng(2).integers(0, 256, (1, 20, 30, 3), dtype=np.uint8)
    predictor.crop_padding = 4
    assert again.predict(image) == predictor.predict(image)
    content = json.loads((tmp_path / "model" / "predictor.json").read_text())
    (tmp_path / "model" / "predictor.json").write_text(json.dumps({"crop_padding": content["crop_padding"]}))
    with pytest.raises(DataError, match="no class names"):
        load_predictor(tmp_path / "model")
