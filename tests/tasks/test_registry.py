"""Members in MLflow's registry: loaded and served as users would, with candidate and champion."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig
from effnet.data.manifest import Manifest
from effnet.evaluation.run import evaluate_run
from effnet.process import say
from effnet.store import Store
from effnet.train.loop import Stop, train
from tasks.registry import Registered, register_members
from tasks.screen import Screen
from tasks.tracking import Tracker
from tasks.training import Unit, Work, make_unit

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)


@pytest.fixture
def work(config: FamilyConfig, baseline: Architecture, store: Store, tmp_path: Path) -> Work:
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "tiny", tmp_path / "artifacts", say)
    return Work(config, baseline, store, tmp_path, tracker, Screen(), key="0" * 16)


def member(work: Work, manifest: Manifest, seed: int = 0) -> Unit:
    """Train and evaluate a member."""
    recipe = work.config.recipe.model_copy(update={"epochs": 1})
    unit = make_unit(work, manifest, "B0", work.baseline, recipe, {"phi": 0.0}, seed=seed)
    work.tracker.open_training(unit.folder, unit.name, unit.labels, "member", None)
    train(unit.folder, started=time.time(), stop=Stop(), warn=say)
    evaluate_run(unit.folder)
    work.tracker.forward(unit.folder)
    return unit


def register(work: Work, manifest: Manifest, unit: Unit) -> Registered:
    (found,) = register_members.fn(work, manifest, [unit])
    return found


def test_registered_once_loaded_and_served(
    work: Work, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = member(work, manifest)
    first = register(work, manifest, unit)
    assert (first.name, str(first.version), first.new, first.champion) == ("tiny-b0", "1", True, True)
    again = register(work, manifest, unit)
    assert not again.new
    assert again.champion
    client = MlflowClient(work.tracker.uri)
    assert len(client.search_model_versions("name = 'tiny-b0'")) == 1
    version = client.get_model_version_by_alias("tiny-b0", "champion")
    evaluation = unit.folder.evaluation()
    assert evaluation is not None
    assert float(version.tags["top1"]) == pytest.approx(evaluation.top1, abs=1e-6)
    for part in ("**Data.**", "**Training.**", "**Limits.**", "Licence of the images: not stated"):
        assert part in version.description

    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", work.tracker.uri)
    mlflow.set_tracking_uri(work.tracker.uri)
    model = mlflow.pyfunc.load_model("models:/tiny-b0@champion")
    assert model.metadata.signature is not None
    answers = model.predict(IMAGES)
    assert len(answers) == 3
    assert all(answer["label"] in manifest.class_names and 0 < answer["probability"] <= 1 for answer in answers)
    assert len(model.predict(IMAGES[:1], params={"top": 2})[0]["labels"]) == 2
    assert version.source.startswith("models:/m-")
    files = {item.path for item in client.list_logged_model_artifacts(version.source[8:], "data/member")}
    assert files >= {f"data/member/{name}" for name in ("model.safetensors", "architecture.json", "README.md")}
    assert served(work.tracker.uri, tmp_path) == pytest.approx([answer["probability"] for answer in answers], abs=1e-5)


def served(uri: str, folder: Path) -> list[float]:
    """Return what `mlflow models serve` answers over HTTP."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", "models:/tiny-b0@champion"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it looks for uvicorn there
    command += ["--env-manager", "local", "--port", str(port), "--host", "127.0.0.1"]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=os.environ | {"MLFLOW_TRACKING_URI": uri, "PATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2)
                break
            except OSError:
                assert time.monotonic() < deadline, (folder / "serve.log").read_text()
                time.sleep(0.3)
        body = json.dumps({"inputs": IMAGES.tolist()}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return [row["probability"] for row in json.loads(answer.read())["predictions"]]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_gate_decides_on_the_champion(work: Work, manifest: Manifest) -> None:
    register(work, manifest, member(work, manifest))
    client = MlflowClient(work.tracker.uri)
    other = register(work, manifest, member(work, manifest, seed=1))
    assert other.new
    assert not other.champion  # trained alike: no better than noise
    assert "noise" in other.reason
    model = client.get_registered_model("tiny-b0")
    assert str(model.aliases["candidate"]) == "2"
    assert str(model.aliases["champion"]) == "1"
    client.set_model_version_tag("tiny-b0", "1", "top1", "0.01")  # a champion that is worse by far
    won = register(work, manifest, member(work, manifest, seed=2))
    assert won.champion
    assert won.reason.startswith("better")
    assert str(client.get_registered_model("tiny-b0").aliases["champion"]) == "3"


def test_a_broken_mlflow_stops_nothing(work: Work, manifest: Manifest, tmp_path: Path) -> None:
    unit = member(work, manifest)
    broken = Tracker(f"sqlite:///{tmp_path}/no/such/folder.db", "tiny", None, lambda line: told.append(line))
    told: list[str] = []
    from dataclasses import replace

    assert register_members.fn(replace(work, tracker=broken), manifest, [unit]) == []
    assert len(told) == 1
    assert "the work goes on" in told[0]
