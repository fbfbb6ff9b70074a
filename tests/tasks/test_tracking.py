"""MLflow, really: an SQLite database and a folder. One run per training, each number once, no harm when it breaks."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from effnet.errors import StoppedError
from effnet.runs import RunFolder
from effnet.train import loop
from effnet.train.loop import Stop
from tasks.tracking import Tracker, flatten
from tests.train.test_loop import StopAt


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def make(tmp_path: Path, uri: str, warnings: list[str]):
    """Make a tracker as a new process would."""
    return lambda: Tracker(uri, "tiny", tmp_path / "artifacts", warnings.append)


def train(folder: RunFolder, stop: Stop | None = None) -> None:
    loop.train(folder, started=time.time(), stop=stop or Stop(), warn=print)


def runs(uri: str) -> list:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def history(uri: str, name: str = "minival_top1") -> list[tuple[int, float]]:
    client = MlflowClient(uri)
    (run,) = runs(uri)
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]


def test_a_finished_training_is_all_there(make, uri: str, warnings: list[str], run_folder: RunFolder) -> None:
    tracker = make()
    tracker.open_training(run_folder, "B0", {"phi": 0.0}, "member", None)
    train(run_folder)
    tracker.forward(run_folder)
    assert warnings == []
    (run,) = runs(uri)
    assert (run.info.run_name, run.info.status) == ("B0", "FINISHED")
    assert run.data.tags["effnet.key"] == run_folder.key
    assert run.data.params["phi"] == "0.0"
    assert run.data.params["recipe.epochs"] == "3"
    assert run.inputs.dataset_inputs[0].dataset.digest == run_folder.spec().dataset
    assert [step for step, _ in history(uri)] == [1, 2, 3]
    result = run_folder.result()
    assert result is not None
    assert run.data.metrics["best_minival_top1"] == result.top1
    assert run.data.metrics["macs"] == result.macs
    assert run.data.metrics["top1"] == result.top1
    assert run.data.tags["effnet.top1_of"] == "minival"
    assert f"{result.top1:.2%}" in run.data.tags["mlflow.note.content"]
    assert run.data.metrics["system/images_per_second"] > 0
    names = {item.path for item in MlflowClient(uri).list_artifacts(run.info.run_id)}
    assert names == {"architecture.json", "config.json", "metrics.jsonl", "model.safetensors", "result.json"}


def test_stopped_and_resumed_training_is_one_run_with_each_number_once(make, uri: str, run_folder: RunFolder) -> None:
    tracker = make()
    tracker.open_training(run_folder, "B0", {}, "member", None)
    with pytest.raises(StoppedError):
        train(run_folder, StopAt(40))
    tracker.forward(run_folder)
    tracker.pause(run_folder.key)
    assert runs(uri)[0].info.status == "KILLED"

    tracker = make()  # the next process
    tracker.open_training(run_folder, "B0", {}, "member", None)
    assert runs(uri)[0].info.status == "RUNNING"
    train(run_folder)
    tracker.forward(run_folder)
    tracker.forward(run_folder)
    assert runs(uri)[0].info.status == "FINISHED"
    assert [step for step, _ in history(uri)] == [1, 2, 3]


def test_batch_sent_twice_is_kept_once(make, uri: str, run_folder: RunFolder) -> None:
    tracker = make()
    tracker.open_training(run_folder, "B0", {}, "member", None)
    train(run_folder)
    tracker.forward(run_folder)
    (run_folder.path / "tracking.json").unlink()  # killed between sending and noting that it was sent
    make().forward(run_folder)
    for name in ("minival_top1", "best_minival_top1"):
        assert len(history(uri, name)) == len({step for step, _ in history(uri, name)})


def test_outage_is_told_once_and_made_up_for_later(make, uri: str, warnings: list[str], run_folder: RunFolder) -> None:
    tracker = Tracker("http://127.0.0.1:9", "tiny", None, warnings.append)  # nothing listens there
    assert tracker.open_family("k" * 16, "tiny", {}, {}, Path("datasets/d")) is None
    tracker.open_training(run_folder, "B0", {}, "member", None)
    train(run_folder)
    tracker.forward(run_folder)
    assert tracker.run_id(run_folder.key) is None
    assert len(warnings) == 1
    assert "the work goes on" in warnings[0]

    tracker = make()
    tracker.open_training(run_folder, "B0", {}, "member", None)
    tracker.forward(run_folder)
    assert [step for step, _ in history(uri)] == [1, 2, 3]
    assert len(warnings) == 1


def test_other_database_gets_everything_from_the_start(make, tmp_path: Path, run_folder: RunFolder) -> None:
    tracker = make()
    tracker.open_training(run_folder, "B0", {}, "member", None)
    train(run_folder)
    tracker.forward(run_folder)
    second = f"sqlite:///{tmp_path / 'second.db'}"
    tracker = Tracker(second, "tiny", tmp_path / "artifacts2", print)
    tracker.open_training(run_folder, "B0", {}, "member", None)
    tracker.forward(run_folder)
    assert [step for step, _ in history(second)] == [1, 2, 3]


def test_family_run_ends_and_is_not_written_again_for_nothing(make, uri: str, tmp_path: Path) -> None:
    figure = tmp_path / "accuracy.png"
    figure.write_bytes(b"picture")
    tracker = make()
    run_id = tracker.open_family("f" * 16, "tiny", {"a": {"b": 1}}, {"prefect.flow_run_id": "x"}, tmp_path / "d1")
    tracker.pause("f" * 16)
    assert MlflowClient(uri).get_run(run_id).info.status == "KILLED"
    tracker = make()
    assert (
        tracker.open_family("f" * 16, "tiny", {"a": {"b": 2}}, {"prefect.flow_run_id": "y"}, tmp_path / "d1") == run_id
    )
    tracker.close_family("f" * 16, {"best": 0.9}, "in words", [figure])
    first = MlflowClient(uri).get_run(run_id)
    assert (first.info.status, first.data.params["a.b"]) == ("FINISHED", "1")
    assert first.data.tags["prefect.flow_run_id"] == "y"
    assert first.data.tags["mlflow.note.content"] == "in words"
    assert [each.dataset.digest for each in first.inputs.dataset_inputs] == ["d1"]
    make().close_family("f" * 16, {"best": 0.9}, "in words", [figure])
    assert len(MlflowClient(uri).get_metric_history(run_id, "best")) == 1
    make().close_family("f" * 16, {"best": 0.95}, "in words", [figure])
    assert MlflowClient(uri).get_run(run_id).data.metrics["best"] == 0.95


def test_password_of_a_database_is_never_told(warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)  # MLflow tries for a minute and a half
    tracker = Tracker("postgresql://user:hunter2@127.0.0.1:1/none", "tiny", None, warnings.append)
    assert tracker.open_family("k" * 16, "tiny", {}, {}, Path("datasets/d")) is None
    assert len(warnings) == 1
    assert "hunter2" not in warnings[0]


def test_flatten_joins_keys() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": [1, 2]}) == {"a.b.c": 1, "d": [1, 2]}
    assert json.dumps(flatten({})) == "{}"
