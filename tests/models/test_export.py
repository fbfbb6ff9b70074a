"""Exported programs answer as the network does, for any batch size."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch

from effnet.arch import zoo
from effnet.arch.scaling import Multipliers, scale
from effnet.errors import RunFailedError
from effnet.models import export
from effnet.models.build import Network, build
from effnet.models.weights import save_model
from tests.tiny import run_effnet


def small(name: str) -> Network:
    """A narrow network with odd feature maps, where padding is uneven."""
    return build(scale(zoo.get(name), Multipliers(width=0.25), resolution=67), 5, seed=0).eval()


@pytest.mark.parametrize("name", ["efficientnet_b0", "resnet50"])
def test_torch_export_runs_any_batch_size(tmp_path: Path, name: str) -> None:
    network = small(name)
    assert export.export_torch(network, tmp_path / "model.pt2") <= 1e-4
    program = torch.export.load(tmp_path / "model.pt2").module()
    images = torch.randn(7, 3, 67, 67)
    assert torch.allclose(program(images), network(images), atol=1e-4)


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v1"])
def test_onnx_runs_any_batch_size(tmp_path: Path, name: str) -> None:
    network = small(name)
    assert export.export_onnx(network, tmp_path / "model.onnx") <= 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    images = torch.randn(7, 3, 67, 67)
    (logits,) = session.run(None, {"images": images.numpy()})
    assert torch.allclose(torch.from_numpy(logits), network(images), atol=1e-4)


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
        export.export_torch(network, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_command_exports_a_model_folder(tmp_path: Path) -> None:
    save_model(tmp_path / "model", small("efficientnet_b0"))
    done = run_effnet("export", "model", "--format", "torch", "--out", "model.pt2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "logits checked" in done.stdout
    assert (tmp_path / "model.pt2").is_file()
    done = run_effnet("export", "model", "--format", "torch", "--out", "model.pt2", cwd=tmp_path)
    assert done.returncode == 2
    assert "exists already" in done.stderr
