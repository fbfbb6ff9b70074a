"""Our networks compute what timm's, torchvision's and EfficientNet-PyTorch's compute, on the same weights."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from effnet.arch import zoo
from effnet.arch.spec import Architecture
from effnet.models.build import Network
from effnet.models.weights import load, names
from tests.golden import formula

FOLDER = Path(__file__).parents[1] / "golden"
NETWORKS = json.loads((FOLDER / "networks.json").read_text())["networks"]
TOLERANCE = 1e-4


@functools.cache
def golden_logits() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "logits.npz") as file:
        return dict(file)


def formula_weights(arch: Architecture, naming: str, variances: list[float]) -> dict[str, np.ndarray]:
    """Return what the generator filled their network with, under their names."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Network(arch, 1000).state_dict().items()}
    theirs = {their_name: shapes[ours] for ours, their_name in names(arch, naming).items()}
    norms = sorted(name.removesuffix(".running_var") for name in theirs if name.endswith(".running_var"))
    variance = dict(zip(norms, variances, strict=True))
    return {
        name: formula.weights(name, shape, variance.get(name.rpartition(".")[0], 1.0)) for name, shape in theirs.items()
    }


def largest_difference(arch: Architecture, golden: dict, key: str, folder: Path) -> float:
    path = folder / "theirs.safetensors"
    safetensors.numpy.save_file(formula_weights(arch, golden["naming"], golden["variances"]), path)
    network = load(path, arch)
    path.unlink()  # dozens of files of up to 266 MB
    with torch.inference_mode():
        logits = network(torch.from_numpy(formula.image(golden["resolution"])))[0].numpy()
    return float(np.abs(logits - golden_logits()[key]).max())


def test_every_shared_network_is_there() -> None:
    keys = set(NETWORKS)
    for number in range(8):
        assert {f"timm/tf_efficientnet_b{number}", f"timm/efficientnet_b{number}"} <= keys
        assert {f"torchvision/efficientnet_b{number}", f"lukemelas/efficientnet-b{number}"} <= keys
    for number in range(5):
        assert f"timm/tf_efficientnet_lite{number}" in keys
    for size in "sml":
        v2 = f"efficientnetv2_{size}"
        assert {f"timm/tf_{v2}", f"timm/{v2}", f"torchvision/efficientnet_v2_{size}"} <= keys
    assert {"timm/mobilenetv4_conv_small", "timm/mobilenetv4_conv_medium"} <= keys
    assert {"timm/mobilenetv1_100", "timm/mobilenetv2_100", "timm/resnet50", "timm/semnasnet_100"} <= keys
    assert {"torchvision/mobilenet_v2", "torchvision/resnet50"} <= keys


@pytest.mark.parametrize("key", NETWORKS)
def test_tensors_are_named_and_shaped_alike(key: str) -> None:
    golden = NETWORKS[key]
    arch = zoo.get(golden["arch"])
    with torch.device("meta"):
        state = Network(arch, 1000).state_dict()
    theirs = sorted((name, list(state[ours].shape)) for ours, name in names(arch, golden["naming"]).items())
    assert hashlib.sha256(json.dumps(theirs).encode()).hexdigest() == golden["tensors"]


def by_what_they_take() -> list[object]:
    """Return the networks; the same large ones again, from other libraries, are slow."""
    large = ("b5", "b6", "b7", "v2_m", "v2_l")
    return [
        pytest.param(key, marks=pytest.mark.slow) if key.endswith(large) and "/tf_" not in key else key
        for key in NETWORKS
    ]


@pytest.mark.parametrize("key", by_what_they_take())
def test_logits_are_theirs(key: str, tmp_path: Path) -> None:
    golden = NETWORKS[key]
    assert largest_difference(zoo.get(golden["arch"]), golden, key, tmp_path) <= TOLERANCE


@pytest.mark.parametrize(
    "fault",
    [
        {"padding": "symmetric"},
        {"norm_epsilon": 1e-5},
        {"activation": "relu"},
    ],
)
def test_logits_tell_a_wrong_network(fault: dict[str, object], tmp_path: Path) -> None:
    key = "timm/tf_efficientnet_b0"
    wrong = zoo.get("efficientnet_b0").model_copy(update=fault)
    assert largest_difference(wrong, NETWORKS[key], key, tmp_path) > 5 * TOLERANCE
