"""An ONNX file that cuts and resizes by itself answers as the predictor does, whatever the image's size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import skimage.data
import torch
from numpy.typing import NDArray

from effnet.arch import zoo
from effnet.arch.scaling import Multipliers, scale
from effnet.data.images.decode import center_box, cut, resize_into
from effnet.errors import RunFailedError
from effnet.evaluation.exported import drawn_whole_images
from effnet.evaluation.predictor import Predictor
from effnet.models.any_size import _SQUARE, with_any_size
from effnet.models.build import Network, build
from effnet.models.deployed import Metadata
from effnet.models.export import add_resizing, export_onnx
from effnet.models.weights import save_model
from tests.tiny import run_effnet

CLASSES = ("ant", "bee", "Käfer", "3", "4")
SIDE, PADDING = 64, 10
# Height and width: landscape, portrait, square, the network's own side, smaller than it, a line, a pixel.
SIZES = ((300, 451), (451, 300), (200, 200), (64, 64), (37, 50), (50, 37), (20, 20), (1, 90), (1, 1), (75, 74))


def told() -> Metadata:
    more = {"preprocessing": True, "any_size": True}
    return Metadata.of(network().architecture, CLASSES, PADDING).model_copy(update=more)


def network() -> Network:
    arch = scale(zoo.get("efficientnet_lite0"), Multipliers(width=0.25, depth=0.4), resolution=SIDE, name="narrow")
    made = build(arch, len(CLASSES), seed=0).eval()
    made.classifier.weight.data *= 5  # or all answers would be alike
    return made


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("any-size") / "model.onnx"
    export_onnx(network(), path, told())
    add_resizing(path, told())
    return path


@pytest.fixture(scope="module")
def session(file: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(file)


@pytest.fixture(scope="module")
def squares(file: Path) -> onnxruntime.InferenceSession:
    """The file up to the square that the network gets."""
    model = onnx.load(file)
    del model.graph.output[:]
    shape = [None, SIDE, SIDE, 3]
    model.graph.output.append(onnx.helper.make_tensor_value_info(_SQUARE, onnx.TensorProto.UINT8, shape))
    return onnxruntime.InferenceSession(model.SerializeToString())


def photograph(height: int, width: int) -> NDArray[np.uint8]:
    """A part of a photograph, and of its mirror images where it is too small."""
    tiled: NDArray[np.uint8] = np.pad(skimage.data.chelsea(), ((0, 200), (0, 0), (0, 0)), mode="reflect")
    return np.ascontiguousarray(tiled[:height, :width])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_square_is_the_evaluations(squares: onnxruntime.InferenceSession, height: int, width: int) -> None:
    image = photograph(height, width)
    wanted = torch.empty(SIDE, SIDE, 3, dtype=torch.uint8)
    resize_into(wanted, np.ascontiguousarray(cut(image, center_box(width, height, SIDE, PADDING))))
    (found,) = squares.run(None, {"images": image[None]})
    assert found.shape == (1, SIDE, SIDE, 3)
    assert np.abs(found[0].astype(int) - wanted.numpy()).max() <= 1


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_it_answers_as_the_predictor(session: onnxruntime.InferenceSession, height: int, width: int) -> None:
    image = photograph(height, width)
    wanted = Predictor(network(), CLASSES, PADDING).probabilities([image])
    (found,) = session.run(["probabilities"], {"images": image[None]})
    assert found.argmax() == wanted.argmax()
    assert np.abs(found - wanted).max() < 0.01


def test_images_of_one_size_go_in_together(session: onnxruntime.InferenceSession) -> None:
    images = np.stack([photograph(90, 120), photograph(190, 120)[100:], photograph(90, 240)[:, 120:]])
    (together,) = session.run(None, {"images": images})
    alone = [session.run(None, {"images": image[None]})[0][0] for image in images]
    assert np.allclose(together, alone, atol=1e-6)
    assert len({*together.argmax(1).tolist(), *np.round(together.max(1), 3).tolist()}) > 2


def test_it_says_what_it_takes(session: onnxruntime.InferenceSession) -> None:
    (given,) = session.get_inputs()
    assert (given.name, given.type) == ("images", "tensor(uint8)")
    assert given.shape == ["batch", "height", "width", 3]
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["input"] == "uint8 RGB pixels, (N, height, width, 3), of any size: cut and resized inside"
    assert json.loads(metadata["classes"]) == list(CLASSES)


def test_random_images_are_of_several_sizes() -> None:
    arch = network().architecture
    shapes = {image.pixels.shape[:2] for image in drawn_whole_images(arch)}
    assert {height > width for height, width in shapes} == {True, False}
    assert any(max(shape) < SIDE for shape in shapes)
    assert any(min(shape) > SIDE for shape in shapes)


def test_an_old_opset_is_refused(file: Path) -> None:
    model = onnx.load(file)
    model.opset_import[0].version = 17
    with pytest.raises(RunFailedError, match="opset 17 cannot resize with antialias, which came with 18"):
        with_any_size(model, told())


@pytest.mark.slow
def test_the_command_writes_and_measures_it(tmp_path: Path) -> None:
    save_model(tmp_path / "model", network())
    options = ("--format", "onnx", "--with-preprocessing", "--any-size")
    done = run_effnet("export", "model", *options, "--out", "any.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "compared on 6 random images alone, the same answer for 100.00%" in done.stdout
    assert "whole images, cut and resized inside: probabilities differ by at most " in done.stdout
    (shape,) = (each.shape for each in onnxruntime.InferenceSession(tmp_path / "any.onnx").get_inputs())
    assert shape[1:3] == ["height", "width"]
