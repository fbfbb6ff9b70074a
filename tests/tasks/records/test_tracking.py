"""MLflow, really: an SQLite database and a folder. One run per training, each number once, no harm when it breaks."""

from __future__ import annotations

import json
import math
import os
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from effnet.errors import StoppedError
from effnet.evaluation.run import evaluate_run
from effnet.runs import About, RunFolder, read_journal
from effnet.stages import Stage
from effnet.train import loop
from effnet.train.loop import Stop
from tasks.records import breaker
from tasks.records.sync import sync
from tasks.records.tracking import SENT, Tracker, flatten, rounded
from tests.tiny import named, shown, take_over
from tests.train.test_loop import StopAt


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def uri(tmp_path: Path, empty_database: Path) -> str:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
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


@pytest.mark.parametrize(
    ("name", "number", "logged"),
    [
        ("val_top1", 0.98879551, 0.9888),
        ("val_top1_features_alone", 0.00003, 0.00003),  # nothing becomes 0
        ("top5", 1.0, 1.0),
        ("latency_ms", 12.34567, 12.35),
        ("train_hours", 0.00944444, 0.0094),
        ("val_loss", 0.0312345678, 0.031235),
        ("macs", 123_456_789, 123_456_789),
        ("val_loss", math.inf, math.inf),
    ],
)
def test_final_numbers_are_rounded_for_people(name: str, number: float, logged: float) -> None:
    assert rounded(name, number) == logged


def test_a_training_that_is_no_longer_alone_is_told_from_the_others(make, uri: str, run_folder: RunFolder) -> None:
    client = MlflowClient(uri)

    def build(name: str) -> tuple[str, str | None]:
        run_folder.describe(named(name))
        tracker = make()
        tracker.open_training(run_folder, named(name))
        tracker.forward(run_folder)
        about = run_folder.about()
        return runs(uri)[0].info.run_name, about and about.name

    run_folder.path.joinpath("lock").touch()  # it has begun
    assert build("B0") == ("B0", "B0")
    assert build("B0 seed 0") == ("B0 seed 0", "B0 seed 0")
    assert build("B0") == ("B0", "B0")
    assert build("B0 fold 1 seed 0") == ("B0 fold 1 seed 0",) * 2
    assert build("B1") == ("B0 fold 1 seed 0",) * 2  # rounding may make equals: the first name stays
    client.update_run(runs(uri)[0].info.run_id, name="my favourite")
    assert build("B0") == ("my favourite", "B0")


def twice(uri: str) -> list:
    """Return what has more than one value at a step, of which MLflow shows the largest."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        rows = "select run_uuid, key, step from metrics group by run_uuid, key, step having count(distinct value) > 1"
        return database.execute(rows).fetchall()


def files(uri: str) -> set[str]:
    (run,) = [run for run in runs(uri) if run.data.tags["effnet.kind"] != "family"]
    return {item.path for item in MlflowClient(uri).list_artifacts(run.info.run_id)}


def test_a_finished_training_is_all_there(make, uri: str, warnings: list[str], run_folder: RunFolder) -> None:
    tracker = make()
    tracker.open_training(run_folder, named("B0", phi=0.0))
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
    assert run.data.metrics["best_minival_top1"] == shown(result.top1)
    assert run.data.metrics["macs"] == result.macs
    assert "top1" not in run.data.metrics  # a member's is of val: it comes with the evaluation
    assert f"{result.top1:.2%}" in run.data.tags["mlflow.note.content"]
    assert run.data.metrics["system/images_per_second"] > 0
    names = {item.path for item in MlflowClient(uri).list_artifacts(run.info.run_id)}
    assert names == {"architecture.json", "config.json", "metrics.jsonl", "model.safetensors", "result.json"}


def test_stopped_and_resumed_training_is_one_run_with_each_number_once(make, uri: str, run_folder: RunFolder) -> None:
    tracker = make()
    tracker.open_training(run_folder, named("B0"))
    with pytest.raises(StoppedError):
        train(run_folder, StopAt(40))
    tracker.forward(run_folder)
    tracker.pause(run_folder.key)
    assert runs(uri)[0].info.status == "KILLED"

    tracker = make()  # the next process
    tracker.open_training(run_folder, named("B0"))
    assert runs(uri)[0].info.status == "RUNNING"
    train(run_folder)
    tracker.forward(run_folder)
    tracker.forward(run_folder)
    assert runs(uri)[0].info.status == "FINISHED"
    assert [step for step, _ in history(uri)] == [1, 2, 3]


def test_a_runs_time_is_its_trainings(make, uri: str, run_folder: RunFolder) -> None:
    tracker = make()
    tracker.open_training(run_folder, named("B0"))
    assert runs(uri) == []  # it waits for its turn
    time.sleep(3)
    before = time.time()
    train(run_folder)
    tracker.forward(run_folder)
    (run,) = runs(uri)
    assert before - 0.1 <= run.info.start_time / 1000 <= before + 1
    assert run.info.end_time == round(read_journal(run_folder.metrics_path)[0][-1]["time"] * 1000)


def test_a_run_in_its_first_epoch_began_when_its_process_did(make, uri: str, run_folder: RunFolder) -> None:
    tracker = make()
    tracker.open_training(run_folder, named("B0"))
    tracker.forward(run_folder)
    assert runs(uri) == []
    (run_folder.path / "lock").touch()
    os.utime(run_folder.path / "lock", (1_790_000_000, 1_790_000_000))
    tracker.forward(run_folder)
    (run,) = runs(uri)
    assert (run.info.start_time, run.info.status) == (1_790_000_000_000, "RUNNING")


def test_top1_is_vals_whichever_is_larger(make, uri: str, run_folder: RunFolder, trained: RunFolder) -> None:
    tracker = make()
    tracker.open_training(run_folder, named("B0"))
    take_over(trained, run_folder)
    tracker.forward(run_folder)
    evaluate_run(run_folder)
    result, evaluation = run_folder.trained(), run_folder.evaluated()
    for top1 in (evaluation.top1, result.top1 / 2, (1 + result.top1) / 2):  # as it is, below and above minival's
        changed = evaluation.model_copy(update={"top1": top1})
        run_folder.evaluation_path.write_text(changed.model_dump_json())
        make().forward(run_folder)
        (run,) = runs(uri)
        assert (run.data.metrics["top1"], run.data.tags["effnet.top1_of"]) == (shown(top1), "val")
        assert run.data.metrics["best_minival_top1"] == shown(result.top1)
        assert history(uri, "top1")[-1] == (len(history(uri, "top1")) - 1, shown(top1))
        client = MlflowClient(uri)
        better = client.search_runs([run.info.experiment_id], f"metrics.top1 > {shown(top1) + 1e-9}")
        assert not better  # the search sees the same number
    assert history(uri, "top1")[0][1] == shown(evaluation.top1)
    assert twice(uri) == []


def test_run_that_nobody_evaluates_has_minivals_top1(make, uri: str, run_folder: RunFolder, trained: RunFolder) -> None:
    tracker = make()
    tracker.open_training(run_folder, named("fit α1.2", kind=Stage.FIT))
    take_over(trained, run_folder)
    tracker.forward(run_folder)
    (run,) = runs(uri)
    assert run.data.metrics["top1"] == shown(run_folder.trained().top1)
    assert run.data.tags["effnet.top1_of"] == "minival"


def test_batch_sent_twice_is_kept_once(make, uri: str, run_folder: RunFolder, trained: RunFolder) -> None:
    tracker = make()
    tracker.open_training(run_folder, named("B0"))
    take_over(trained, run_folder)
    tracker.forward(run_folder)
    (run,) = runs(uri)
    MlflowClient(uri).delete_tag(run.info.run_id, "effnet.sent")  # killed between sending and noting that it was sent
    make().forward(run_folder)
    assert twice(uri) == []


def test_epoch_that_a_training_repeats_is_sent_once(make, uri: str, run_folder: RunFolder, trained: RunFolder) -> None:
    tracker = make()
    tracker.open_training(run_folder, named("B0"))
    take_over(trained, run_folder)
    whole = run_folder.metrics_path.read_text().splitlines(keepends=True)
    run_folder.metrics_path.write_text("".join(whole[:2]))
    tracker.forward(run_folder)
    again = [json.dumps(json.loads(line) | {"time": time.time(), "images_per_second": 1.0}) + "\n" for line in whole]
    run_folder.metrics_path.write_text("".join(whole[:1] + again[1:]))  # killed before the second epoch's checkpoint
    tracker.forward(run_folder)
    assert [step for step, _ in history(uri)] == [1, 2, 3]
    assert twice(uri) == []


def test_replaced_database_is_sent_everything_again(
    make, uri: str, empty_database: Path, tmp_path: Path, run_folder: RunFolder, trained: RunFolder
) -> None:
    about = About(experiment="tiny", name="B0", kind="member", labels={}, family="f" * 16)
    run_folder.describe(about)
    tracker = make()
    tracker.open_family("f" * 16, "tiny", {}, {}, tmp_path / "d1")
    tracker.open_training(run_folder, named("B0"))
    take_over(trained, run_folder)
    evaluate_run(run_folder)
    tracker.forward(run_folder)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    shutil.rmtree(tmp_path / "artifacts")
    assert sync(run_folder.store, uri, print) == (1, 0, 0)
    (run,) = runs(uri)
    assert run.data.metrics["top1"] == shown(run_folder.evaluated().top1)
    assert [step for step, _ in history(uri)] == [1, 2, 3]
    assert files(uri) >= {"config.json", "architecture.json", "model.safetensors", "evaluation.json"}
    parent = make().open_family("f" * 16, "tiny", {}, {}, tmp_path / "d1")
    make().open_training(run_folder, named("B0"))  # as the family does when it runs again
    assert MlflowClient(uri).get_run(run.info.run_id).data.tags["mlflow.parentRunId"] == parent


def test_sync_looks_at_what_is_there(uri: str, tmp_path: Path, run_folder: RunFolder, trained: RunFolder) -> None:
    run_folder.describe(About(experiment="tiny", name="B0", kind="member", labels={}, family="f" * 16))
    take_over(trained, run_folder)
    assert sync(run_folder.store, uri, print).runs == 1
    (run,) = runs(uri)
    root = Path(run.info.artifact_uri.removeprefix("file://"))
    (root / "config.json").unlink()
    (root / "model.safetensors").write_bytes(b"half")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("delete from metrics where key = 'minival_top1' and step = 2")
        for table in ("metrics", "latest_metrics"):
            database.execute(f"delete from {table} where key = 'params'")  # noqa: S608
    assert sync(run_folder.store, uri, print).runs == 1
    assert (root / "config.json").exists()
    assert (root / "model.safetensors").read_bytes() == run_folder.weights_path.read_bytes()
    assert sorted(step for step, _ in history(uri)) == [1, 2, 3]
    assert "params" in runs(uri)[0].data.metrics
    assert twice(uri) == []


def test_outage_is_told_once_and_made_up_for_later(
    make, uri: str, warnings: list[str], run_folder: RunFolder, trained: RunFolder
) -> None:
    tracker = Tracker("http://127.0.0.1:9", "tiny", None, warnings.append)  # nothing listens there
    assert tracker.open_family("k" * 16, "tiny", {}, {}, Path("datasets/d")) is None
    tracker.open_training(run_folder, named("B0"))
    take_over(trained, run_folder)
    tracker.forward(run_folder)
    assert tracker.run_id(run_folder.key) is None
    assert len(warnings) == 1
    assert "the work goes on" in warnings[0]

    tracker = make()
    tracker.open_training(run_folder, named("B0"))
    tracker.forward(run_folder)
    assert [step for step, _ in history(uri)] == [1, 2, 3]
    assert len(warnings) == 1


def test_same_process_sends_all_when_mlflow_is_back(
    empty_database: Path, tmp_path: Path, run_folder: RunFolder, trained: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)  # MLflow tries for a minute and a half
    monkeypatch.setattr(breaker, "RETRY_SECONDS", 0.3)
    run_folder.describe(About(experiment="tiny", name="B0", kind="member", labels={"phi": 0.0}, family="f" * 16))
    told: list[str] = []
    uri = f"sqlite:///{tmp_path / 'away' / 'mlflow.db'}"
    (tmp_path / "away").write_text("not a folder yet")
    tracker = Tracker(uri, "tiny", tmp_path / "artifacts", told.append)
    assert tracker.open_family("f" * 16, "tiny", {}, {}, tmp_path / "d1") is None
    tracker.open_training(run_folder, named("B0", phi=0.0))
    take_over(trained, run_folder)
    tracker.forward(run_folder)
    (tmp_path / "here").mkdir()
    shutil.copy(empty_database, tmp_path / "here" / "mlflow.db")
    (tmp_path / "link").symlink_to("here")
    (tmp_path / "link").replace(tmp_path / "away")  # at once: the probe would make the folder itself
    deadline = time.monotonic() + 60
    while tracker.run_id(run_folder.key) is None and time.monotonic() < deadline:
        tracker.forward(run_folder)
        time.sleep(0.05)
    tracker.close_family("f" * 16, {"top1": 0.5}, "note", [])
    assert ("failed" in told[0], "back" in told[-1]) == (True, True)
    child, parent = sorted(runs(uri), key=lambda run: run.data.tags["effnet.kind"], reverse=True)
    assert (child.data.params["phi"], child.data.tags["mlflow.parentRunId"]) == ("0.0", parent.info.run_id)
    assert (child.info.status, parent.info.status, parent.data.metrics["top1"]) == ("FINISHED", "FINISHED", 0.5)


def test_other_database_gets_everything_from_the_start(
    make, empty_database: Path, tmp_path: Path, run_folder: RunFolder, trained: RunFolder
) -> None:
    tracker = make()
    tracker.open_training(run_folder, named("B0"))
    take_over(trained, run_folder)
    tracker.forward(run_folder)
    shutil.copy(empty_database, tmp_path / "second.db")
    second = f"sqlite:///{tmp_path / 'second.db'}"
    tracker = Tracker(second, "tiny", tmp_path / "artifacts2", print)
    tracker.open_training(run_folder, named("B0"))
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
    later = make()  # a run that finds nothing to do
    later.open_family("f" * 16, "tiny", {}, {"prefect.flow_run_id": "z"}, tmp_path / "d1")
    later.close_family("f" * 16, {"best": 0.9}, "in words", [figure])
    tags = MlflowClient(uri).get_run(run_id).data.tags
    assert (tags["prefect.flow_run_id"], tags["prefect.flow_run_id.last"]) == ("y", "z")
    assert len(MlflowClient(uri).get_metric_history(run_id, "best")) == 1
    make().close_family("f" * 16, {"best": 0.85}, "in words", [figure])  # a figure that was measured again
    run = MlflowClient(uri).get_run(run_id)
    assert (run.data.metrics["best"], run.data.tags["prefect.flow_run_id"]) == (0.85, "y")
    assert twice(uri) == []


def test_password_of_a_database_is_never_told(warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)  # MLflow tries for a minute and a half
    tracker = Tracker("postgresql://user:hunter2@127.0.0.1:1/none", "tiny", None, warnings.append)
    assert tracker.open_family("k" * 16, "tiny", {}, {}, Path("datasets/d")) is None
    assert len(warnings) == 1
    assert "hunter2" not in warnings[0]


def test_flatten_joins_keys() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": [1, 2]}) == {"a.b.c": 1, "d": [1, 2]}
    assert json.dumps(flatten({})) == "{}"


def test_a_hundred_epochs_and_how_far_they_go_arrive_together(make, uri: str, run_folder: RunFolder) -> None:
    names = [f"number_{place}" for place in range(9)]
    lines = (
        {"epoch": epoch, "step": epoch, "time": 1.0, "minival_top1": 0.5} | dict.fromkeys(names, 1.0)
        for epoch in range(1, 101)
    )
    run_folder.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tracker = make()
    tracker.open_training(run_folder, named("B0"))
    store, sent = tracker.client._tracking_client.store, []
    real = store.log_batch

    def log_batch(run_id: str, metrics: list, params: list, tags: list) -> None:
        real(run_id, metrics, params, tags)
        if metrics:
            sent.append({tag.key for tag in tags})

    store.log_batch = log_batch
    tracker.forward(run_folder)
    assert sent == [{SENT}, {SENT}]  # no request without its watermark
    assert [step for step, _ in history(uri, names[-1])] == [*range(1, 101)]


def test_a_number_that_is_none_is_not_shown_as_one(make, uri: str, tmp_path: Path) -> None:
    tracker = make()
    run_id = tracker.open_family("family", "tiny", {}, {}, tmp_path)
    for _ in range(2):
        tracker._log_final(run_id, {"top1": math.nan, "loss": math.inf, "least": -math.inf}, 1.0)
    (run,) = runs(uri)
    assert math.isnan(run.data.metrics["top1"])
    assert run.data.metrics["loss"] == -run.data.metrics["least"] > 1e308
