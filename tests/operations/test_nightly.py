"""The tutorial of a schedule, as it is printed, on a real server: schedules fire, and only dead runs are marked so."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.automations import AutomationCore, EventTrigger, Posture, ResourceSpecification
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState

from effnet.store import Store
from tasks.servers import deployment
from tasks.servers import local as servers
from tasks.servers.prefect_setup import connected
from tests.faults.counts import show, wanted
from tests.operations.pools import ROOT, kill_family, logins, wait_until
from tests.tiny import CONFIG, clean_environment, run_effnet, write_tiny

WINDOW = 40  # Prefect's beats are 30 s apart at least; a training takes longer than this
TUTORIAL = ROOT / "docs/tutorials/schedule.md"
FOREIGN = """
import time
from prefect import flow

@flow
def theirs(seconds: float):
    time.sleep(seconds)

if __name__ == "__main__":
    theirs.serve(name="nightly", parameters={"seconds": 600})
"""


class Site:
    """A clone in which the tutorial is followed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = clean_environment() | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PREFECT_HOME": str(folder / "home"),
            "DO_NOT_TRACK": "true",
            "EFFNET_CRASHED_AFTER": str(WINDOW),
        }
        self.started: list[subprocess.Popen[bytes]] = []

    def shell(self, command: str) -> str:
        """Run a command to its end; return what it printed."""
        done = subprocess.run(  # noqa: S602 - as a person types it
            command, shell=True, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command that stays."""
        with (self.folder / f"{len(self.started)}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S602 - as a person types it
                command,
                shell=True,
                cwd=self.folder,
                env=self.environment | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def read(self, ask: Callable[[Any], Any]) -> Any:
        """Ask the store's Prefect server something."""
        (url,) = (each.url for each in servers.running(self.folder / ".effnet") if each.name == "prefect")
        login = servers.login(self.folder / ".effnet")
        with connected(f"{url}/api", login=login), get_client(sync_client=True) as client:
            return ask(client)


@pytest.fixture
def site(tmp_path: Path, prefect_home: Path) -> Iterator[Site]:
    for name in ("prefect.yaml", "infra/prefect"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, _parent(tmp_path / name))
    config = CONFIG.replace("family: tiny", "family: digits").replace("epochs: 3", "epochs: 10000")
    tiny = write_tiny(tmp_path / "configs", config.replace("phi: [0, 1, 2]", "phi: [0]").replace("store: store\n", ""))
    tiny.rename(tiny.with_name("digits.yaml"))
    shutil.copy(tiny.with_name("digits.yaml"), tiny.with_name("imagenet.yaml"))
    Store(tmp_path / ".effnet").prepare()
    shutil.copytree(prefect_home, tmp_path / ".effnet" / "prefect")
    site = Site(tmp_path)
    try:
        yield site
    finally:
        for process in site.started:
            kill_family(process)
        servers.stop(tmp_path / ".effnet")


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def fenced(path: Path) -> list[str]:
    """Return the commands of a page's first fenced block, without their comments."""
    block = re.search(r"```sh\n(.*?)```", path.read_text(), re.DOTALL)
    assert block is not None
    return [line.split(" #")[0].strip() for line in block[1].splitlines() if line.strip()]


@pytest.mark.slow
def test_tutorial_as_printed_leads_to_runs_that_only_die_when_they_are_dead(site: Site) -> None:
    up, deploy, worker = fenced(TUTORIAL)
    told = site.shell(up)
    login = servers.login(site.folder / ".effnet")
    assert servers.login_page(site.folder / ".effnet").as_uri() in told
    assert login not in told
    _mistake_is_told(site)
    site.read(_automation_of_an_earlier_version)
    told = site.shell(deploy)
    deployed = time.monotonic()
    assert login not in told
    (line,) = re.findall(r"^  (.* worker start --pool effnet)$", told, re.MULTILINE)
    (now,) = re.findall(r"^  (.* deployment run build_family/digits)$", told, re.MULTILINE)
    assert _bare(line) == _bare(worker)

    # Every active schedule has runs within a minute.
    wait_until(lambda: all(site.read(deployment.active_schedules).values()), 60 - (time.monotonic() - deployed))
    assert list(site.read(deployment.active_schedules)) == ["build_family/digits (0 3 * * *)"]
    assert re.search(r"^ok  schedules   1 active, [1-9]\d* runs scheduled$", site.shell("effnet doctor"), re.MULTILINE)

    (site.folder / "foreign.py").write_text(FOREIGN)
    (url,) = re.findall(r"PREFECT_API_URL=(\S+)", line)
    rounds = wanted(1, 15)
    for _ in range(rounds):
        site.start(f"{sys.executable} foreign.py", PREFECT_API_URL=url, PREFECT_API_AUTH_STRING=login)
        site.start(line)
        _healthy_runs_go_on_and_a_dead_one_is_found(site, now)
    show("runs that are healthy", {"own": rounds, "foreign": rounds}, {"marked as crashed": 0})


def _healthy_runs_go_on_and_a_dead_one_is_found(site: Site, now: str) -> None:
    runs = [_id(site.shell(now))]
    theirs = now.replace("build_family/digits", "theirs/nightly")
    wait_until(lambda: site.read(lambda client: _there(client, "theirs/nightly")), 60)
    runs.append(_id(site.shell(theirs)))
    wait_until(lambda: _names(site, runs) == ["Running", "Running"], 120)
    began = time.monotonic()
    while time.monotonic() < began + WINDOW + 15:
        assert _names(site, runs) == ["Running", "Running"]
        time.sleep(2)

    # Both machines lose power: nobody is left to tell of it.
    for process in site.started:
        kill_family(process)
    site.started.clear()
    _kill_run(runs[0])
    wait_until(lambda: _names(site, runs)[0] == "Crashed", WINDOW + 60)
    assert _names(site, runs) == ["Crashed", "Running"]


def _bare(line: str) -> str:
    """Return a command without what differs from machine to machine: folders and ports."""
    return re.sub(r"\S*/(?=prefect |\.effnet)|:\d+", "", line)


def _mistake_is_told(site: Site) -> None:
    path = site.folder / "configs/digits.yaml"
    right = path.read_text()
    path.write_text(right.replace("epochs: 10000", "epochs: none"))
    done = run_effnet("deploy", cwd=site.folder)
    assert done.returncode == 2
    assert done.stderr == 'effnet: configs/digits.yaml: recipe.epochs: input should be a valid integer (got "none")\n'
    path.write_text(right)


def _automation_of_an_earlier_version(client: Any) -> None:
    """Make the one that took every run on the server for dead that was silent for a while; twice, as some have it."""
    trigger = EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.heartbeat", "prefect.flow-run.Completed"},
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=20),
    )
    crash = ChangeFlowRunState(state=StateType.CRASHED)
    for _ in range(2):
        client.create_automation(AutomationCore(name=deployment.AUTOMATION, trigger=trigger, actions=[crash]))


def _there(client: Any, name: str) -> bool:
    from prefect.exceptions import ObjectNotFound

    try:
        return bool(client.read_deployment_by_name(name))
    except ObjectNotFound:
        return False


def _id(told: str) -> str:
    return re.findall(r"UUID: ([0-9a-f-]{36})", told)[0]


def _names(site: Site, runs: list[str]) -> list[str]:
    def ask(client: Any) -> list[str]:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=runs)))
        return [str(run.state_name) for run in sorted(found, key=lambda run: runs.index(str(run.id)))]

    return list(site.read(ask))


def _kill_run(run: str) -> None:
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("PREFECT__FLOW_RUN_ID") == run:
            process.send_signal(signal.SIGKILL)


def test_schedule_without_a_run_is_found(deployed: str, tmp_path: Path) -> None:
    environment = {"PREFECT_API_URL": deployed, "PREFECT_API_AUTH_STRING": logins[deployed]}
    done = run_effnet("doctor", "--store", tmp_path, cwd=tmp_path, **environment)  # that server has no scheduler
    assert done.returncode == 70
    assert "x   schedules   no runs are scheduled for build_family/digits (0 3 * * *)  → a minute after" in done.stdout


def test_window_is_as_long_as_servers_are_waited_for_and_three_of_the_slowest_beats() -> None:
    assert deployment.silence([]) == 1800 + 3 * 180
    assert deployment.silence([30, 30]) == 1800 + 3 * 180  # a run may come from elsewhere
    assert deployment.silence([30, 600]) == 1800 + 3 * 600
