"""Suspected label errors: against the paper's definition, and on real images with labels changed on purpose."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import threadpoolctl
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig, FolderSource
from effnet.data.shards.index import Index
from effnet.data.shards.manifest import INDEX
from effnet.data.shards.write import write_shards
from effnet.errors import ConfigError, DataError
from effnet.evaluation.suspects import suspects
from effnet.runs import RunFolder, RunSpec
from effnet.store import Store
from effnet.train.loop import Stop, train
from flows.cli.main import cli

WRONG = 0.05  # share of labels that are changed
CHANGED = "changed"  # in the name of an image whose label was


def change(truth: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the labels of ten classes with a share of them changed to any other class, and which images those are."""
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(truth), round(WRONG * len(truth)), replace=False)
    labels = truth.copy()
    labels[chosen] = (truth[chosen] + rng.integers(1, 10, len(chosen))) % 10
    return labels, chosen


def test_suspects_and_their_order_by_hand() -> None:
    rows = [  # thresholds of 0 to 2: (0.9 + 0.1) / 2 = 0.5, (0.5 + 0.6 + 0.1 + 0.4) / 4 = 0.4, (0.4 + 0.4) / 2 = 0.4
        ([0.90, 0.05, 0.05, 0.00], 0),
        ([0.10, 0.80, 0.10, 0.00], 0),  # 1 instead, by a margin of 0.7
        ([0.50, 0.50, 0.00, 0.00], 1),  # both reached and equal: the label stands
        ([0.30, 0.60, 0.10, 0.00], 1),
        ([0.45, 0.10, 0.40, 0.05], 1),  # 0 is more probable, but below its threshold: 2, by 0.3
        ([0.52, 0.40, 0.08, 0.00], 1),  # 1 is reached too, 0 is more probable: by 0.12
        ([0.10, 0.10, 0.40, 0.40], 2),  # nothing is labelled 3
        ([0.49, 0.11, 0.40, 0.00], 2),  # most probably 0, but below its threshold
    ]
    probabilities, labels = (np.array(column) for column in zip(*rows, strict=True))
    assert suspects(probabilities, labels) == [(1, 0, 1, 0.1, 0.8), (4, 1, 2, 0.1, 0.4), (5, 1, 0, 0.4, 0.52)]


def off_diagonal(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[int, int]:
    """Return the images off the diagonal of the confident joint and their classes, literally as in section 3.1."""
    outputs = range(probabilities.shape[1])
    means = {j: float(probabilities[labels == j, j].astype(np.float64).mean()) for j in outputs if j in labels}
    found = {}
    for image, (row, label) in enumerate(zip(probabilities, labels, strict=True)):
        reached = [j for j in outputs if j in means and row[j] >= means[j]]
        if reached and (best := max(reached, key=lambda j: row[j])) != label:
            found[image] = best
    return found


@pytest.mark.parametrize("seed", range(5))
def test_suspects_are_the_papers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, 400)
    probabilities = rng.dirichlet(np.full(7, 0.3), 400).astype(np.float32)  # the last class has no images
    found = suspects(probabilities, labels)
    assert len(found) > 50
    assert {each.image: each.suggested for each in found} == off_diagonal(probabilities, labels)
    margins = [float(probabilities[n, suggested]) - float(probabilities[n, label]) for n, label, suggested, *_ in found]
    assert margins == sorted(margins, reverse=True)


def test_changed_labels_of_digits_are_found_as_documented() -> None:
    images, truth = sklearn.datasets.load_digits(return_X_y=True)
    labels, changed = change(truth)
    with threadpoolctl.threadpool_limits(1):
        model = LogisticRegression(max_iter=1000)
        outputs = cross_val_predict(model, images / 16, labels, cv=5, method="predict_proba")
    found = suspects(outputs.astype(np.float32), labels)
    right = [each for each in found if each.image in set(changed.tolist())]
    assert (len(truth), len(changed)) == (1797, 90)
    assert len(found) == pytest.approx(79, abs=3)  # the documentation's figures; other versions may differ a little
    assert len(right) == pytest.approx(69, abs=3)
    assert np.mean([each.suggested == truth[each.image] for each in right]) > 0.8


def trained(store: Store, source: FolderSource, baseline: Architecture, config: FamilyConfig) -> RunFolder:
    manifest, _ = write_shards(config.data.model_copy(update={"source": source}), store.datasets)
    spec = RunSpec(
        architecture=baseline, dataset=manifest.digest, num_classes=len(manifest.classes), recipe=config.recipe
    )
    folder = RunFolder.create(store, spec)
    train(folder, started=time.time(), stop=Stop(), warn=print)
    return folder


def write(folder: Path, pixels: NDArray[np.float64], label: int, name: str) -> None:
    path = folder / str(label) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels.reshape(8, 8) * 15).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, baseline: Architecture, config: FamilyConfig) -> RunFolder:
    """A run of three epochs on digits of which some labels, in all splits, were changed."""
    home = tmp_path_factory.mktemp("changed")
    images, truth = sklearn.datasets.load_digits(return_X_y=True)
    labels, changed = change(truth)
    wrong = set(changed.tolist())
    for n, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        write(home / "digits", pixels, label, f"{CHANGED if n in wrong else 'kept'}{n}")
    return trained(Store(home / "store"), FolderSource(kind="folder", train=str(home / "digits")), baseline, config)


def call(*arguments: str | Path) -> str:
    done = CliRunner().invoke(cli, ["data", "suspects", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def contents(root: Path) -> dict[Path, bytes]:
    """Return the files of a store's datasets and runs; pixels that are kept elsewhere do not count."""
    found = [path for kind in ("datasets", "runs") for path in (root / kind).rglob("*")]
    return {path: path.read_bytes() for path in found if path.is_file()}


def keys_of(run: RunFolder, split: str) -> list[str]:
    index = Index.read(run.store.datasets / run.spec().dataset / INDEX, split)
    return index.keys.to_pylist()  # type: ignore[no-any-return]


def test_changed_labels_lead_the_list_of_a_run(run: RunFolder, tmp_path: Path) -> None:
    before = contents(run.store.root)
    told = call(run.path, "--out", tmp_path / "suspects.csv")
    rows = list(csv.DictReader((tmp_path / "suspects.csv").open()))
    held_out = {split: keys_of(run, split) for split in ("minival", "val")}
    images = sum(len(keys) for keys in held_out.values())
    assert told == (
        f"suspected label errors: {len(rows)} of {images} images of minival and val\n{tmp_path / 'suspects.csv'}\n"
    )
    wrong = sum(CHANGED in key for keys in held_out.values() for key in keys)
    assert (images, wrong) == (768, 39)
    assert len(rows) == pytest.approx(38, abs=6)  # the documentation's figures; roundings differ between machines
    assert sum(CHANGED in row["image"] for row in rows) == pytest.approx(25, abs=4)  # 2 by chance
    assert {row["split"] for row in rows} == set(held_out)
    for row in rows:
        assert row["image"] in held_out[row["split"]]
        assert row["image"].startswith(f"{row['label']}_")
        assert row["suggested"] != row["label"]
    margins = [float(row["suggested_probability"]) - float(row["label_probability"]) for row in rows]
    assert margins == pytest.approx(sorted(margins, reverse=True))
    call(run.key, "--store", run.store.root, "--out", tmp_path / "val.json", "--split", "val")
    alone = json.loads((tmp_path / "val.json").read_text())
    assert alone
    assert {row["split"] for row in alone} == {"val"}
    assert contents(run.store.root) == before


def test_what_cannot_be_looked_at_is_one_line(
    run: RunFolder, run_folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(error: type[Exception], told: str, *arguments: str | Path) -> None:
        with pytest.raises(error, match=told) as caught:
            call(*arguments, *(() if "--out" in arguments else ("--out", tmp_path / "a.csv")))
        assert "\n" not in str(caught.value)

    refused(
        ConfigError,
        "^train: the run was trained on these images and .* take minival or val",
        run.path,
        "--split",
        "train",
    )
    refused(DataError, "not finished.*train it first", run_folder.path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(run.weights_path.read_bytes())
    refused(ConfigError, r"model\.safetensors: not a run", weights)
    assert not (tmp_path / "a.csv").exists()
    (tmp_path / "folder.csv").mkdir()
    refused(ConfigError, r"folder\.csv: is a directory", run.path, "--out", tmp_path / "folder.csv")

    def unused(*_: object) -> None:
        raise AssertionError("looked at images before it knew where to write")

    monkeypatch.setattr("effnet.evaluation.run.suspects_of", unused)
    refused(ConfigError, r"ends in \.csv or \.json", run.path, "--out", tmp_path / "a.txt")
    refused(ConfigError, "there is no folder", run.path, "--out", tmp_path / "no" / "a.csv")


def test_images_of_one_class_have_none_to_be_mistaken_for(
    tmp_path: Path, baseline: Architecture, config: FamilyConfig
) -> None:
    images, truth = sklearn.datasets.load_digits(n_class=2, return_X_y=True)
    for n, (pixels, label) in enumerate(zip(images[:80], truth[:80], strict=True)):
        write(tmp_path / ("val" if n >= 60 and label == 0 else "train"), pixels, label, str(n))
    source = FolderSource(kind="folder", train=str(tmp_path / "train"), val=str(tmp_path / "val"))
    run = trained(Store(tmp_path / "store"), source, baseline, config)
    call(run.path, "--out", tmp_path / "a.csv")  # minival has both
    with pytest.raises(DataError, match="the images of val are of one class; there is none to mistake it for"):
        call(run.path, "--split", "val", "--out", tmp_path / "b.csv")
    assert not (tmp_path / "b.csv").exists()
