"""Saved views and the note of an experiment: made once, of the newest build, and never in place of a person's."""

from __future__ import annotations

import base64
import json
import shutil
import zlib
from pathlib import Path

import pytest
from mlflow import MlflowClient

from effnet.runs import RunFolder
from effnet.stages import Stage
from tasks.records import pages, views
from tasks.records.server import REMEMBERED, with_script
from tasks.records.tracking import Tracker
from tests.tiny import named


@pytest.fixture
def uri(tmp_path: Path, empty_database: Path) -> str:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def make(tmp_path: Path, uri: str):
    """Make a tracker as a new process would."""
    return lambda: Tracker(uri, "tiny", tmp_path / "artifacts", pytest.fail)


def tags(uri: str) -> dict[str, str]:
    return dict(MlflowClient(uri).get_experiment_by_name("tiny").tags)


def state(tag: str) -> dict:
    kind, _, packed = json.loads(tag)["state"].partition(";")
    assert kind == "deflate"
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def test_each_stage_has_views_of_its_own_trainings() -> None:
    found = {stage: views.view_tags(stage, "b" * 16) for stage in Stage}
    names = [json.loads(tag)["name"] for each in found.values() for tag in each.values()]
    wanted = ["accuracy against cost", "forecast", "grid", "learning curves", "members", "search", "study"]
    assert sorted(names) == wanted
    for stage, each in found.items():
        for tag in each.values():
            assert state(tag)["searchFilter"] == f"tags.`effnet.{stage.value}_of` LIKE '%{'b' * 16}%'"
            assert len(tag) < 5000  # what MLflow keeps of a tag
    members = state(found[Stage.MEMBER]["mlflow.sharedViewState.members"])
    assert members["orderByKey"] == "params.`phi`"
    assert members["selectedColumns"][:2] == ["metrics.`val_top1`", "params.`phi`"]
    assert len({chart["uuid"] for chart in members["compareRunCharts"]}) == 4


def test_views_are_made_once_and_show_the_newest_build(
    make, uri: str, tmp_path: Path, run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = {"epoch": 1, "step": 1, "time": 2.0, "seconds": 1.0, "minival_top1": 0.5}
    run_folder.metrics_path.write_text(json.dumps(line) + "\n")
    tracker = make()
    tracker.open_family("a" * 16, "tiny", {}, {}, tmp_path / "d1")
    tracker.open_training(run_folder, named("fit α1.2", kind=Stage.FIT, family="a" * 16, alpha=1.2))
    first = {tag: value for tag, value in tags(uri).items() if tag.startswith("mlflow.sharedViewState.")}
    assert {tag.rpartition(".")[2] for tag in first} == {"members", "accuracy-cost", "curves", "grid"}
    MlflowClient(uri).set_experiment_tag("1", "mlflow.sharedViewState.x1y2", "a person's")

    written: list[str] = []
    monkeypatch.setattr(MlflowClient, "set_experiment_tag", lambda _self, _id, tag, _value: written.append(tag))
    again = make()
    again.open_family("a" * 16, "tiny", {}, {}, tmp_path / "d1")
    again.open_training(run_folder, named("fit α1.2", kind=Stage.FIT, family="a" * 16, alpha=1.2))
    assert written == []
    monkeypatch.undo()

    other = make()  # another build, in which the same training is a member
    other.open_family("c" * 16, "tiny", {}, {}, tmp_path / "d1")
    other.open_training(run_folder, named("B0", family="c" * 16, phi=0.0))
    now = tags(uri)
    assert now["mlflow.sharedViewState.x1y2"] == "a person's"
    assert now["mlflow.sharedViewState.grid"] == first["mlflow.sharedViewState.grid"]
    assert "cccc" in state(now["mlflow.sharedViewState.members"])["searchFilter"]
    (run,) = MlflowClient(uri).search_runs(["1"], state(now["mlflow.sharedViewState.members"])["searchFilter"])
    assert (run.data.params["phi"], run.data.params["alpha"]) == ("0.0", "1.2")
    assert run.data.tags["effnet.fit_of"] == "a" * 16


def test_a_note_that_a_person_wrote_stays(make, uri: str, tmp_path: Path) -> None:
    for text in ("first", "second", "second"):
        tracker = make()
        run_id = tracker.open_family("a" * 16, "tiny", {}, {}, tmp_path / "d1")
        tracker.tell("a" * 16, lambda experiment, run, text=text: f"{text} {experiment} {run}")
        assert tags(uri)["mlflow.note.content"] == f"{text} 1 {run_id}"
    MlflowClient(uri).set_experiment_tag("1", "mlflow.note.content", "mine")
    tracker = make()
    tracker.open_family("a" * 16, "tiny", {}, {}, tmp_path / "d1")
    tracker.tell("a" * 16, lambda _experiment, _run: "third")
    assert tags(uri)["mlflow.note.content"] == "mine"


def test_the_first_page_says_nothing_that_a_person_has_chosen() -> None:
    page = with_script("<html><head><title>MLflow</title></head></html>", "/#/there")
    assert page.index("localStorage") < page.index("<title>")
    assert "=== null" in page  # what a person has chosen stays
    assert json.dumps(REMEMBERED) in page
    assert '"/#/there"' in page
    assert "const family = null;" in with_script("<head>", None)


def test_no_link_where_no_server_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert pages.family_link(tmp_path, "tiny") is None
    for away in ("http://127.0.0.1:9", "sqlite:///x.db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", away)
        assert pages.family_link(tmp_path, "tiny") is None
