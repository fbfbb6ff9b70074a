"""What Prefect shows of the children of a flow run: a task run each; and cancelling the flow run stops them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, LogFilter, LogFilterTaskRunId
from prefect.client.schemas.objects import TaskRun
from prefect.deployments import run_deployment
from prefect.states import Cancelling

from effnet.config import FamilyConfig, LocalCompute, load_config
from effnet.errors import DataError
from effnet.runs import RunFolder, read_journal
from effnet.store import Store
from tasks.compute.here import Job, run_jobs
from tasks.compute.watch import Watch
from tests.operations.pools import Workers, connected, wait_until
from tests.tiny import CONFIG, users_of, write_tiny

STOPPABLE = (
    "signal.signal(signal.SIGTERM, lambda *_: (print('asked to stop'), sys.exit(75))); "
    "print('warning: mind the gap', flush=True); time.sleep(60)"
)


def jobs_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, float], Job]:
    """Make jobs whose child runs a line of code."""
    (folder / "line.py").write_text("import signal, sys, time\nexec(sys.argv[1])\n")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return lambda name, line, size: Job(name, "line", (line,), folder / "logs" / f"{name}.log", size)


def task_runs(flow_run: str) -> dict[str, TaskRun]:
    """Return the task runs of a flow run by name; their states arrive a little after they change."""
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run])))  # type: ignore[list-item]
        return {run.name: run for run in runs}


def log_of(run: TaskRun) -> list[str]:
    with get_client(sync_client=True) as client:
        logs = client.read_logs(LogFilter(task_run_id=LogFilterTaskRunId(any_=[run.id])))
    return [line.message for line in logs]


def test_a_child_is_a_task_run_with_its_state_reason_and_log(
    deployed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs_in(tmp_path, monkeypatch)
    found: dict[str, str] = {}

    @flow
    def three() -> None:
        from prefect import get_run_logger
        from prefect.runtime import flow_run

        found["run"] = flow_run.id
        jobs = [
            job("fit α1.2 β1 γ1.15", "pass", 3),
            job("stopped", STOPPABLE, 2),
            job("fails", "time.sleep(1.5); print('shard 7 is broken'); sys.exit(65)", 1),
        ]
        watch = Watch(lambda line: get_run_logger().warning(line), done=lambda name: get_run_logger().info(name))
        run_jobs(jobs, LocalCompute(parallel=3), watch)

    with connected(deployed):
        with pytest.raises(DataError, match="fails: shard 7 is broken"):
            three()
        names = {"fit a1.2 b1 g1.15", "stopped", "fails"}  # the timeline has no Greek

        def ended() -> dict[str, TaskRun] | None:
            runs = task_runs(found["run"])
            done = runs.keys() == names and all(run.state and run.state.is_final() for run in runs.values())
            return runs if done else None

        runs = wait_until(ended, 30)
        assert runs["fit a1.2 b1 g1.15"].state.is_completed()
        assert runs["fails"].state.is_failed()
        assert runs["fails"].state.message == "fails: shard 7 is broken"
        assert runs["stopped"].state.is_cancelled()
        for name, lines in {
            "fit a1.2 b1 g1.15": {"fit α1.2 β1 γ1.15"},
            "stopped": {"stopped: mind the gap", "stopped: asked to stop"},
        }.items():
            wait_until(lambda name=name, lines=lines: lines <= set(log_of(runs[name])), 30)  # they are sent in batches
        assert not [line for run in runs.values() for line in log_of(run) if "Traceback" in line]


@pytest.mark.slow
def test_cancelled_on_the_page_a_family_stops_with_checkpoints(deployed: str, workers: Workers, tmp_path: Path) -> None:
    config: FamilyConfig = load_config(write_tiny(tmp_path, CONFIG.replace("epochs: 3", "epochs: 10000")))
    given = {"coefficients": [1.2, 1.1, 1.15], "members": {"phi": [0, 1]}, "compute": {"kind": "local", "parallel": 2}}
    store = Store(tmp_path / "store")
    parameters = {
        "config": config.model_dump(mode="json") | given,
        "base": str(tmp_path),
        "store": str(store.root),
    }
    workers.start("effnet", "one")

    def training() -> list[RunFolder]:
        folders = [RunFolder(path) for path in store.runs.glob("*") if (path / "metrics.jsonl").exists()]
        return [each for each in folders if read_journal(each.metrics_path)[0]]

    with connected(deployed), get_client(sync_client=True) as client:
        run = run_deployment("build_family/digits", parameters=parameters, timeout=0)
        wait_until(lambda: len(training()) == 2)
        client.set_flow_run_state(run.id, Cancelling(message="changed my mind"))  # what the page's button sets

        def state() -> Any:
            return client.read_flow_run(run.id).state

        wait_until(lambda: state().is_final(), 90)
        assert state().is_cancelled()
        runs = wait_until(
            lambda: (
                (found := task_runs(str(run.id)))
                and all(each.state and each.state.is_final() for each in found.values())
                and found
            ),
            60,
        )
    assert {name: runs[name].state.is_cancelled() for name in ("train B0", "train B1")} == {
        "train B0": True,
        "train B1": True,
    }
    for folder in training():
        steps = [path.name for path in folder.checkpoints.iterdir()]
        assert steps, "no checkpoint was saved"
    assert not users_of(store.root)
