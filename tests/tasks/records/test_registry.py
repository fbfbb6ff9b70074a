"""Members in MLflow's registry: loaded and served as users would, with candidate and champion."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
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
from effnet.data.shards.index import Index
from effnet.data.shards.manifest import Manifest
from effnet.data.shards.write import write_shards
from effnet.evaluation.predictor import save_predictor
from effnet.evaluation.run import evaluate_run
from effnet.hits import run_hits
from effnet.models.build import build as build_network
from effnet.process import say
from effnet.stages import Stage
from effnet.store import Store
from effnet.train.loop import Stop, train
from tasks.build import Build, Training
from tasks.records.registry import Registered, _process_uri
from tasks.records.tracking import Tracker
from tasks.register import register_members
from tasks.terminal.screen import Screen
from tests.docs.printed import blocks
from tests.tiny import VAL, clean_environment

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)


@pytest.fixture
def told() -> list[str]:
    """What was said to the user."""
    return []


@pytest.fixture(autouse=True)
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was told to Prefect, which would start a server of its own to hear it."""
    sent: list[str] = []
    monkeypatch.setattr("tasks.events.emit_event", lambda event, *_, **__: sent.append(event))
    return sent


@pytest.fixture
def build(
    config: FamilyConfig,
    baseline: Architecture,
    manifest: Manifest,
    store: Store,
    tmp_path: Path,
    told: list[str],
    empty_database: Path,
) -> Build:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "tiny", tmp_path / "artifacts", told.append)
    screen = Screen()
    screen.say = screen.warn = told.append  # type: ignore[method-assign]
    return Build(config, baseline, manifest, store, tracker, screen, tmp_path, "0" * 16)


def member(build: Build, seed: int = 0, epochs: int = 1) -> Training:
    """Train and evaluate a member."""
    recipe = build.config.recipe.model_copy(update={"epochs": epochs})
    training = build.training(Stage.MEMBER, "B0", build.baseline, recipe, {"phi": 0.0}, seed=seed)
    build.tracker.open_training(training.folder, training.about)
    train(training.folder, started=time.time(), stop=Stop(), warn=say)
    evaluate_run(training.folder)
    build.tracker.forward(training.folder)
    return training


def register(build: Build, training: Training, best: str | None = None) -> Registered:
    found = register_members.fn(build, {training.name: training}, best)
    assert not build.tracker.broken
    return found[0]


def test_registered_once_loaded_and_served(
    build: Build, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = member(build)
    first = register(build, training)
    assert (first.name, str(first.version), first.new, first.champion) == ("tiny-b0", "1", True, True)
    again = register(build, training)
    assert not again.new
    assert again.champion
    assert first.standing == again.standing
    assert first.standing.told == "tiny-b0 version 1 is champion: the first of its name"
    client = MlflowClient(build.tracker.uri)
    assert len(client.search_model_versions("name = 'tiny-b0'")) == 1
    version = client.get_model_version_by_alias("tiny-b0", "champion")
    evaluation = training.folder.evaluation()
    assert evaluation is not None
    assert float(version.tags["top1"]) == round(evaluation.top1, 4)
    for part in ("**Data.**", "**Training.**", "**Limits.**", "Licence of the images: not stated"):
        assert part in version.description

    shown = client.get_logged_model(version.source[8:])
    numbers = {metric.key: metric.value for metric in shown.metrics}
    run = client.get_run(shown.source_run_id).data
    assert numbers == {name: run.metrics[name] for name in numbers}
    assert numbers.keys() >= {"top1", "latency_ms", "params", "macs", "train_hours"}
    assert {metric.dataset_digest for metric in shown.metrics} == {manifest.digest}
    sort = [{"field_name": "metrics.top1", "ascending": False}]
    assert client.search_logged_models([shown.experiment_id], order_by=sort)[0].model_id == shown.model_id
    assert len(client.get_metric_history(shown.source_run_id, "top1")) == 1  # in the run it is there once
    assert json.loads(shown.tags["mlflow.modelVersions"])[0]["name"] == "tiny-b0"

    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", build.tracker.uri)
    mlflow.set_tracking_uri(build.tracker.uri)
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
    (tmp_path / "photo.png").write_bytes(png(IMAGES[0]))
    monkeypatch.chdir(tmp_path)
    example = version.description.partition("```python\n")[2].partition("```")[0]
    example = example.replace("http://127.0.0.1:5000", mlflow.get_tracking_uri())
    exec(example.replace("model.predict", "found = model.predict"), printed := {})  # noqa: S102 - as it is printed
    assert printed["found"][0]["label"] == answers[0]["label"]
    told = served_as_documented(tmp_path)
    assert told["pixels"] == pytest.approx([answer["probability"] for answer in answers], abs=1e-5)
    assert told["curl"] == pytest.approx([answers[0]["probability"]], abs=1e-5)
    assert told["table"] == told["curl"]
    assert told["python"] == pytest.approx(told["curl"], abs=1e-5)
    assert told["refused"] == (400, "image 0: text that is not an image file in base64")


def test_best_moves_to_the_member_to_use(build: Build, told: list[str]) -> None:
    one, two = member(build), member(build, seed=1)
    client = MlflowClient(build.tracker.uri)

    def aliases() -> dict[str, dict[str, str]]:
        return {model.name: model.aliases for model in client.search_registered_models()}

    for best, where in (("B1", "tiny-b1"), ("B0", "tiny-b0"), ("B0", "tiny-b0"), (None, "tiny-b0")):
        register_members.fn(build, {"B0": one, "B1": two}, best, "size pays")
        assert [name for name, found in aliases().items() if "best" in found] == [where]
        tags = {name: client.get_model_version(name, "1").tags for name in ("tiny-b0", "tiny-b1")}
        assert [name for name in tags if tags[name].get("effnet.because") == "size pays"] == [where]
    assert aliases()["tiny-b0"]["best"] == aliases()["tiny-b0"]["candidate"]
    for model in client.search_logged_models([build.tracker.experiment_id or ""]):
        client.delete_logged_model(model.model_id)  # as a person may, on MLflow's page
    told.clear()
    register_members.fn(build, {"B0": one, "B1": two}, "B0", "size pays")
    assert not build.tracker.missed, told
    again = member(build, seed=2)
    register_members.fn(build, {"B0": again, "B1": two}, "B0", "another")
    because = {number: client.get_model_version("tiny-b0", number).tags.get("effnet.because") for number in ("1", "2")}
    assert because == {"1": None, "2": "another"}
    register_members.fn(build, {"B1": two}, "B1")  # B0 is no member any more
    register_members.fn(build, {"B1": two}, "B0")  # and cannot be the one to use
    assert [name for name, found in aliases().items() if "best" in found] == ["tiny-b1"]
    assert "registry: models:/tiny-b1@best is the member to use" in told


@pytest.mark.parametrize("module", ["tasks.serving", "effnet.evaluation.predictor"])
def test_models_that_earlier_versions_registered_are_loaded(
    tmp_path: Path, baseline: Architecture, module: str
) -> None:
    import mlflow

    network = build_network(baseline, num_classes=10, seed=0)
    save_predictor(tmp_path / "data", network, [str(digit) for digit in range(10)], None)
    data, model = str(tmp_path / "data"), str(tmp_path / "model")
    mlflow.pyfunc.save_model(model, loader_module=module, data_path=data, pip_requirements=["effnet"])
    assert len(mlflow.pyfunc.load_model(model).predict(list(IMAGES))) == len(IMAGES)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def served_as_documented(folder: Path) -> dict[str, Any]:
    """Run docs/records.md's two shell blocks as they are printed, in a folder as they suppose it; and ask for more."""
    text = (Path(__file__).parents[3] / "docs/records.md").read_text()
    serve, curl = [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "5001" in block]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    serve, curl = (block.replace("mnist-b3", "tiny-b0").replace("5001", port) for block in (serve, curl))
    os.symlink(Path(sys.executable).parent.parent, folder / ".venv")
    (folder / ".effnet").mkdir()
    os.symlink(folder / "mlflow.db", folder / ".effnet/mlflow.db")
    (folder / "photo.png").write_bytes(png(IMAGES[0]))
    environment = clean_environment() | {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[3])}
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
        (client,) = blocks("docs/using.md", "python")
        code = client.text.replace("5001", port).replace("photo.jpg", "photo.png")
        said = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        encoded = base64.b64encode(png(IMAGES[0])).decode()
        status, answer = post(port, {"inputs": ["no image!"]})
        return {
            "curl": [row["probability"] for row in json.loads(done.stdout)["predictions"]],
            "python": json.loads(said.stdout.partition("] ")[2])[:1],  # labels, probabilities
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


def test_the_gate_decides_on_the_same_images_and_by_no_tag(build: Build, events: list[str]) -> None:
    register(build, member(build))
    client = MlflowClient(build.tracker.uri)
    client.set_model_version_tag("tiny-b0", "1", "top1", "0.01")  # what it had on another day's val decides nothing
    other = register(build, member(build, seed=1))
    assert other.new
    assert not other.champion  # trained alike: no better than noise
    assert (other.standing.version, other.standing.champion) == ("2", "1")
    assert other.standing.told.startswith(
        "tiny-b0 version 2 is not champion, version 1 is: within noise and not cheaper"
    )
    assert "within noise and not cheaper" in other.reason
    assert f"on the same {VAL} images" in other.reason
    model = client.get_registered_model("tiny-b0")
    assert str(model.aliases["candidate"]) == "2"
    assert str(model.aliases["champion"]) == "1"
    better = member(build, seed=2, epochs=4)
    won = register(build, better)
    assert won.champion
    assert won.standing.champion == won.version
    assert won.reason.startswith("better")
    assert set(events) == {"effnet.champion.changed"}
    model = client.get_registered_model("tiny-b0")
    assert str(model.aliases["champion"]) == "3"
    assert model.tags["effnet.reference"] == "3"
    client.set_registered_model_alias("tiny-b0", "champion", "1")  # by a person, who has a reason
    again = register(build, better)
    assert not again.champion
    assert again.reason == "was champion until version 1 took over"
    assert str(client.get_registered_model("tiny-b0").aliases["champion"]) == "1"
    client.delete_registered_model_alias("tiny-b0", "champion")  # by hand: the best that was one counts still
    worse = register(build, member(build, seed=3, epochs=1))
    assert not worse.champion
    assert worse.reason.startswith("worse: there is no champion; 3, the best one so far,")
    assert client.get_registered_model("tiny-b0").tags["effnet.reference"] == "3"


@pytest.mark.slow
def test_a_champion_of_another_dataset_is_scored_on_todays_val(
    build: Build, manifest: Manifest, told: list[str], tmp_path: Path
) -> None:
    first = member(build, epochs=4)
    register(build, first)
    shutil.rmtree(first.folder.path)  # MLflow alone has it now
    data = build.config.data.model_copy(update={"seed": 5})
    datasets = tmp_path / "other" / "datasets"
    other, _ = write_shards(data, datasets)
    assert other.digest != manifest.digest
    (datasets / manifest.digest).symlink_to(build.store.datasets / manifest.digest)
    elsewhere = replace(build, store=Store(tmp_path / "other"), manifest=other)
    weak = member(elsewhere)
    found = register(elsewhere, weak)
    assert not found.champion
    assert found.reason.startswith("worse: ")
    assert f"on the same {other.samples['val']} images" in found.reason
    scored = [line for line in told if "is scored on today's val" in line]
    assert len(scored) == 1
    assert register(elsewhere, weak).reason == found.reason
    assert [line for line in told if "is scored on today's val" in line] == scored  # its hits were kept
    strong = member(elsewhere, seed=1, epochs=6)
    hits, champion = run_hits(strong.folder, "val"), evaluated_by_hand(elsewhere, other)
    assert hits is not None
    reason = register(elsewhere, strong).reason
    assert f"top-1 {hits.mean():.2%} against {champion:.2%}" in reason


def evaluated_by_hand(build: Build, manifest: Manifest) -> float:
    """Return the champion's share of right answers, image by image through the served model."""
    import mlflow

    mlflow.set_tracking_uri(build.tracker.uri)
    model = mlflow.pyfunc.load_model("models:/tiny-b0@champion")
    index = Index.read(build.store.datasets / manifest.digest / "index.parquet", "val")
    images = (Image.open(io.BytesIO(data)) for data in encoded(build.store.datasets / manifest.digest, index))
    answers = model.predict(np.stack([np.asarray(image.convert("RGB")) for image in images]))
    labels = [manifest.class_names[label] for label in index.labels]
    return sum(a["label"] == label for a, label in zip(answers, labels, strict=True)) / len(labels)


def encoded(dataset: Path, index: Index) -> list[bytes]:
    shards = [(dataset / name).read_bytes() for name in index.shard_names]
    places = zip(index.shards, index.offsets, index.lengths, strict=True)
    return [shards[shard][offset : offset + length] for shard, offset, length in places]


def test_a_champion_that_lacks_classes_is_named_as_not_comparable(
    build: Build, manifest: Manifest, told: list[str]
) -> None:
    register(build, member(build))
    client = MlflowClient(build.tracker.uri)
    client.delete_model_version_tag("tiny-b0", "1", "dataset")
    version = client.get_model_version("tiny-b0", "1")
    client.delete_model_version_tag("tiny-b0", "1", "effnet.weights")
    model = next(build.tracker.artifacts.rglob("classes.json"))
    model.write_text(json.dumps({"classes": ["zero", *manifest.classes[1:]]}))
    (model.parent / "predictor.json").unlink()
    found = register(build, member(build, seed=1))
    assert not found.champion
    assert "not comparable: the champion, version 1" in found.reason
    assert "does not have 1 of its 10 classes (0)" in found.reason
    assert "set_registered_model_alias('tiny-b0', 'champion', '2')" in found.reason
    assert any("not comparable" in line for line in told)
    assert version.version == client.get_registered_model("tiny-b0").aliases["champion"]


def test_an_alias_set_by_hand_is_evaluated_or_named(build: Build, told: list[str], tmp_path: Path) -> None:
    first = member(build)
    register(build, first)
    client = MlflowClient(build.tracker.uri)
    source = client.get_model_version("tiny-b0", "1").source
    with _process_uri(build.tracker.uri):
        mine = client.create_model_version("tiny-b0", source=source)  # ours, without our tags
    client.set_registered_model_alias("tiny-b0", "champion", mine.version)
    second = member(build, seed=1)
    found = register(build, second)
    evaluation = first.folder.evaluated()
    assert f"against {evaluation.top1:.2%} on the same {VAL} images" in found.reason

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "model.pkl").write_bytes(b"not ours")
    with _process_uri(build.tracker.uri):
        theirs = client.create_model_version("tiny-b0", source=foreign.as_uri())
    client.set_registered_model_alias("tiny-b0", "champion", theirs.version)
    found = register(build, second)
    assert not found.champion
    assert f"version {theirs.version}, cannot be scored" in found.reason
    assert "not a model of effnet" in found.reason
    assert not any("MLflow at" in line for line in told)
    assert not build.tracker.broken


def test_a_broken_mlflow_stops_nothing(build: Build, tmp_path: Path) -> None:
    training = member(build)
    broken = Tracker(f"sqlite:///{tmp_path}/no/such/folder.db", "tiny", None, lambda line: told.append(line))
    told: list[str] = []
    assert register_members.fn(replace(build, tracker=broken), {training.name: training}, None) == []
    assert len(told) == 1
    assert "the work goes on" in told[0]
