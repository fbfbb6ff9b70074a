"""A dataset's classes among a network's: by id, in whatever order, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effnet.arch.spec import Architecture
from effnet.config import Augment, DataConfig, FolderSource
from effnet.data.shards.manifest import Manifest
from effnet.data.shards.write import write_shards
from effnet.errors import ConfigError
from effnet.evaluation.classes import Known, classes_of_model, match_classes, save_class_ids
from effnet.evaluation.run import evaluate_weights
from effnet.models.build import Network, build
from effnet.models.weights import save_model
from effnet.store import Store
from tests.tiny import run_effnet

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def images(folder: Path, names: dict[str, str], number: int = 8) -> Manifest:
    """Write a dataset of plainly coloured images; `names` gives every class a colour."""
    for name, colour in names.items():
        (folder / "train" / name).mkdir(parents=True)
        for image in range(number):
            Image.new("RGB", (8 + image, 8), COLOURS[colour]).save(folder / "train" / name / f"{name}{image}.png")
    config = DataConfig(source=FolderSource(kind="folder", train="train"), minival=0.25, val=0.4)
    manifest, _ = write_shards(config, folder / "datasets", base=folder)
    return manifest


def eye(baseline: Architecture, order: list[str]) -> Network:
    """Return a network that knows the three colours, its outputs in this order."""
    network = build(baseline, 3, seed=0).eval()
    colours = torch.tensor([COLOURS[name] for name in order], dtype=torch.float32)

    class Eye(torch.nn.Module):
        out_features = 3

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features @ (colours / 255 - 0.5).T

    network.stem, network.blocks, network.head = torch.nn.Identity(), torch.nn.ModuleList(), torch.nn.Identity()
    network.classifier = Eye()  # type: ignore[assignment]
    return network


def score(network: Network, folder: Path, manifest: Manifest, known: Known) -> tuple[float, str]:
    dataset = folder / "datasets" / manifest.digest
    augment = Augment(crop_padding=0)
    found, hits = evaluate_weights(network, dataset, "val", key="k", augment=augment, cache=None, known=known)
    assert hits.mean() == found.top1
    return found.top1, found.matched


def test_the_same_classes_in_another_order_are_matched_by_id(baseline: Architecture, tmp_path: Path) -> None:
    manifest = images(tmp_path, {"blue": "blue", "green": "green", "red": "red"})
    network = eye(baseline, ["red", "green", "blue"])  # as its training data sorted them
    top1, told = score(network, tmp_path, manifest, Known(("red", "green", "blue")))
    assert top1 == 1.0  # by position: green alone
    assert told == "all 3 classes matched by id; the dataset has them in another order"
    top1, told = score(network, tmp_path, manifest, Known(names=("red", "green", "blue")))
    assert (top1, told) == (1.0, "all 3 classes matched by name; the dataset has them in another order")


def test_some_of_the_classes_are_mapped_and_named(baseline: Architecture, tmp_path: Path) -> None:
    manifest = images(tmp_path, {"blue": "blue", "red": "red"})
    network = eye(baseline, ["red", "green", "blue"])
    top1, told = score(network, tmp_path, manifest, Known(("red", "green", "blue")))
    assert (top1, told) == (1.0, "2 of the network's 3 classes, matched by id: blue, red")


def test_classes_that_the_network_lacks_are_named(tmp_path: Path) -> None:
    manifest = images(tmp_path, {"blue": "blue", "violet": "red", "red": "red"})
    with pytest.raises(ConfigError, match=r"does not have 1 of its 3 classes \(violet\)"):
        match_classes(Known(("red", "green", "blue")), 3, manifest, "photos")


def test_without_any_names_it_goes_by_position_and_says_so(tmp_path: Path) -> None:
    manifest = images(tmp_path, {"blue": "blue", "red": "red"})
    found = match_classes(Known(), 2, manifest, "photos")
    assert found.outputs.tolist() == [0, 1]
    assert "by position" in found.told
    with pytest.raises(ConfigError, match="the network has 5 classes, photos has 2, and nothing says which"):
        match_classes(Known(), 5, manifest, "photos")


def test_names_that_repeat_match_nothing() -> None:
    manifest = Manifest.model_construct(classes=("n1", "n2"), class_names=("crane", "crane"))
    found = match_classes(Known(("n2", "n1"), ("crane", "crane")), 2, manifest, "photos")
    assert found.outputs.tolist() == [1, 0]
    with pytest.raises(ConfigError, match="nothing says which"):
        match_classes(Known(names=("crane", "crane", "gull")), 3, manifest, "photos")


@pytest.mark.slow
def test_the_command_matches_a_model_folders_ids(
    baseline: Architecture, dataset_store: Store, manifest: Manifest, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    save_model(model, build(baseline, 10, seed=0))
    save_class_ids(model, manifest)
    assert classes_of_model(model).ids == manifest.classes
    data = dataset_store.datasets / manifest.digest
    straight = json.loads(run_effnet("evaluate", model, "--data", data, "--json", cwd=tmp_path).stdout)
    (model / "classes.json").write_text(json.dumps({"classes": manifest.classes[::-1]}))
    done = run_effnet("evaluate", model, "--data", data, "--json", cwd=tmp_path)
    turned = json.loads(done.stdout)
    assert "classes: all 10 classes matched by id; the dataset has them in another order" in done.stderr
    table = np.zeros((10, 10), int)
    for label, found, number in straight["confusion"]:
        table[label, found] = number
    assert turned["top1"] == pytest.approx(np.fliplr(table).trace() / table.sum())
    (model / "classes.json").write_text(json.dumps({"classes": ["zero", *manifest.classes[1:]]}))
    done = run_effnet("evaluate", model, "--data", data, cwd=tmp_path)
    assert done.returncode == 2
    assert "does not have 1 of its 10 classes (0)" in done.stderr
