"""MLflow's server dies, comes back, or is another one, while a training writes its journal: every number once."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from effnet.runs import About, RunFolder, read_journal
from tasks.records import breaker
from tasks.records.tracking import SYSTEM, Tracker
from tests.faults.counts import show, wanted
from tests.faults.test_training_faults import make, start
from tests.tiny import named

__all__ = ["make"]


class Server:
    """A real MLflow server over an SQLite file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        command += ["--default-artifact-root", (self.folder / "artifacts").as_uri()]
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=2)
                return
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.2)

    def kill(self) -> None:

        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.up()
    yield server
    server.kill()


@pytest.mark.slow
def test_every_number_arrives_once(make, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "RETRY_SECONDS", 0.2)
    fired: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    client = MlflowClient(server.url)
    while sum(fired.values()) < wanted(2, 36):
        folder: RunFolder = make()
        training = start(folder)
        tracker = Tracker(server.url, f"tiny-{folder.path.parent.parent.name}", None, lambda _line: None)
        tracker.open_training(folder, named("B0"))
        moment = random.choice(["before it trains", "while it trains", "when it is done"])
        down = False
        while training.poll() is None:
            epochs = len(read_journal(folder.metrics_path)[0])
            if not down and (moment == "before it trains" or (moment == "while it trains" and epochs)):
                server.kill()
                down = True
            tracker.forward(folder)
            time.sleep(0.05)
        assert training.returncode == 0, training.communicate()
        if not down:
            server.kill()
        fired[f"killed {moment}"] += 1
        tracker.forward(folder)
        assert tracker.broken or moment == "when it is done"  # told, unless all had been sent
        server.up()
        deadline = time.monotonic() + 60
        while tracker.broken and time.monotonic() < deadline:  # the same process goes on when the server is back
            tracker.forward(folder)
            time.sleep(0.1)
        assert not tracker.broken
        for _ in range(2):  # nothing is left to send
            later = Tracker(server.url, tracker.experiment, None, print)
            later.open_training(folder, named("B0"))
            later.forward(folder)
            assert not later.broken
        experiment = client.get_experiment_by_name(tracker.experiment)
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        lines = read_journal(folder.metrics_path)[0]
        for name in ("minival_top1", "train_loss", "images_per_second"):
            history = client.get_metric_history(run.info.run_id, SYSTEM.get(name, name))
            assert [(metric.step, metric.value) for metric in history] == [
                (line["epoch"], line[name]) for line in lines
            ]
        assert run.info.status == "FINISHED"
        outcomes["every number once"] += 1
    show("MLflow's server", fired, outcomes)


@pytest.mark.slow
def test_what_was_wanted_while_it_was_away_is_there_when_it_is_back(
    make, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "RETRY_SECONDS", 0.2)
    server.kill()
    folder: RunFolder = make()
    folder.describe(About(experiment="later", name="B0", kind="member", labels={"phi": 0.0}, family="f" * 16))
    told: list[str] = []
    tracker = Tracker(server.url, "later", None, told.append)
    assert tracker.open_family("f" * 16, "later", {}, {}, folder.store.datasets / "d1") is None
    tracker.open_training(folder, named("B0", phi=0.0))
    training = start(folder)
    assert training.wait() == 0
    server.up()
    deadline = time.monotonic() + 60
    while not tracker.run_id(folder.key) and time.monotonic() < deadline:
        tracker.forward(folder)
        time.sleep(0.1)
    tracker.close_family("f" * 16, {"top1": 0.5}, "note", [])
    assert any("back" in line for line in told)
    client = MlflowClient(server.url)
    run = client.get_run(tracker.run_id(folder.key))
    parent = client.get_run(tracker.run_id("f" * 16))
    assert (run.data.params["phi"], run.data.tags["mlflow.parentRunId"]) == ("0.0", parent.info.run_id)
    assert (run.info.status, parent.info.status, parent.data.metrics["top1"]) == ("FINISHED", "FINISHED", 0.5)
