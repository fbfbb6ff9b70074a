"""Members in MLflow's registry: loaded and served as users would, with candidate and champion."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from PIL import Image

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
from tests.tiny import clean_environment

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
    tables = [
        pd.DataFrame({"image": column}) for column in ([png(IMAGES[0])], [base64.b64encode(png(IMAGES[0])).decode()])
    ]
    for other in (list(IMAGES[:1]), [png(IMAGES[0])], *tables):
        assert model.predict(other)[0]["probability"] == pytest.approx(answers[0]["probability"], abs=1e-6)
    with pytest.raises(MlflowException, match=r"^image 0: expected whole numbers"):
        model.predict(IMAGES / 255)
    told = served_as_documented(tmp_path)
    assert told["pixels"] == pytest.approx([answer["probability"] for answer in answers], abs=1e-5)
    assert told["curl"] == pytest.approx([answers[0]["probability"]], abs=1e-5)
    assert told["table"] == told["curl"]
    assert told["refused"] == (400, "image 0: text that is no base64 of an image file")


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def served_as_documented(folder: Path) -> dict[str, Any]:
    """Run docs/records.md's two shell blocks as they are printed, in a folder as they suppose it; and ask for more."""
    text = (Path(__file__).parents[2] / "docs/records.md").read_text()
    serve, curl = [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "5001" in block]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    serve, curl = (block.replace("digits-b3", "tiny-b0").replace("5001", port) for block in (serve, curl))
    os.symlink(Path(sys.executable).parent.parent, folder / ".venv")
    (folder / ".effnet").mkdir()
    os.symlink(folder / "mlflow.db", folder / ".effnet/mlflow.db")
    (folder / "photo.png").write_bytes(png(IMAGES[0]))
    environment = clean_environment() | {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])}
    with (folder / "serve.log").open("wb") as log:
        options = {"cwd": folder, "env": environment, "start_new_session": True}
        process = subprocess.Popen(["sh", "-c", serve], stdout=log, stderr=log, **options)
    try:
        deadline = time.monotonic() + 240
        while not answers(port):
            assert process.poll() is None, (folder / "serve.log").read_text()
            assert time.monotonic() < deadline, (folder / "serve.log").read_text()
            time.sleep(0.3)
        done = subprocess.run(["sh", "-c", curl], cwd=folder, env=environment, capture_output=True, check=True)
        encoded = base64.b64encode(png(IMAGES[0])).decode()
        status, answer = post(port, {"inputs": ["no image!"]})
        return {
            "curl": [row["probability"] for row in json.loads(done.stdout)["predictions"]],
            "pixels": [row["probability"] for row in post(port, {"inputs": IMAGES.tolist()})[1]["predictions"]],
            "table": [
                row["probability"]
                for row in post(port, {"dataframe_split": {"columns": ["image"], "data": [[encoded]]}})[1][
                    "predictions"
                ]
            ],
            "refused": (status, answer["message"].partition(" (")[0]),
        }
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port: str) -> bool:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2).status == 200
    except OSError:
        return False


def post(port: str, body: dict[str, Any]) -> tuple[int, Any]:
    address, kind = f"http://127.0.0.1:{port}/invocations", {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(address, json.dumps(body).encode(), kind), timeout=60
        ) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


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
