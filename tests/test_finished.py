"""A finished build is known as one until anything that it rests on changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from effnet import finished
from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig
from effnet.finished import is_unchanged, note_finished
from effnet.runs import RunFolder, RunSpec, Start
from effnet.store import Store

KEY, DATASET = "b" * 16, "d" * 16


@pytest.fixture
def store(tmp_path: Path, baseline: Architecture, config: FamilyConfig) -> Store:
    """A store with a build that was noted as finished: one run, which started from weights elsewhere."""
    store, weights = Store(tmp_path / "store"), tmp_path / "elsewhere/weights.safetensors"
    folder = store.families / KEY
    for path in (
        weights,
        folder / "report.html",
        store.datasets / DATASET / "train-00000.tar",
        store.root / "mlflow.db",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("as it was")
    start = Start(path=str(weights), sha256="0" * 64)
    spec = RunSpec(architecture=baseline, dataset=DATASET, num_classes=10, recipe=config.recipe, start=start)
    run = RunFolder.create(store, spec)
    run.result_path.write_text("as it was")
    run.pace_path.write_text("as it was")
    note_finished(store, KEY, [DATASET], [run], [store.root / "mlflow.db"])
    return store


def test_unchanged_wherever_the_store_lies(store: Store, tmp_path: Path) -> None:
    assert is_unchanged(store, KEY)
    assert not is_unchanged(store, "c" * 16)
    next(store.runs.glob("*/pace.json")).write_text("it says nothing about the outcome")
    assert is_unchanged(store, KEY)
    moved = store.root.rename(tmp_path / "moved")
    assert is_unchanged(Store(moved), KEY)


def grow(path: Path) -> None:
    path.write_text("as it was, and more")


def touch(path: Path) -> None:
    os.utime(path, ns=(0, 0))


@pytest.mark.parametrize(
    "name",
    [
        "store/families/*/report.html",
        "store/datasets/*/*.tar",
        "store/mlflow.db",
        "store/runs/*/result.json",
        "elsewhere/*",
    ],
)
@pytest.mark.parametrize("change", [grow, touch, Path.unlink])
def test_any_change_is_seen(store: Store, tmp_path: Path, name: str, change: Callable[[Path], None]) -> None:
    (path,) = tmp_path.glob(name)
    change(path)
    assert not is_unchanged(store, KEY)


def test_other_weights_that_are_added_are_seen(store: Store, tmp_path: Path) -> None:
    (tmp_path / "elsewhere/better.safetensors").write_text("new")
    assert not is_unchanged(store, KEY)


def test_another_version_of_effnet_looks_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished, "_code", lambda: "another")
    assert not is_unchanged(store, KEY)
