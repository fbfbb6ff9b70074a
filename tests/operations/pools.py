"""A Prefect server with effnet's deployments, and workers that are really started and killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.servers import prefect_setup
from tasks.servers.local import PrefectApi
from tests.tiny import clean_environment

ROOT = Path(__file__).parents[2]
logins: dict[str, str] = {}  # of the servers of `deployed`, by their address


def connected(url: str) -> AbstractContextManager[None]:
    """Let flows in the block report to the server of `deployed`."""
    return prefect_setup.connected(url, login=logins.get(url))


class Workers:
    """Process workers of a pool, each with a scratch folder of its own."""

    def __init__(self, url: str, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.url, self.folder, self.environment = url, folder, environment or {}
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, pool: str, name: str, limit: int = 2) -> Path:
        """Start a worker that runs so many jobs at a time; return its scratch folder."""
        scratch = self.folder / name
        scratch.mkdir(parents=True, exist_ok=True)
        login = {"PREFECT_API_AUTH_STRING": logins[self.url]} if self.url in logins else {}
        settings = login | {
            "PREFECT_API_URL": self.url,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_HOME": str(scratch / "prefect"),
            "EFFNET_SCRATCH": str(scratch),
            "DO_NOT_TRACK": "true",
        }
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", name]
        command += ["--limit", str(limit)]
        with (scratch / "worker.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=clean_environment() | self.environment | settings,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
        return scratch

    def kill_workers_only(self) -> None:
        """Kill the workers; what they run goes on."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes = []

    def hold(self, number: int) -> list[psutil.Process]:
        """Hold a worker and what it runs, as a machine that is cut off; return them, the worker first."""
        worker = psutil.Process(self._processes[number].pid)
        held = [worker, *worker.children(recursive=True)]
        for process in held:
            process.suspend()
        return held

    def go_on(self, held: list[psutil.Process]) -> None:
        """Let go on what was held."""
        for process in held:
            process.resume()

    def kill(self, number: int | None = None) -> None:
        """Kill a worker and what it runs, as a machine does that loses power; all of them if none is named."""
        doomed = self._processes if number is None else [self._processes[number]]
        for process in doomed:
            kill_family(process)
        self._processes = [process for process in self._processes if process not in doomed]


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory, prefect_home: Path) -> Iterator[str]:
    """The API's address of a server on which `effnet deploy` was run."""
    root = tmp_path_factory.mktemp("deployed")
    shutil.copytree(prefect_home, root / "prefect")
    with PrefectApi(root, None) as api:
        url = api.url()
        logins[url] = str(api.login)
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", "deploy", "--store", str(root / "store"), "--project", str(ROOT)],
            cwd=ROOT,
            env=clean_environment() | {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": logins[url]},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "build_family/digits" in done.stdout
        yield url


@pytest.fixture
def workers(deployed: str, tmp_path: Path) -> Iterator[Workers]:
    """Workers of the server of `deployed`; killed in the end."""
    workers = Workers(deployed, tmp_path)
    yield workers
    workers.kill()


def kill_family(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it started."""
    family = [process.pid]
    with contextlib.suppress(psutil.NoSuchProcess):
        family += [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def wait_until(true: Callable[[], Any], seconds: float = 180.0) -> Any:
    """Return what a call gives once it is true; fail if it is not in time."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
    return value
