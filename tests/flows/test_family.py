"""The whole pipeline on real images, with a real Prefect server and a real MLflow database; and killed in between."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from mlflow import MlflowClient

from effnet.data.shards.index import Index
from effnet.data.shards.verification import verify
from effnet.family import FamilyResult
from effnet.finished import NAME
from effnet.report.costs import CORE, read_costs, told_total, total
from effnet.runs import RunFolder, read_journal
from effnet.store import Store
from tasks.records.tracking import rounded
from tests.tiny import CONFIG, VAL, clean_environment, run_effnet, shown, users_of, write_tiny

NAMES = ["B0", "B1", "B2"]


@pytest.fixture
def folder(tmp_path: Path, prefect_home: Path) -> Path:
    """A folder with the tiny family's config and an empty store."""
    write_tiny(tmp_path)
    shutil.copytree(prefect_home, tmp_path / "store" / "prefect")
    return tmp_path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, prefect_home: Path) -> tuple[Path, dict[str, Any], str]:
    """A family that was built undisturbed: its folder, its result, and what the terminal showed."""
    folder = tmp_path_factory.mktemp("family")
    shutil.copytree(prefect_home, folder / "store" / "prefect")
    done = run_effnet("family", write_tiny(folder), "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout), done.stderr


def test_result_has_every_member_with_its_evidence(built: tuple[Path, dict[str, Any], str]) -> None:
    folder, result, told = built
    assert result["family"] == "tiny"
    assert " steps in all are few: give more epochs or a smaller batch_size" in told
    assert sorted(result["coefficients"]) == ["alpha", "beta", "gamma"]
    assert [member["name"] for member in result["members"]] == NAMES
    for member in result["members"]:
        run = RunFolder(folder / "store" / "runs" / member["run_key"])
        evaluation = run.evaluation()
        assert evaluation is not None
        assert (member["top1"], member["top5"]) == (evaluation.top1, evaluation.top5)
        assert 0.3 < member["top1"] <= member["top5"] <= 1
        assert not member["reused"]
        assert [seed["run_key"] for seed in member["seeds"]] == [member["run_key"]]
        assert run.weights_path.exists()
    assert result["answer"]["member"] in NAMES
    assert result["growth"]["low"] <= result["growth"]["per_doubling"] <= result["growth"]["high"]
    assert verify(folder / "store" / "datasets" / result["dataset"]) == []
    assert (folder / "store" / "families" / result["key"] / "accuracy.svg").exists()


def test_choose_without_limits_and_the_alias_best_name_what_the_build_named(
    built: tuple[Path, dict[str, Any], str],
) -> None:
    folder, result, _ = built
    chosen = run_effnet("choose", "tiny", "--store", "store", "--json", cwd=folder)
    assert chosen.returncode == 0, chosen.stderr
    assert json.loads(chosen.stdout)["member"] == result["answer"]["member"]
    client = MlflowClient(f"sqlite:///{folder / 'store' / 'mlflow.db'}")
    best = [model.name for model in client.search_registered_models() if "best" in model.aliases]
    assert best == [f"tiny-{result['answer']['member'].lower()}"]


def test_terminal_shows_the_stages_and_nothing_stray(built: tuple[Path, dict[str, Any], str]) -> None:
    begun, *lines = built[2].splitlines()
    assert begun == "effnet: starting Prefect"  # before there is a flow to count the time of
    for told in ("dataset ", "grid over α, β, γ", "coefficients ", "B2: ", f"evaluated on {VAL} held-out images"):
        assert any(told in line for line in lines), told
    assert all(line[:2].strip().isdecimal() and line[2] == ":" for line in lines), lines  # each has its clock


def test_mlflow_has_one_run_per_training_under_the_familys(built: tuple[Path, dict[str, Any], str]) -> None:
    folder, result, _ = built
    runs = mlflow_runs(folder)
    (parent,) = [run for run in runs if run.data.tags["effnet.kind"] == "family"]
    children = [run for run in runs if run is not parent]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    members = {run.info.run_name: run for run in children if run.data.tags["effnet.kind"] == "member"}
    # Two of the grid and the paper's own point. They are trained for fewer epochs than members: those are other runs.
    assert len(children) == 3 + 3
    for member in result["members"]:
        run = members[member["name"]]
        assert member["mlflow_run_id"] == run.info.run_id
        assert run.data.metrics["val_top1"] == shown(member["top1"])
        assert run.inputs.dataset_inputs[0].dataset.digest == result["dataset"]
    files = [item.path for item in MlflowClient(uri(folder)).list_artifacts(parent.info.run_id, "figures")]
    names = ("accuracy", "calibration", "classes", "confusion", "grid", "latency", "learning")
    drawn = [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    pictures = [f"{name}.png" for name in ("cam", "mistakes", "samples")]
    assert sorted(files) == sorted(f"figures/{name}" for name in [*drawn, *pictures])
    files = [item.path for item in MlflowClient(uri(folder)).list_artifacts(parent.info.run_id)]
    assert {"report.html", "family.json", "config.json", "environment.json", "fit.json", "mistakes.csv"} <= set(files)
    (chosen,) = [member for member in result["members"] if member["name"] == result["answer"]["member"]]
    assert parent.data.metrics["top1"] == shown(chosen["top1"])
    costs = read_costs(Store(folder / "store"), FamilyResult.model_validate(result))
    assert parent.data.metrics["device_hours"] == rounded("device_hours", total(costs).hours[CORE])
    assert all(cost.hours for cost in costs)  # evaluation, registration and the report were measured too
    assert f"Cost: {told_total(costs)}." in parent.data.tags["mlflow.note.content"]
    note = MlflowClient(uri(folder)).get_experiment(parent.info.experiment_id).tags["mlflow.note.content"]
    assert f"Cost: {told_total(costs)}." in note
    assert f"-{chosen['name'].lower()} version 1 is champion: the first of its name" in note
    assert "members on dataset" in parent.data.tags["mlflow.note.content"]
    for run in children:
        assert {"top1", "params", "macs", "latency_ms", "train_hours"} <= run.data.metrics.keys()
        assert "epochs on dataset" in run.data.tags["mlflow.note.content"]
    models = {model.name: model.aliases for model in MlflowClient(uri(folder)).search_registered_models()}
    assert set(models) == {"tiny-b0", "tiny-b1", "tiny-b2"}
    use = f"tiny-{result['answer']['member'].lower()}"
    for name, aliases in models.items():
        assert set(aliases) == {"candidate", "champion"} | ({"best"} if name == use else set())


def test_prefect_has_the_flow_run_and_its_log(built: tuple[Path, dict[str, Any], str]) -> None:
    folder, result, _ = built
    assert flow_states(folder) == ["COMPLETED"]
    with sqlite3.connect(folder / "store" / "prefect" / "prefect.db") as database:
        tasks = dict(database.execute("select name, id from task_run where state_type = 'COMPLETED'"))
        log: dict[str | None, str] = {}
        for run, message in database.execute("select task_run_id, message from log"):
            log[run] = f"{log.get(run, '')}{message}\n"
        cards = {run: key for key, run in database.execute("select key, task_run_id from artifact") if run}
    stages = {"shard dataset", "fit coefficients", "register members", "write report"}
    members = {f"{work} {name}" for name in NAMES for work in ("train", "evaluate")}
    candidates = {name for name in tasks if name.startswith("fit a")}
    assert tasks.keys() == stages | members | candidates | {"score on minival", "measure latency"}
    assert len(candidates) == 3  # two of the grid, and the paper's
    assert f"dataset {result['dataset']}" in log[tasks["shard dataset"]]
    for name in members | candidates:
        assert "minival top-1" in log[tasks[name]]
        assert "; MLflow: http://127.0.0.1:5000/#/experiments/" in log[tasks[name]]
        assert cards[tasks[name]] == "tiny-" + name.replace(" ", "-").replace(".", "-").lower()


def test_again_trains_nothing_and_says_so(built: tuple[Path, dict[str, Any], str]) -> None:
    folder, result, _ = built
    for path in (folder / "store/runs").glob(
        "*/evaluation.json"
    ):  # or latencies are measured again, and it is not noted
        path.write_text(path.read_text().replace('"quiet": false', '"quiet": true'))
    for path in (folder / "store/families").glob(f"*/{NAME}"):
        path.unlink()
    before = stamps(folder)
    done = run_effnet("family", "tiny.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert all(member.pop("reused") for member in again["members"])
    assert not any(member["reused"] for member in result["members"])
    # A latency that other work disturbed is measured again.
    assert without(again, "reused", "latency_ms", "latency_on") == without(result, "reused", "latency_ms", "latency_on")
    assert "(reused)" in done.stderr
    assert done.stderr.count("train members: 3 of 3 trainings reused") == 1  # Prefect's own log stays away
    assert "| INFO" not in done.stderr
    assert stamps(folder) == before
    assert len(mlflow_runs(folder)) == 7
    (parent,) = [run for run in mlflow_runs(folder) if run.data.tags["effnet.kind"] == "family"]
    with sqlite3.connect(folder / "store" / "prefect" / "prefect.db") as database:
        flows = "select id from flow_run where state_type = 'COMPLETED' order by start_time"
        first, *_, last = (id_ for (id_,) in database.execute(flows))
    tags = parent.data.tags  # the link leads to the flow run that did the work
    assert (tags["prefect.flow_run_id"], tags["prefect.flow_run_id.last"]) == (first, last)
    flows = flow_states(folder)
    done = run_effnet("family", "tiny.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "nothing has changed" in done.stderr
    assert json.loads(done.stdout) == again | {"members": [{**member, "reused": True} for member in again["members"]]}
    assert flow_states(folder) == flows  # no server was started for it


def test_no_number_is_in_mlflow_twice_and_top1_is_vals(built: tuple[Path, dict[str, Any], str]) -> None:
    folder, result, _ = built
    with sqlite3.connect(folder / "store" / "mlflow.db") as database:
        grouped = "select run_uuid, key, step, count(distinct value) from metrics group by run_uuid, key, step"
        assert [row for row in database.execute(grouped) if row[3] > 1] == []
        locations = [location for (location,) in database.execute("select artifact_location from experiments")]
    assert all(location.startswith((folder / "store").as_uri()) for location in locations)  # MLflow's own one too
    client = MlflowClient(uri(folder))
    for member in result["members"]:
        run = client.get_run(member["mlflow_run_id"])
        assert (run.data.metrics["top1"], run.data.tags["effnet.top1_of"]) == (shown(member["top1"]), "val")
        history = client.get_metric_history(member["mlflow_run_id"], "top1")
        assert [(metric.step, metric.value) for metric in history] == [(0, shown(member["top1"]))]
        for model in client.search_logged_models([run.info.experiment_id], f"name = 'tiny-{member['name'].lower()}'"):
            assert {metric.key: metric.value for metric in model.metrics}["top1"] == shown(member["top1"])
    kind = "tags.`effnet.kind` = 'member'"
    ordered = client.search_runs([run.info.experiment_id], kind, order_by=["metrics.top1 DESC"])
    scores = sorted((shown(member["top1"]) for member in result["members"]), reverse=True)
    assert [run.data.metrics["top1"] for run in ordered] == scores


@pytest.mark.slow
def test_copied_or_moved_store_works_where_it_is(built: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    folder = built[0]
    original, copy, moved = folder / "store", tmp_path / "copy", tmp_path / "moved"
    shutil.copytree(original, copy)
    before = whole(original)
    here = tmp_path / "empty"  # nothing is written where the command is started
    here.mkdir()
    lost = next((copy / "artifacts").glob("tiny/*/artifacts/model.safetensors"))
    lost.unlink()  # so that there is something to write
    done = run_effnet("sync", "--store", copy, cwd=here)
    assert done.returncode == 0, done.stderr
    assert f"was copied from {original}" in done.stderr
    assert lost.exists()
    done = run_effnet("family", folder / "tiny.yaml", "--store", copy, "--json", cwd=here)
    assert done.returncode == 0, done.stderr
    assert whole(original) == before
    copy.rename(moved)
    done = run_effnet("sync", "--store", moved, cwd=here)
    assert f"was at {copy}" in done.stderr
    assert list(here.iterdir()) == []
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{moved / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model("models:/tiny-b0@champion")
    assert len(model.predict(np.zeros((1, 8, 8, 3), np.uint8))) == 1
    assert whole(original) == before


def whole(root: Path) -> dict[Path, tuple[int, int]]:
    """Return the size and the time of change of every file."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_files_of_our_names_in_the_working_folder_are_not_run(
    built: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    """The command, as the installed script starts it, in a folder with a `tasks.py` and the like of somebody else."""
    store, here = tmp_path / "store", tmp_path / "here"
    shutil.copytree(built[0] / "store", store)
    here.mkdir()
    for name in ("tasks", "flows", "effnet", "mlflow", "prefect", "torch"):
        (here / f"{name}.py").write_text("raise SystemExit('somebody else was run')")
    (here / "tasks").mkdir()
    (here / "tasks" / "__init__.py").write_text("raise SystemExit('somebody else was run')")
    before = set(here.rglob("*"))
    changed = CONFIG.replace("phi: [0, 1, 2]", "phi: [0]") + "seed: 7\ncoefficients: [1.0, 1.2, 1.0]\n"
    config = write_tiny(tmp_path / "config", changed)
    done = safely("train", config, "--member", "b0", "--ranks", "2", "--store", store, cwd=here)
    assert done.returncode == 0, done.stderr
    done = safely("family", config, "--store", store, cwd=here)
    assert done.returncode == 0, done.stderr
    assert_it_says_what_changed(store, done.stdout, built[1])
    done = safely("up", "--store", store, cwd=here)
    safely("down", "--store", store, cwd=here)
    assert done.returncode == 0, done.stderr
    assert set(here.rglob("*")) == before  # and nothing was written there


def assert_it_says_what_changed(store: Path, printed: str, before: dict[str, Any]) -> None:
    """Check that a family that was built again, with another seed, given coefficients and one member, says so."""
    lines = {line.split()[0]: line for line in printed.partition("Since the build of ")[2].splitlines()[1:] if line}
    assert before["key"] in printed
    assert before["changes"] is None
    assert (
        lines["config"].split(maxsplit=1)[1].startswith("seed 0 → 7; coefficients none → [1.0, 1.2, 1.0]; members.phi ")
    )
    assert "train members: 1 reused" in lines["trainings"]  # `train` was there before
    assert "B1, B2: gone" in lines["members"]
    assert f"on the same {VAL} images, seeds not counted: " in lines["use"]
    newest = max(store.glob("families/*/family.json"), key=lambda path: path.stat().st_mtime)
    assert json.loads(newest.read_text())["changes"]["before"] == before["key"]
    (parent,) = [run for run in mlflow_runs(store.parent) if run.data.tags["effnet.key"] == newest.parent.name]
    assert "* config: seed 0 → 7; " in parent.data.tags["mlflow.note.content"]
    experiment = MlflowClient(uri(store.parent)).get_experiment(parent.info.experiment_id)
    assert "* config: seed 0 → 7; " in experiment.tags["mlflow.note.content"]


def safely(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "flows.cli", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=clean_environment(), capture_output=True, text=True, timeout=400, check=False
    )


def test_plan_then_uses_the_fitted_coefficients(built: tuple[Path, dict[str, Any], str]) -> None:
    folder, result, _ = built
    data = json.loads(run_effnet("plan", "tiny.yaml", "--json", cwd=folder).stdout)
    assert data["coefficients"] == result["coefficients"]
    assert data["coefficients_from"] == "the fit of this config"
    assert [member["macs"] for member in data["members"]] == [member["macs"] for member in result["members"]]
    # Measured here, so of the size of what was trained here, whatever else the machine did; an A100's would be 1e-4.
    (members,) = (stage for stage in data["stages"] if stage["stage"] == "members")
    trained = sum(member["seconds"] for member in result["members"])
    assert 1 / 30 < members["hours"] * 3600 / trained < 10
    assert "measured just now" in data["speed"]["device"]


@pytest.mark.slow
def test_killed_and_stopped_it_goes_on_to_the_same_weights(
    folder: Path, built: tuple[Path, dict[str, Any], str]
) -> None:
    """Killed in the grid, Ctrl-C there, asked to stop among the members; and then a training is killed."""
    kill_when(folder, further(folder, epochs=1), signal.SIGKILL)
    wait_for_no_children(folder)
    stopped(folder, further(folder, epochs=1), signal.SIGINT)
    stopped(folder, further(folder, epochs=3), signal.SIGTERM)
    assert flow_states(folder) == ["CRASHED"] * 3
    out, err = built_with_a_killed_training(folder)
    assert "fit coefficients: 3 of 3 trainings reused" in err
    assert "killed by SIGKILL; restarted from its last checkpoint" in err
    assert_same_family(folder, json.loads(out), built)
    assert flow_states(folder) == ["COMPLETED"] + ["CRASHED"] * 3
    with sqlite3.connect(folder / "store" / "prefect" / "prefect.db") as database:
        left = "select name, state_type from task_run where state_type in ('RUNNING', 'PENDING')"
        assert database.execute(left).fetchall() == []


def stopped(folder: Path, condition: Callable[[], bool], signum: signal.Signals) -> None:
    """Stop the family by a signal, and check what it says and leaves."""
    process = kill_when(folder, condition, signum)
    assert process.returncode == 75
    last = process.stderr_text.splitlines()[-1]  # type: ignore[attr-defined]
    assert last == "effnet: stopped; what is done is saved, run the same command again to go on"
    assert "Traceback" not in process.stderr_text  # type: ignore[attr-defined]
    assert {run.info.status for run in mlflow_runs(folder)} <= {"FINISHED", "KILLED"}


def built_with_a_killed_training(folder: Path) -> tuple[str, str]:
    """Build the family to its end while a training of it is killed; return what it printed."""
    process = start(folder)

    def training() -> psutil.Process | None:
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it may end while it is looked at
                if child.name().startswith(("fit ", "train ")):
                    return child
        return None

    while (victim := training()) is None:
        assert process.poll() is None
        time.sleep(0.02)
    victim.kill()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


def test_second_command_on_the_same_store_is_told(folder: Path) -> None:
    process = start(folder)
    while not list((folder / "store").glob("runs/*")):  # it trains
        assert process.poll() is None
        time.sleep(0.02)
    done = run_effnet("family", "tiny.yaml", cwd=folder)
    assert done.returncode == 73
    assert done.stderr.count("\n") == 1
    assert "another process is building it" in done.stderr
    process.kill()
    process.wait()


@pytest.mark.slow
def test_given_coefficients_skip_the_grid(folder: Path) -> None:
    config = CONFIG.replace("fit: {", "coefficients: [1.0, 1.2, 1.0]\nfit: {").replace(
        "phi: [0, 1, 2], dropout: [0.1, 0.2]", "seeds: 2, phi: [0, 0.01], dropout: [0.1, 0.1]"
    )
    write_tiny(folder, config)
    done = run_effnet("family", "tiny.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "(from the config)" in done.stderr
    assert json.loads(done.stdout)["coefficients"] == {"alpha": 1.0, "beta": 1.2, "gamma": 1.0}
    assert len(mlflow_runs(folder)) == 3
    member, equal = json.loads(done.stdout)["members"]  # rounding makes B1 the same network: it is trained once
    assert equal | {"name": "B0", "phi": 0} == member
    assert json.loads(done.stdout)["answer"]["member"] == "B0"
    assert json.loads(done.stdout)["growth"] is None
    runs = [RunFolder(folder / "store/runs" / each["run_key"]) for each in member["seeds"]]
    assert [run.spec().seed for run in runs] == [0, 1]
    scores = [run.evaluated().top1 for run in runs]
    assert [each["top1"] for each in member["seeds"]] == scores
    assert member["top1"] == pytest.approx(sum(scores) / 2)
    best = max(runs, key=lambda run: (run.trained().top1, -run.trained().loss))  # on minival
    assert member["run_key"] == best.key
    one, two = (run.evaluated() for run in runs)
    assert (one.latency, one.images_per_second) == (two.latency, two.images_per_second)  # measured once
    shown = run_effnet("show", "b0", "--store", "store", "--json", cwd=folder)
    assert json.loads(shown.stdout)["run"] == best.key
    # A shard that breaks afterwards is named when a new training reads it.
    (folder / "tiny.yaml").write_text(config.replace("epochs: 3", "epochs: 2"))
    (dataset,) = (folder / "store" / "datasets").glob("[!.]*/")
    shutil.rmtree(folder / "store" / "cache")  # its pixels are decoded already
    index = Index.read(dataset / "index.parquet", "minival")
    shard = dataset / index.shard_names[index.shards[0]]
    data = bytearray(shard.read_bytes())
    data[int(index.offsets[0]) + 20] ^= 1
    shard.write_bytes(data)
    done = run_effnet("family", "tiny.yaml", cwd=folder)
    assert done.returncode == 65
    assert f"{shard.name}: image" in done.stderr.splitlines()[-1]


def assert_same_family(folder: Path, result: dict[str, Any], built: tuple[Path, dict[str, Any], str]) -> None:
    """Check that a disturbed build ended as the undisturbed one: weights to the bit, each training in MLflow once."""
    other, undisturbed, _ = built
    assert result["coefficients"] == undisturbed["coefficients"]
    for one, two in zip(result["members"], undisturbed["members"], strict=True):
        assert one["run_key"] == two["run_key"]
        weights = [root / "store" / "runs" / one["run_key"] / "model.safetensors" for root in (folder, other)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
        assert one["top1"] == two["top1"]
    runs = mlflow_runs(folder)
    assert len(runs) == 7
    assert {run.info.status for run in runs} == {"FINISHED"}
    client = MlflowClient(uri(folder))
    for run in runs:
        if run.data.tags["effnet.kind"] != "family":
            steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "minival_top1")]
            assert steps == list(range(1, len(steps) + 1))


def uri(folder: Path) -> str:
    return f"sqlite:///{folder / 'store' / 'mlflow.db'}"


def mlflow_runs(folder: Path) -> list[Any]:
    client = MlflowClient(uri(folder))
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def flow_states(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "store" / "prefect" / "prefect.db") as database:
        return sorted(state for (state,) in database.execute("select state_type from flow_run"))


def without(result: dict[str, Any], *names: str) -> dict[str, Any]:
    return result | {"members": [{k: v for k, v in m.items() if k not in names} for m in result["members"]]}


def stamps(folder: Path) -> dict[Path, int]:
    files = (folder / "store" / "runs").rglob("*")
    # A latency that other work disturbed is measured again, and told to MLflow.
    changing = {"lock", "evaluation.json", "tracking.json"}
    return {path: path.stat().st_mtime_ns for path in files if path.is_file() and path.name not in changing}


def journals(folder: Path, epochs: int) -> list[Path]:
    """Return the run folders of trainings of so many epochs that have finished at least one."""
    found = []
    for path in (folder / "store" / "runs").glob("*"):
        run = RunFolder(path)
        if run.config_path.exists() and run.spec().recipe.epochs == epochs and read_journal(run.metrics_path)[0]:
            found.append(path)
    return found


def further(folder: Path, epochs: int) -> Callable[[], bool]:
    """Return what says whether more trainings of so many epochs have begun to be trained than now."""
    before = len(journals(folder, epochs))
    return lambda: len(journals(folder, epochs)) > before


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "family", "tiny.yaml", "--json"],
        cwd=folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_when(folder: Path, condition: Callable[[], bool], signum: signal.Signals) -> subprocess.Popen[str]:
    """Start the family and send it a signal as soon as the condition holds; return the ended process."""
    process = start(folder)
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signum)
    _, process.stderr_text = process.communicate(timeout=120)  # type: ignore[attr-defined]
    assert process.returncode != 0  # the signal came in time
    return process


def wait_for_no_children(folder: Path) -> None:
    """Wait until every training and server that a killed flow left has noticed and ended."""
    deadline = time.monotonic() + 60
    while left := users_of(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
