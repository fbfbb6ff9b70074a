"""What several tests need: a family that trains in seconds, and its dataset."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig, load_baseline, load_config
from effnet.data.shards import Manifest, write_shards
from effnet.runs import RunFolder, RunSpec
from effnet.store import Store

BASELINE = """\
name: tiny
resolution: 8
channel_multiple: 2
norm_momentum: 0.1
stochastic_depth: 0.1
stem: {channels: 8, stride: 1}
stages:
  - {channels: 8, repeats: 1, kernel: 3, stride: 2, expand_ratio: 2, se_ratio: 0.25}
  - {channels: 12, repeats: 2, kernel: 3, stride: 2, expand_ratio: 4, se_ratio: 0.25}
head: {channels: 32, dropout: 0.1}
"""

CONFIG = """\
family: tiny
store: store
data:
  source: {kind: digits, image_size: 8}
  minival: 0.2
  val: 0.2
  shard_samples: 400
baseline: tiny-baseline.yaml
resolution_multiple: 2
fit: {step: 0.2, maximum: 1.4, tolerance: 0.2, max_candidates: 2, epochs: 1}
members: {phi: [0, 1, 2], dropout: [0.1, 0.2]}
recipe:
  epochs: 3
  batch_size: 32
  learning_rate: 0.06
  ema_decay: 0.9
  augment: {crop_area: [0.7, 1.0], flip: false, crop_padding: 0}
  checkpoint_every: 10
"""


def write_tiny(folder: Path, config: str = CONFIG) -> Path:
    """Write the tiny family's files; return the config's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny-baseline.yaml").write_text(BASELINE)
    path = folder / "tiny.yaml"
    path.write_text(config)
    return path


def run_effnet(*arguments: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the effnet command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)],
        cwd=cwd,
        env=clean_environment() | env,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def clean_environment() -> dict[str, str]:
    """Return an environment without the tester's own Prefect and MLflow settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}


@pytest.fixture(scope="session")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session")
def config(config_path: Path) -> FamilyConfig:
    return load_config(config_path)


@pytest.fixture(scope="session")
def baseline(config: FamilyConfig, config_path: Path) -> Architecture:
    return load_baseline(config, config_path)


@pytest.fixture(scope="session")
def dataset_store(config: FamilyConfig, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that holds the tiny family's dataset; tests only read it."""
    store = Store(tmp_path_factory.mktemp("dataset-store"))
    write_shards(config.data, store.datasets)
    return store


@pytest.fixture(scope="session")
def manifest(config: FamilyConfig, dataset_store: Store) -> Manifest:
    manifest, _ = write_shards(config.data, dataset_store.datasets)
    return manifest


@pytest.fixture
def store(tmp_path: Path, dataset_store: Store) -> Store:
    """A store of its own, with the tiny family's dataset."""
    store = Store(tmp_path / "store")
    store.root.mkdir()
    os.symlink(dataset_store.datasets, store.datasets)
    return store


@pytest.fixture
def run_folder(store: Store, baseline: Architecture, config: FamilyConfig, manifest: Manifest) -> RunFolder:
    """A run that is not trained yet."""
    return RunFolder.create(
        store,
        RunSpec(architecture=baseline, dataset=manifest.digest, num_classes=10, recipe=config.recipe),
    )
