"""A family that trains in seconds, and the command as a user runs it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from effnet.order import Order
from effnet.runs import About, RunFolder
from effnet.stages import Stage
from effnet.store import Store
from effnet.train.loop import Stop
from tests import forked

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


TRAIN, MINIVAL, VAL = 1062, 378, 357  # images of its splits


class StopAt(Stop):
    """Asks to stop when it has been looked at so many times."""

    def __init__(self, looks: int) -> None:
        self._looks, self._reason = looks, None

    @property
    def reason(self) -> str | None:  # type: ignore[override]
        self._looks -= 1
        return "asked to stop" if self._looks < 0 else None


def write_tiny(folder: Path, config: str = CONFIG) -> Path:
    """Write the tiny family's files; return the config's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny-baseline.yaml").write_text(BASELINE)
    path = folder / "tiny.yaml"
    path.write_text(config)
    return path


def take_over(trained: RunFolder, folder: RunFolder) -> None:
    """Let a run that is not trained yet be as another one of the same key is."""
    assert folder.key == trained.key
    shutil.copytree(trained.path, folder.path, dirs_exist_ok=True)


def store_beside(other: Store, root: Path) -> Store:
    """Return a store at `root` with another's datasets, and nothing else."""
    root.mkdir(exist_ok=True)
    os.symlink(other.datasets, root / "datasets")
    return Store(root)


def run_effnet(*arguments: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the effnet command to its end: in a forked process (tests.forked), or with `env` in a new interpreter."""
    words = list(map(str, arguments))
    if not env:
        found = forked.run("flows.cli", words, str(cwd), clean_environment(), timeout=400)
        return subprocess.CompletedProcess(words, *found)
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *words],
        cwd=cwd,
        env=clean_environment() | env,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def clean_environment() -> dict[str, str]:
    """Return an environment without the tester's own Prefect and MLflow settings, with this installation's commands."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    return kept | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])}


def shown(number: float) -> float:
    """Return a top-1 as MLflow has it."""
    return round(number, 4)


def users_of(folder: Path) -> list[psutil.Process]:
    """Return the other processes that use a folder: whose working folder is in it, or that have a file in it open."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            paths = [process.cwd(), *(file.path for file in process.open_files())]
            if process.pid != os.getpid() and any(Path(path).is_relative_to(folder) for path in paths):
                found.append(process)
    return found


def order_of(folder: RunFolder, ranks: int = 1) -> str:
    """Return the order to train a run folder, as JSON."""
    order = Order(name="run", action="train", store=str(folder.store.root), runs=(folder.key,), ranks=ranks)
    return order.model_dump_json()


def child_of(folder: RunFolder, ranks: int = 1) -> list[str]:
    """Return the command of the process that trains a run folder."""
    return [sys.executable, "-P", "-m", "effnet.child", order_of(folder, ranks)]


def named(name: str, *, kind: Stage = Stage.MEMBER, family: str = "f" * 16, **labels: float) -> About:
    """Return the description (name, stage, labels) of a run of the family `tiny`."""
    return About(experiment="tiny", name=name, kind=kind, labels=labels, family=family)
