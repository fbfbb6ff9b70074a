"""Servers that stay, and one that ends with its flow: real processes, real ports."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings

from effnet.errors import ConfigError, RunFailedError
from tasks.servers import local as servers
from tasks.servers.local import PREFECT, PrefectApi, Server
from tests.tiny import clean_environment


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    servers.stop(tmp_path)


@pytest.fixture
def used(root: Path, prefect_home: Path) -> Path:
    """A store in which Prefect's database is there already."""
    shutil.copytree(prefect_home, root / "prefect")
    return root


def test_up_steps_over_ports_in_use_and_down_ends_every_process(used: Path) -> None:
    root = used
    said: list[str] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--mlflow-port {port}: in use"):
            servers.start(root, {"mlflow": port}, said.append)
        assert servers.running(root) == []

        found = servers.start(root, {}, said.append)
        assert [server.name for server in found] == ["prefect", "mlflow"]
        assert servers.start(root, {}, said.append) == found  # a second time changes nothing
        assert json.load(urllib.request.urlopen(found[0].url + "/api/health")) is True
        answers_its_own_page_alone(*(server.url for server in found))
        keeps_its_login(root, found[0])
        page = urllib.request.urlopen(found[1].url).read().decode()
        assert "<title>MLflow</title>" in page

        with PrefectApi(root, None) as api:
            assert api.url() == found[0].url + "/api"
        for host in ("127.0.0.1", "localhost"):  # of a terminal in which its address is set
            url = found[0].url.replace("127.0.0.1", host) + "/api/"
            assert PrefectApi(root, url).login == servers.login(root)
        assert PrefectApi(root, "http://elsewhere.example:4200/api").login is None

    processes = [psutil.Process(server.pid) for server in found]
    family = [member for process in processes for member in (process, *process.children(recursive=True))]
    assert servers.stop(root) == found
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in family)
    assert servers.stop(root) == []


@pytest.mark.slow
def test_another_server_that_took_the_port_meanwhile_is_not_taken_for_ours(
    used: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Healthy) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        monkeypatch.setattr(servers, "_is_free", lambda _port: True)  # as it was a moment ago
        with pytest.raises(RunFailedError, match=r"Prefect server: exited while starting .*address already in use"):
            servers.start(used, {"prefect": other.server_port}, lambda _line: None)
        other.shutdown()
    assert servers.running(used) == []


def test_ports_in_use_are_stepped_over_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(servers, "_is_free", lambda port: port >= 4203)
    assert servers._choose_port(PREFECT, None, said.append) == 4203
    assert said == ["Prefect: port 4200 is in use, taking 4203"]
    with pytest.raises(ConfigError, match="--prefect-port 4201: in use"):
        servers._choose_port(PREFECT, 4201, said.append)


def test_reused_process_id_is_not_a_server(root: Path) -> None:
    other = psutil.Process()
    server = Server(name="prefect", url="http://127.0.0.1:1", pid=other.pid, started=other.create_time() - 1000)
    servers._note(root, [server])
    assert servers.running(root) == []
    assert servers.stop(root) == []  # and this test is still alive


def test_configured_server_that_does_not_answer_is_told(root: Path) -> None:
    with PrefectApi(root, "http://127.0.0.1:9/api") as api, pytest.raises(ConfigError, match="does not answer"):
        api.url()


def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Return the status of an answer, and the origin whose scripts may read it."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, method=method, headers=names)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers.get("access-control-allow-origin", "")
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("access-control-allow-origin", "")


def answers_its_own_page_alone(prefect: str, mlflow: str | None = None) -> None:
    there = f"{prefect}/api/flow_runs/filter"
    for method in ("POST", "DELETE"):
        asked = {"Access_Control_Request_Method": method}
        assert ask(there, "OPTIONS", Origin="https://foreign.example", **asked) == (400, "")
        assert ask(there, "OPTIONS", Origin="http://127.0.0.1:9", **asked) == (400, "")
        assert ask(there, "OPTIONS", Origin=prefect, **asked) == (200, prefect)
    assert ask(f"{prefect}/api/health", Host="foreign.example")[0] == 400
    assert ask(there, "POST")[0] == 401  # what a page can send without asking: it is not logged in
    if mlflow:
        assert ask(mlflow, Host="foreign.example")[0] == 403
        search = f"{mlflow}/api/2.0/mlflow/experiments/search"
        assert ask(search, "POST", Origin="https://foreign.example", Content_Type="application/json")[0] == 403


def keeps_its_login(root: Path, server: Server) -> None:
    path = servers.login_path(root)
    login = path.read_text()
    page = servers.login_page(root)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, page)] == [0o600, 0o600]
    family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    assert not any(login in " ".join(process.cmdline()) for process in family)
    secret = login.partition(":")[2].encode()
    holding = [each.name for each in root.rglob("*") if each.is_file() and secret in each.read_bytes()]
    assert sorted(holding) == ["login", "login.html"]


def test_wrong_login_is_told_as_one(used: Path) -> None:
    with PrefectApi(used, None) as api:
        url = api.url()
        answers_its_own_page_alone(url.removesuffix("/api"))
        configured = PrefectApi(used, url)  # by somebody else's settings
        refused = pytest.raises(ConfigError, match="refuses the login; set PREFECT_API_AUTH_STRING")
        with temporary_settings({PREFECT_API_AUTH_STRING: "effnet:wrong"}), refused:
            configured.url()
        with temporary_settings({PREFECT_API_AUTH_STRING: api.login}):
            assert configured.url() == url


def test_a_login_that_does_not_fit_on_the_disk_is_none(root: Path) -> None:
    script = (
        "import resource, signal, sys; from pathlib import Path; from tasks.servers.local import login\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "login(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(root)], capture_output=True, text=True)
    assert "File too large" in done.stderr
    assert len(servers.login(root)) > 32  # not the empty one that was begun
    assert [path.name for path in (root / "prefect").iterdir()] == ["login"]


def start_temporary(root: Path) -> subprocess.Popen[bytes]:
    """Start a process that has a temporary server, prints its address, and ends with its standard input."""
    code = (
        "import sys, pathlib; from tasks.servers.local import PrefectApi\n"
        "with PrefectApi(pathlib.Path(sys.argv[1]), None) as api:\n"
        "    print(api.url(), flush=True); sys.stdin.read()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment()
    )


@pytest.mark.slow
def test_two_that_begin_at_once_in_a_new_store_both_get_a_server(root: Path) -> None:
    both = [start_temporary(root) for _ in range(2)]
    told = [process.communicate(timeout=300)[0] for process in both]
    assert all(line.startswith(b"http://127.0.0.1:") for line in told)
    assert [process.returncode for process in both] == [0, 0]


FLOW = """
import pathlib, sys
from tasks.servers.prefect_setup import configured_api, connected
from tasks.servers.local import PrefectApi
configured_api()
from prefect import flow

@flow
def wait():
    print("runs", flush=True)
    sys.stdin.read()

with PrefectApi(pathlib.Path(sys.argv[1]), None) as api, connected(api.url(), login=api.login):
    wait()
"""


def test_temporary_server_ends_when_its_flow_is_killed(used: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FLOW, str(used)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=clean_environment(),
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"runs\n"
    (server,) = psutil.Process(process.pid).children()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs([server], timeout=10)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
