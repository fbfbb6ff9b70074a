"""Suspected label errors: against the paper's definition, and on real images with labels changed on purpose."""

from __future__ import annotations

import csv
import errno
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


def test_equal_margins_keep_the_images_order() -> None:
    rows = [([0.875, 0.125], 0), ([0.25, 0.75], 1)] * 3  # thresholds 0.5 and 0.75
    rows += [([0.25, 0.75], 0), ([0.75, 0.25], 0), ([0.125, 0.875], 0), ([0.25, 0.75], 0)]
    probabilities, labels = (np.array(column) for column in zip(*rows, strict=True))
    assert [each.image for each in suspects(probabilities, labels)] == [8, 6, 9]


def test_a_threshold_is_reached_at_equality() -> None:
    rows = [([0.625, 0.375], 0), ([0.75, 0.25], 1), ([0.75, 0.25], 1), ([0.875, 0.125], 0)]  # 0.75 and 0.25
    probabilities, labels = (np.array(column) for column in zip(*rows, strict=True))
    found = suspects(probabilities, labels)
    assert [(each.image, each.label, each.suggested) for each in found] == [(1, 1, 0), (2, 1, 0), (0, 0, 1)]


def test_a_class_that_is_never_predicted_and_one_without_images() -> None:
    rows = [  # thresholds: 0.7, 0.2 of a class that is nowhere the most probable; no image is labelled 2
        ([0.60, 0.15, 0.25], 0),
        ([0.80, 0.20, 0.00], 0),
        ([0.75, 0.25, 0.00], 1),  # both reached, 0 is more probable
        ([0.45, 0.15, 0.40], 1),  # none reached: 2 has no threshold
        ([0.10, 0.20, 0.70], 1),  # 1 alone
        ([0.65, 0.35, 0.00], 0),  # 1 alone, though 0 is more probable: 1, by a margin below zero
        ([0.75, 0.20, 0.05], 1),
    ]
    probabilities, labels = (np.array(column) for column in zip(*rows, strict=True))
    found = suspects(probabilities, labels)
    assert [(each.image, each.suggested) for each in found] == [(6, 0), (2, 0), (5, 1)]


def test_none_are_found_where_a_network_is_sure_of_every_label() -> None:
    assert suspects(np.eye(3, dtype=np.float32), np.arange(3)) == []


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
    told = call(run.path, "--out", tmp_path / "suspects.csv").splitlines()
    text = (tmp_path / "suspects.csv").read_text()
    assert text.splitlines()[0] == "split,file,image,label,suggested,label_probability,suggested_probability"
    rows = list(csv.DictReader(text.splitlines()))
    held_out = {split: keys_of(run, split) for split in ("minival", "val")}
    images = sum(len(keys) for keys in held_out.values())
    assert told[0] == f"suspected label errors: {len(rows)} of {images} images of minival and val; the 10 surest:"
    assert told[-1] == f"{tmp_path / 'suspects.csv'}: written"
    for line, row in zip(told[1:-1], rows[:10], strict=True):
        sure = f"{float(row['suggested_probability']):.1%} against {float(row['label_probability']):.1%}"
        assert line.split("  ")[1] == row["file"]
        assert line.endswith(f"  labelled {row['label']}, looks like {row['suggested']} ({sure})")
    wrong = sum(CHANGED in key for keys in held_out.values() for key in keys)
    assert (images, wrong) == (768, 39)
    assert len(rows) == pytest.approx(38, abs=6)  # the documentation's figures; roundings differ between machines
    assert sum(CHANGED in row["image"] for row in rows) == pytest.approx(25, abs=4)  # 2 by chance
    assert {row["split"] for row in rows} == set(held_out)
    for row in rows:
        assert row["image"] in held_out[row["split"]]
        assert row["image"].startswith(f"{row['label']}_")
        assert Path(row["file"]).is_file()
        assert Path(row["file"]).parts[-2] == row["label"]
        assert Path(row["file"]).stem in row["image"]
        assert row["suggested"] != row["label"]
    margins = [float(row["suggested_probability"]) - float(row["label_probability"]) for row in rows]
    assert margins == pytest.approx(sorted(margins, reverse=True))
    call(run.key, "--store", run.store.root, "--out", tmp_path / "val.json", "--split", "val")
    alone = json.loads((tmp_path / "val.json").read_text())
    assert alone
    assert {row["split"] for row in alone} == {"val"}
    assert list(alone[0]) == list(rows[0])
    assert contents(run.store.root) == before


def test_a_file_that_was_there_is_replaced_and_that_is_said(run: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "suspects.csv"
    out.write_text("mine")
    told = call(run.path, "--out", out, "--split", "minival")
    assert told.endswith(f"{out}: written in place of the earlier one\n")
    assert out.read_text().startswith("split,")


def test_files_are_found_below_where_one_is_or_beside_the_store_or_images_go_by_their_keys(
    tmp_path: Path, baseline: Architecture, config: FamilyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, truth = sklearn.datasets.load_digits(n_class=3, return_X_y=True)
    home = tmp_path / "home"
    for n, (pixels, label) in enumerate(zip(images[:150], truth[:150], strict=True)):
        write(home / "digits", pixels, (label + (n % 9 == 0)) % 3, f"a b{n}")
    monkeypatch.chdir(home)
    run = trained(Store(home / "store"), FolderSource(kind="folder", train="digits"), baseline, config)

    def rows() -> list[dict[str, str]]:
        told = call(run.path, "--out", tmp_path / "a.csv").splitlines()
        found = list(csv.DictReader((tmp_path / "a.csv").open()))
        assert found
        assert [line.split("  ")[1] for line in told[1 : 1 + len(found[:10])]] == [
            row["file"] or row["image"] for row in found[:10]
        ]
        return found

    here = rows()
    assert all(row["file"].startswith(f"digits/{row['label']}/a b") for row in here)
    monkeypatch.chdir(tmp_path)
    assert [row["file"] for row in rows()] == [str(home / row["file"]) for row in here]
    (tmp_path / "digits/0").mkdir(parents=True)  # another folder of that name
    (tmp_path / "digits/0/other.png").write_bytes(Path(home / here[0]["file"]).read_bytes())
    assert [row["file"] for row in rows()] == [str(home / row["file"]) for row in here]
    manifest = run.store.datasets / run.spec().dataset / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"class_names": ["nought", "one", "two"]}))
    told = call(run.path, "--out", tmp_path / "a.csv").splitlines()[1]  # what people call the classes
    names = dict(zip("012", ("nought", "one", "two"), strict=True))
    assert f"  labelled {names[here[0]['label']]}, looks like {names[here[0]['suggested']]} (" in told
    (home / "digits").rename(tmp_path / "away")
    assert [(row["file"], row["image"]) for row in rows()] == [("", row["image"]) for row in here]


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
    refused(DataError, f"run {run_folder.key} is not finished: start it again with", run_folder.path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(run.weights_path.read_bytes())
    refused(ConfigError, r"model\.safetensors: not a run.*effnet runs", weights)
    assert not (tmp_path / "a.csv").exists()
    (tmp_path / "folder.csv").mkdir()
    real = "effnet.evaluation.run.suspects_of"

    def no_room(*_: object) -> object:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("flows.cli.tables.publish", no_room)
        refused(ConfigError, r"full\.csv: no space left on device", run.path, "--out", tmp_path / "full.csv")

    def unused(*_: object) -> None:
        raise AssertionError("looked at images before it knew where to write")

    monkeypatch.setattr(real, unused)
    refused(ConfigError, r"folder\.csv: a folder, a pipe or", run.path, "--out", tmp_path / "folder.csv")
    with monkeypatch.context() as patched:
        patched.setattr("flows.cli.tables.try_folder", no_room)
        refused(ConfigError, r"b\.csv: cannot be written: no space", run.path, "--out", tmp_path / "b.csv")
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
