"""Prefect's database in a store: what kills left in it is ended, and it does not grow for ever."""

from __future__ import annotations

import platform
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.servers import prefect_history
from tasks.servers.local import PrefectApi
from tasks.servers.prefect_setup import connected, crash_stale_runs
from tests.tiny import clean_environment

# Six runs that end, each with a task, a log and an artifact; then one that is killed in its task.
FLOWS = """
import os, sys
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from tasks.servers.prefect_setup import connected, started_here

@task
def part(number):
    get_run_logger().info("hello " * 500)
    create_markdown_artifact("hello " * 500, key="hello")
    if number == 6:
        os.close(1)
        os.read(0, 1)

@flow(name="small")
def small(config, number, store):
    part(number)

with connected(sys.argv[1], login=sys.argv[2]), started_here():
    for number in range(7):
        small({"family": "tiny"}, number, sys.argv[3])
"""


def counts(root: Path) -> dict[str, int]:
    tables = ("flow_run", "flow_run_state", "task_run", "task_run_state", "log", "artifact", "events")
    with sqlite3.connect(root / "prefect" / "prefect.db") as database:
        return {table: database.execute(f"select count(*) from {table}").fetchone()[0] for table in tables}  # noqa: S608


def states(root: Path, table: str) -> list[str]:
    with sqlite3.connect(root / "prefect" / "prefect.db") as database:
        return [state for (state,) in database.execute(f"select state_type from {table} order by created")]  # noqa: S608


def test_a_broken_database_is_left_to_the_server_to_tell(tmp_path: Path) -> None:
    path = tmp_path / "prefect.db"
    path.write_bytes(bytes(range(256)) * 64)
    prefect_history.trim(path)
    assert path.read_bytes() == bytes(range(256)) * 64
    assert prefect_history.newest_run(path) is None
    assert prefect_history.newest_run(tmp_path / "none.db") is None
    assert not (tmp_path / "none.db").exists()


@pytest.mark.slow
def test_killed_run_ends_and_only_the_newest_stay(
    tmp_path: Path, prefect_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    shutil.copytree(prefect_home, tmp_path / "prefect")
    path = tmp_path / "prefect" / "prefect.db"
    with PrefectApi(tmp_path, None) as api:
        url = api.url()
        process = subprocess.Popen(
            [sys.executable, "-c", FLOWS, url, api.login or "", str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=clean_environment(),
        )
        assert process.stdout is not None
        process.stdout.read()  # to its end: it is in the last task
        process.kill()
        process.wait()
        with connected(url, login=api.login):
            for family, store, machine in (
                ("another family", tmp_path, platform.node()),
                ("tiny", tmp_path / "another store", platform.node()),
                ("tiny", tmp_path, "another machine"),
            ):
                monkeypatch.setattr(platform, "node", lambda machine=machine: machine)
                crash_stale_runs("small", family, store, of_store=False)
                assert states(tmp_path, "flow_run") == ["COMPLETED"] * 6 + ["RUNNING"], (family, store, machine)
            monkeypatch.undo()
            crash_stale_runs("small", "tiny", tmp_path, of_store=False)
            assert states(tmp_path, "flow_run") == ["COMPLETED"] * 6 + ["CRASHED"]
            with get_client(sync_client=True) as client:
                (killed,) = [run for run in client.read_flow_runs() if run.state and run.state.is_crashed()]
                client.set_flow_run_state(killed.id, Running(), force=True)
            with monkeypatch.context() as patch:
                patch.setattr(platform, "node", lambda: "another container")
                crash_stale_runs("small", "tiny", tmp_path, of_store=True)
    assert states(tmp_path, "flow_run") == ["COMPLETED"] * 6 + ["CRASHED"]
    assert set(states(tmp_path, "task_run")) <= {"COMPLETED", "CRASHED"}
    before, size = counts(tmp_path), path.stat().st_size
    prefect_history.trim(path)
    assert counts(tmp_path) == before  # fewer than are kept

    monkeypatch.setattr(prefect_history, "KEPT", 2)
    with PrefectApi(tmp_path, None) as api:  # as the next command does
        api.url()
    after = counts(tmp_path)
    assert states(tmp_path, "flow_run") == ["COMPLETED", "CRASHED"]  # the newest
    assert after["task_run"] <= 2
    assert all(after[table] * 2 < before[table] for table in ("log", "artifact", "events", "flow_run_state")), after
    with sqlite3.connect(path) as database:
        assert database.execute("pragma freelist_count").fetchone()[0] * 4 <= size // 4096
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
