"""A family from the form on Prefect's page: changed, suspended before it spends, resumed, told to a webhook."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from prefect.automations import AutomationCore
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.flow_runs import resume_flow_run

from effnet.store import Store
from tests.operations.pools import ROOT, Workers, connected, logins, wait_until
from tests.tiny import CONFIG, clean_environment, write_tiny

EXAMPLE = ROOT / "infra/prefect/automations.yaml"
BLOCK = "11111111-2222-3333-4444-555555555555"
SLOW = 600.0  # seconds, on a machine that does much else
LIMITED = CONFIG + "approve_above: {gpu_hours: 0.000001}\n"


class Listener:
    """A web server that keeps what is posted to it."""

    def __init__(self) -> None:
        self.posted: list[str] = []
        posted = self.posted

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                posted.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.server.shutdown()


def test_the_example_is_what_prefect_takes() -> None:
    found = yaml.safe_load(EXAMPLE.read_text().replace("WEBHOOK", BLOCK))["automations"]
    expected = [AutomationCore.model_validate(each).trigger.expect for each in found]  # type: ignore[union-attr]
    assert expected == [{"effnet.champion.changed"}, {"effnet.family.built"}]


def test_a_form_that_is_filled_in_wrongly_is_refused_at_once(deployed: str) -> None:
    with connected(deployed), pytest.raises(Exception, match="Validation failed"):
        run_deployment("build_family/digits", parameters={"change": {"recipe": "papre"}}, timeout=0)


@pytest.mark.slow
def test_a_run_from_the_form_asks_before_it_spends_and_tells_when_it_is_done(
    deployed: str, workers: Workers, listener: Listener, tmp_path: Path
) -> None:
    config = yaml.safe_load(write_tiny(tmp_path, LIMITED).read_text())
    store = Store(tmp_path / "store")
    change = {"family": "mine", "images": "", "phi": [0, 1], "recipe": "as in the config", "compute": "this machine"}
    _automate(deployed, listener, tmp_path)
    workers.start("effnet", "one")
    with connected(deployed), get_client(sync_client=True) as client:
        parameters = {"change": change, "config": config, "base": str(tmp_path), "store": str(store.root)}
        older = run_deployment("build_family/build-a-family", parameters=parameters, timeout=0)
        wait_until(lambda: _state(client, older) == "Suspended", SLOW)
        begun = run_deployment("build_family/build-a-family", parameters=parameters, timeout=0)

        def run() -> FlowRun:
            return client.read_flow_run(begun.id)

        def suspended() -> bool:
            state = run().state
            assert state
            assert not state.is_final(), state.message
            return state.name == "Suspended"

        wait_until(suspended, SLOW)
        assert _state(client, older) == "Cancelled"  # only the newest run asks
        assert run().name == "mine"
        assert not list(store.runs.glob("*"))  # not even begun
        _wait_for_process_to_end(str(begun.id))
        resume_flow_run(begun.id, run_input={"approved_by": "Ada"})
        wait_until(lambda: not suspended())
        wait_until(suspended, SLOW)  # before the members
        grid = {path: path.stat().st_mtime_ns for path in store.runs.glob("*/result.json")}
        assert len(grid) >= 2
        _wait_for_process_to_end(str(begun.id))
        resume_flow_run(begun.id, run_input={})
        wait_until(lambda: (state := run().state) and state.is_final(), SLOW)
        state = run().state
        assert state
        assert state.is_completed(), state.message
    (path,) = store.families.glob("*/family.json")
    result = json.loads(path.read_text())
    assert state.message == f"use {result['answer']['member']}: {result['answer']['because']}"
    assert (result["family"], [member["phi"] for member in result["members"]]) == ("mine", [0, 1])
    told = [(each["stage"], each["by"], each["how"]) for each in result["approvals"]]
    assert told == [("fit", "Ada", "on Prefect's page"), ("members", "", "on Prefect's page")]
    assert {each: each.stat().st_mtime_ns for each in grid} == grid  # nothing finished was trained again
    wait_until(lambda: len(listener.posted) == 3, 30)
    texts = sorted(json.loads(each)["text"] for each in listener.posted)
    assert texts[0].startswith(f"family mine: use {result['answer']['member']}, ")
    assert texts[1:] == [
        f"mine-b{number}: version 1 is champion (before: none): the first of its name" for number in (0, 1)
    ]


def _state(client: SyncPrefectClient, run: FlowRun) -> str | None:
    state = client.read_flow_run(run.id).state
    return state.name if state else None


def _automate(url: str, listener: Listener, folder: Path) -> None:
    """Make the example's automations with Prefect's own command."""
    with connected(url):
        block = Webhook(url=listener.url).save("effnet", overwrite=True)
    path = folder / "automations.yaml"
    path.write_text(EXAMPLE.read_text().replace("WEBHOOK", str(block)))
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "automation", "create", "--from-file", str(path)],
        env=clean_environment() | {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": logins[url]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _wait_for_process_to_end(run: str) -> None:
    """Wait until the process of a flow run is gone, and its worker has seen that: one with a limit ends otherwise."""

    def gone() -> bool:
        environments = (process.info["environ"] or {} for process in psutil.process_iter(["environ"]))
        return all(each.get("PREFECT__FLOW_RUN_ID") != run for each in environments)

    wait_until(gone, SLOW)
    time.sleep(3)
