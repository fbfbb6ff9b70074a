"""A family with every stage is killed in the middle of each, again and again: nothing finished is repeated or lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from effnet.runs import RunFolder, read_journal
from tests.faults.counts import show, wanted
from tests.flows.explored import config, finished
from tests.tiny import clean_environment, run_effnet, write_tiny

KINDS = ("search", "study", "fit", "member")


@pytest.mark.slow
@pytest.mark.timeout(1800)  # with the family that it is compared with
def test_killed_in_every_stage(tmp_path: Path, home: Path, prefect_home: Path) -> None:
    source = random.Random(0)
    home, other = tmp_path / "killed", home  # the other was killed once, in its search
    write_tiny(home, config(search=True))
    shutil.copytree(prefect_home, home / "store" / "prefect")
    kills = wanted(2, 20)
    fired: Counter[str] = Counter()
    plan = [KINDS[number * len(KINDS) // kills] for number in range(kills)]
    for kind in plan:
        before = finished(home)
        where = kill_in(home, kind, source)
        if where is None:
            break  # it was done before the kill
        fired[where] += 1
        assert before.items() <= finished(home).items()  # nothing finished was trained again
    before = finished(home)
    disturbed, undisturbed = built(home), json.loads((other / "family.json").read_text())
    assert before.items() <= finished(home).items()
    assert finished(home).keys() == finished(other).keys()  # the same trials, grid points and members
    for key in finished(home):
        one, two = (RunFolder(folder / "store" / "runs" / key) for folder in (home, other))
        assert one.weights_path.read_bytes() == two.weights_path.read_bytes()
        assert [line["epoch"] for line in read_journal(one.metrics_path)[0]] == [
            line["epoch"] for line in read_journal(two.metrics_path)[0]
        ]
    assert [member["top1"] for member in disturbed["members"]] == [member["top1"] for member in undisturbed["members"]]
    check_mlflow(home)
    show("stages killed", fired, {"trainings in the end, each once": len(finished(home))})
    assert sum(fired.values()) == kills


def kill_in(home: Path, kind: str, source: random.Random) -> str | None:
    """Start the family, kill it at a random moment after something new of a stage; return the stage that it was in."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "family", "tiny.yaml"],
        cwd=home,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    before, deadline = progress(home), time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        now = progress(home)
        if now != before and stage(home) >= KINDS.index(kind):
            break
        time.sleep(0.01)
    time.sleep(source.random() * 0.3)
    if process.poll() is not None:
        return None
    reached = KINDS[stage(home)]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return reached


def progress(home: Path) -> int:
    """Return the bytes in all journals."""
    return sum(path.stat().st_size for path in (home / "store/runs").glob("*/metrics.jsonl"))


def stage(home: Path) -> int:
    """Return the last stage that something was begun of."""
    kinds = [0]
    for path in (home / "store/runs").glob("*"):
        about = RunFolder(path).about()
        if about and (path / "metrics.jsonl").exists():
            kinds.append(KINDS.index(about.kind))
    return max(kinds)


def built(folder: Path) -> dict[str, Any]:
    done = run_effnet("family", "tiny.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def check_mlflow(home: Path) -> None:
    """Every training is in MLflow once, with every epoch once."""
    client = MlflowClient(f"sqlite:///{home / 'store' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id]))
    keys = Counter(run.data.tags["effnet.key"] for run in runs)
    assert set(keys.values()) == {1}
    assert set(finished(home)) <= set(keys)
    for run in runs:
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "minival_top1")]
        assert steps == list(range(1, len(steps) + 1))
    with sqlite3.connect(home / "store" / "prefect" / "prefect.db") as database:
        states = Counter(state for (state,) in database.execute("select state_type from flow_run"))
    assert states["COMPLETED"] == 1
