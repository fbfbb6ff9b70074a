"""A member as people use it: images of any size in, class names and probabilities out. Needs no MLflow.

It is read from a folder of tensors and JSON: no code in a model is run. tasks.records.serving hands it to MLflow.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from effnet.data.images.decode import center_box, cut, resize_into
from effnet.errors import ConfigError, DataError
from effnet.evaluation.flips import Flipped
from effnet.evaluation.images import pixels_of
from effnet.models.build import Network
from effnet.models.deployed import network_input
from effnet.models.weights import WEIGHTS, load_model, save_architecture, save_model
from effnet.runs import RunFolder
from effnet.store import publish

CLASSES = "predictor.json"
BATCH = 64
DEFAULT_TOP = 5


class Predictor:
    """A network with its preprocessing and its class names.

    Args:
        network: in evaluation mode, on the device to compute on.
        class_names: one per output.
        crop_padding: of the central crop, as in the evaluation (Augment.crop_padding).
        flips: average the probabilities of each image and its mirror image; twice the work.
        named: False if nobody knows the classes' names, and class_names are their numbers.
    """

    def __init__(
        self,
        network: Network,
        class_names: Sequence[str],
        crop_padding: int | None,
        *,
        flips: bool = False,
        named: bool = True,
    ) -> None:
        if len(class_names) != network.classifier.out_features:
            raise DataError(f"{len(class_names)} class names for {network.classifier.out_features} outputs")
        self.network, self.class_names, self.crop_padding = network, tuple(class_names), crop_padding
        self.named = named
        self._judge = Flipped(network) if flips else network

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return for every image its class, how probable it is, and the `top` most probable classes.

        Args:
            images: as effnet.evaluation.images takes them: pixels, files' bytes, base64 text, alone or in a table.
            params: `top`: how many classes to list.

        Raises:
            ConfigError: in one line, if the images are anything else.
        """
        top = (params or {}).get("top", DEFAULT_TOP)
        if not isinstance(top, int | np.integer) or top < 1:
            raise ConfigError(f"top: expected a whole number of at least 1, got {top!r}")
        top = min(int(top), len(self.class_names))
        return [self._say(row, top) for row in self.probabilities(images)]

    @torch.inference_mode()
    def probabilities(self, images: Any) -> NDArray[np.float32]:
        """Return float32 (N, classes), rows adding to 1, for images as in `predict`."""
        pixels = pixels_of(images)
        found = [self._batch(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
        return np.concatenate(found) if found else np.empty((0, len(self.class_names)), np.float32)

    def _batch(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        side = self.network.architecture.resolution
        rows = torch.empty(len(images), side, side, 3, dtype=torch.uint8)
        for row, image in zip(rows, images, strict=True):
            box = center_box(image.shape[1], image.shape[0], side, self.crop_padding)
            resize_into(row, np.ascontiguousarray(cut(image, box)))
        return self.judge(rows.numpy())

    @torch.inference_mode()
    def judge(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 (N, classes), rows adding to 1, for (N, side, side, 3) pixels of the network's side."""
        images = torch.from_numpy(pixels).to(self.network.classifier.weight.device)
        logits = self._judge(network_input(images, self.network.architecture))
        return logits.softmax(1).cpu().numpy()  # type: ignore[no-any-return]

    def best(self, row: NDArray[np.float32], top: int) -> tuple[list[str], list[float]]:
        """Return the most probable classes of an image's probabilities, (classes,), and how probable each is."""
        order = np.argsort(-row, kind="stable")[:top]
        return [self.class_names[index] for index in order], [float(row[index]) for index in order]

    def _say(self, row: NDArray[np.float32], top: int) -> dict[str, Any]:
        names, shares = self.best(row, top)
        return {"label": names[0], "probability": shares[0], "labels": names, "probabilities": shares}


def open_predictor(folder: str | Path) -> Predictor:
    """Return the predictor of a finished run's folder, or of a model folder.

    Classes that nothing is known of are called by their numbers.

    Raises:
        ConfigError: if the folder is neither.
        DataError: if the run is not finished, or its weights or its class names are broken.
    """
    from effnet.evaluation.classes import classes_of_model, classes_of_run

    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(
            f"{folder}: no folder of a run or a model; a weights file alone does not say which network it is"
        )
    if (folder / CLASSES).is_file():
        return load_predictor(folder)
    run = RunFolder(folder) if (folder / "config.json").is_file() else None
    known = classes_of_run(run) if run else classes_of_model(folder)
    if run and not run.result_path.is_file():
        raise DataError(run.unfinished())
    network = load_model(folder)
    padding = run.spec().recipe.augment.crop_padding if run else None
    return _with_names(network, known.names or known.ids, padding)


def _with_names(network: Network, names: Sequence[str] | None, crop_padding: int | None) -> Predictor:
    """Return a predictor whose classes are called so, or by their numbers if nobody knows."""
    numbers = [str(number) for number in range(network.classifier.out_features)]
    return Predictor(network, numbers if names is None else names, crop_padding, named=names is not None)


def save_predictor(folder: Path, network: Network, class_names: Sequence[str] | None, crop_padding: int | None) -> None:
    """Write a model folder with all that a Predictor needs: tensors and JSON; names are None if nobody knows them."""
    save_model(folder, network)
    _save_classes(folder, class_names, crop_padding)


def copy_predictor(folder: Path, run: RunFolder, class_names: Sequence[str]) -> None:
    """Write a finished run's model folder: its own weights to the byte, with all else that a Predictor needs."""
    from effnet.evaluation.run import checked_weights

    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(checked_weights(run), folder / WEIGHTS)
    spec = run.spec()
    save_architecture(folder, spec.architecture)
    _save_classes(folder, class_names, spec.recipe.augment.crop_padding)


def _save_classes(folder: Path, class_names: Sequence[str] | None, crop_padding: int | None) -> None:
    content = {"classes": None if class_names is None else list(class_names), "crop_padding": crop_padding}
    publish(folder / CLASSES, json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")


def load_predictor(folder: Path) -> Predictor:
    """Read what `save_predictor` wrote; raise DataError if it is broken."""
    try:
        content = json.loads((folder / CLASSES).read_bytes())
        class_names, padding = content["classes"], content["crop_padding"]
        class_names = None if class_names is None else [str(name) for name in class_names]
        padding = None if padding is None else int(padding)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / CLASSES}: not a list of class names ({error})") from error
    network = load_model(folder, None if class_names is None else len(class_names))
    return _with_names(network, class_names, padding)


def _load_pyfunc(path: str) -> Predictor:
    """Load a model for mlflow.pyfunc that was registered before effnet had a serving module."""
    return load_predictor(Path(path))
