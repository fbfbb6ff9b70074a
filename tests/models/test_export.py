"""Exported programs answer as the network does, for any batch size, and say what they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from effnet.arch import zoo
from effnet.arch.scaling import Multipliers, scale
from effnet.arch.spec import Architecture, Stage
from effnet.errors import ConfigError, RunFailedError
from effnet.evaluation.predictor import Predictor
from effnet.models import export
from effnet.models.build import Network, build
from effnet.models.deployed import Metadata
from effnet.models.timm_folder import NAMES, save_timm, timm_name
from effnet.models.weights import load, names, save_model
from tests.tiny import clean_environment, run_effnet

CLASSES = ("ant", "bee", "Käfer", "3", "4")


def small(name: str) -> Network:
    """A narrow and shallow network with odd feature maps, where padding is uneven."""
    return build(scale(zoo.get(name), Multipliers(width=0.25, depth=0.4), resolution=67), 5, seed=0).eval()


def metadata(network: Network, *, preprocessing: bool = False) -> Metadata:
    told = {"preprocessing": preprocessing, "effnet": "1.2.3", "family": "insects", "licence": "CC0"}
    return Metadata.of(network.architecture, CLASSES, 10).model_copy(update=told)


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Path]:
    """A network whose mean and spread are not those of most, and a folder with its files, which take pixels."""
    network, folder = small("efficientnet_lite0"), tmp_path_factory.mktemp("lite")
    told = metadata(network, preprocessing=True)
    export.export_onnx(network, folder / "model.onnx", told)
    export.export_torch(network, folder / "model.pt2", told)
    return network, folder


@pytest.mark.parametrize("name", ["efficientnet_b0", "resnet50"])
def test_torch_export_runs_any_batch_size(tmp_path: Path, name: str) -> None:
    network = small(name)
    assert export.export_torch(network, tmp_path / "model.pt2", metadata(network)) <= 1e-4
    program = torch.export.load(tmp_path / "model.pt2").module()
    images = torch.randn(7, 3, 67, 67)
    assert torch.allclose(program(images), network(images), atol=1e-4)


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v1"])
def test_onnx_runs_any_batch_size(tmp_path: Path, name: str) -> None:
    network = small(name)
    assert export.export_onnx(network, tmp_path / "model.onnx", metadata(network)) <= 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    images = torch.randn(7, 3, 67, 67)
    (logits,) = session.run(None, {"images": images.numpy()})
    assert torch.allclose(torch.from_numpy(logits), network(images), atol=1e-4)


def test_pixels_go_in_and_the_predictors_probabilities_come_out(lite: tuple[Network, Path]) -> None:
    network, folder = lite
    pixels = np.random.default_rng(0).integers(0, 256, (7, 67, 67, 3), dtype=np.uint8)
    wanted = Predictor(network, CLASSES, 0).probabilities(pixels)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert [(each.name, each.type) for each in session.get_inputs()] == [("images", "tensor(uint8)")]
    (probabilities,) = session.run(["probabilities"], {"images": pixels})
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, wanted, atol=1e-6)
    program = torch.export.load(folder / "model.pt2").module()
    np.testing.assert_allclose(program(torch.from_numpy(pixels)).detach().numpy(), wanted, atol=1e-6)


def test_onnx_says_what_it_is(lite: tuple[Network, Path]) -> None:
    told = onnxruntime.InferenceSession(lite[1] / "model.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == list(CLASSES)
    assert (json.loads(told["mean"]), json.loads(told["std"])) == ([127.0] * 3, [128.0] * 3)
    assert (told["side"], told["effnet"], told["family"], told["licence"]) == ("67", "1.2.3", "insects", "CC0")
    resize = json.loads(told["resize"])
    assert (resize["crop_padding"], resize["interpolation"], resize["antialias"]) == (10, "bicubic", True)
    assert "run" not in told  # not known, so not said


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_files_name_no_folder_of_the_machine_that_made_them(lite: tuple[Network, Path], kind: str) -> None:
    assert os.fsencode(Path(export.__file__).parent) not in (lite[1] / f"model.{kind}").read_bytes()


WITHOUT = """
import json, sys
sys.modules["effnet"] = None  # importing it fails
import torch
extra = {"metadata.json": ""}
program = torch.export.load("model.pt2", extra_files=extra).module()
told = json.loads(extra["metadata.json"])
pixels = torch.arange(2 * 67 * 67 * 3).remainder(251).to(torch.uint8).reshape(2, 67, 67, 3)
print(json.dumps({"told": told, "rows": program(pixels).tolist()}))
"""


def test_a_pt2_needs_no_effnet(lite: tuple[Network, Path]) -> None:
    network, folder = lite
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=folder, env=clean_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["told"]["classes"] == list(CLASSES)
    assert found["told"]["resize"]["crop_padding"] == 10
    pixels = (np.arange(2 * 67 * 67 * 3) % 251).astype(np.uint8).reshape(2, 67, 67, 3)
    np.testing.assert_allclose(found["rows"], Predictor(network, CLASSES, 0).probabilities(pixels), atol=1e-5)


def test_a_program_that_answers_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = small("efficientnet_b0")
    trace = torch.export.export

    def wrong(module: Network, *args: object, **kwargs: object) -> object:
        program = trace(module, *args, **kwargs)
        # the network moves on after it was traced
        module.classifier.bias = torch.nn.Parameter(module.classifier.bias.detach() + 0.01)
        return program

    monkeypatch.setattr(torch.export, "export", wrong)
    with pytest.raises(RunFailedError, match="logits differ by"):
        export.export_torch(network, tmp_path / "model.pt2", metadata(network))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"needs the package {package}: pip install 'effnet\[onnx\]'"):
        export.require_onnx()


@pytest.mark.parametrize("theirs", NAMES)
def test_every_network_has_timms_name(theirs: str) -> None:
    arch = zoo.get(NAMES[theirs])
    assert timm_name(arch) == theirs
    assert timm_name(arch.model_copy(update={"resolution": 96, "name": "mine"})) == theirs
    names(arch, "timm")  # of its tensors


OTHERS = {
    "width": lambda arch: scale(arch, Multipliers(width=1.2)),
    "depth": lambda arch: scale(arch, Multipliers(depth=1.3)),
    "activation": lambda arch: arch.model_copy(update={"activation": "relu"}),
    "epsilon": lambda arch: arch.model_copy(update={"norm_epsilon": 1e-5}),
    "squeeze": lambda arch: arch.model_copy(update={"se_base": "expanded"}),
    "kernel": lambda arch: arch.model_copy(update={"stages": (changed(arch, kernel=5), *arch.stages[1:])}),
    "shortcut": lambda arch: arch.model_copy(update={"stages": (changed(arch, skip=False), *arch.stages[1:])}),
}


def changed(arch: Architecture, **changes: object) -> Stage:
    return arch.stages[0].model_copy(update=changes)


@pytest.mark.parametrize("what", OTHERS)
def test_a_shape_that_timm_lacks_is_refused(what: str) -> None:
    with pytest.raises(ConfigError, match="timm has no network like"):
        timm_name(OTHERS[what](zoo.get("efficientnet_b1")))


def test_timms_folder_says_what_timm_asks(tmp_path: Path) -> None:
    arch = scale(zoo.get("efficientnet_lite0"), Multipliers(), resolution=190)
    network = build(arch, 5, seed=0).eval()
    assert save_timm(tmp_path, network, metadata(network), "# Insects\n") == "tf_efficientnet_lite0"
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "tf_efficientnet_lite0"
    assert (config["num_classes"], config["num_features"], config["label_names"]) == (5, 1280, list(CLASSES))
    told = config["pretrained_cfg"]
    assert (told["input_size"], told["interpolation"], told["num_classes"]) == ([3, 190, 190], "bicubic", 5)
    assert told["mean"] == [127 / 255] * 3
    assert told["std"] == [128 / 255] * 3
    assert told["crop_pct"] == 190 / 200
    assert (told["first_conv"], told["classifier"]) == ("conv_stem", "classifier")
    assert "library_name: timm" in (tmp_path / "README.md").read_text()
    image = torch.randn(1, 3, 190, 190)
    back = load(tmp_path / "model.safetensors", arch, "timm")
    assert torch.equal(back(image), network(image))


def test_command_exports_a_model_folder(tmp_path: Path) -> None:
    save_model(tmp_path / "model", small("efficientnet_b0"))
    done = run_effnet("export", "model", "--format", "torch", "--out", "model.pt2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "logits checked" in done.stdout
    assert "compared on 32 random images alone, the same answer for 100.00%" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.pt2"]
    done = run_effnet("export", "model", "--format", "torch", "--out", "model.pt2", cwd=tmp_path)
    assert done.returncode == 2
    assert "exists already" in done.stderr
