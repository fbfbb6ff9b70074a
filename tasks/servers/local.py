"""The servers of a store: Prefect's, and MLflow's page, on this machine.

`start` and `stop` are for servers that stay up (`effnet up`, `effnet down`); these are recorded in servers.json by
process id and start time, so that a reused process id is never taken for a server. `PrefectApi` gives a flow an
existing server, or a temporary one that ends with the flow.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from effnet.errors import ConfigError, RunFailedError
from effnet.process import PARENT_PIPE
from effnet.runs import read_value
from effnet.store import Store, hold, new_file, publish
from effnet.values import Value
from tasks.servers.prefect_history import trim
from tasks.servers.prefect_server import LOGIN_PAGE

HOST = "127.0.0.1"  # no server of ours is reachable from another machine
START_SECONDS = 240.0  # a first start makes the database: 14 s on a quiet machine, over 120 s seen under load
STOP_SECONDS = 15.0
PORTS_TRIED = 100


@dataclass(frozen=True)
class Kind:
    """One kind of server."""

    name: str
    title: str
    port: int  # where people look for it
    health: str  # path that answers 200 once the server works


PREFECT = Kind("prefect", "Prefect", 4200, "/api/health")
MLFLOW = Kind("mlflow", "MLflow", 5000, "/health")
KINDS = (PREFECT, MLFLOW)


class Server(Value):
    """A server that stays until it is stopped."""

    name: str
    url: str
    pid: int
    started: float  # Unix seconds at which the process began


class Servers(Value):
    """servers.json."""

    servers: tuple[Server, ...] = ()


def prefect_database(root: Path) -> Path:
    """Return where a store's Prefect keeps its flow runs."""
    return root / "prefect" / "prefect.db"


def start(root: Path, ports: Mapping[str, int | None], say: Callable[[str], None]) -> list[Server]:
    """Start what does not run yet; return all servers of the store.

    Args:
        root: the store's folder.
        ports: by kind's name, a port that must be used; None steps over ports in use.
        say: told about ports that were stepped over.

    Raises:
        ConfigError: if a port that must be used is taken.
        RunFailedError: if a server ends or does not answer in time; what was started is stopped.
    """
    with hold(root / "servers.lock"):
        found = {server.name: server for server in running(root)}
        started: list[tuple[Kind, Server]] = []
        try:
            missing = [kind for kind in KINDS if kind.name not in found]
            chosen = [_choose_port(kind, ports.get(kind.name), say) for kind in missing]
            for kind, port in zip(missing, chosen, strict=True):
                found[kind.name] = server = _launch(kind, port, root)
                started.append((kind, server))
            # Recorded before they answer, so that `effnet down` finds them even if this start is killed.
            _note(root, found.values())
            for kind, server in started:
                _wait_until_healthy(kind, server.url, server.pid, root)
        except BaseException:
            for kind, server in started:
                _end(server)
                del found[kind.name]
            _note(root, found.values())
            raise
        _write_login_page(root, found[PREFECT.name].url)
    return [found[kind.name] for kind in KINDS]


def stop(root: Path) -> list[Server]:
    """Stop the servers of the store; return those that ran."""
    with hold(root / "servers.lock"):
        stopped = running(root)
        for server in stopped:
            _end(server)
        (root / "servers.json").unlink(missing_ok=True)
    return stopped


def running(root: Path) -> list[Server]:
    """Return the servers of the store whose processes live."""
    noted = read_value(Servers, root / "servers.json") or Servers()
    return [server for server in noted.servers if _is(server)]


def is_of_store(root: Path, api: str) -> bool:
    """Say whether an API's address, with 127.0.0.1 or localhost, is that of a server of the store."""
    here = api.rstrip("/").replace("//localhost:", f"//{HOST}:", 1)
    return here in [f"{server.url}/api" for server in running(root)]


class PrefectApi:
    """A Prefect API for one flow: the configured one, the store's server, or a temporary one that ends with the block.

    The temporary server starts when the block is entered; `url` waits for it, so imports can go on meanwhile. Until it
    answers, no other server of the store starts: two that create the database at once break each other's start.

    Args:
        root: the store's folder.
        configured: address that the user configured, if any.
    """

    def __init__(self, root: Path, configured: str | None) -> None:
        self.root, self.configured = root, configured
        self._process: subprocess.Popen[bytes] | None = None
        self._own_url = ""
        self._starting = contextlib.ExitStack()

    @property
    def in_store(self) -> bool:
        """Whether the server's database is the store's own."""
        return not self.configured

    @property
    def pages(self) -> str | None:
        """Where `effnet up` will show this server's pages once it has ended, if it is temporary; else None."""
        return f"http://{HOST}:{PREFECT.port}" if self._process else None

    @property
    def login(self) -> str | None:
        """The login of the store's server; None for another one, whose login, if any, is in the user's settings."""
        return login(self.root) if not self.configured or is_of_store(self.root, self.configured) else None

    def __enter__(self) -> PrefectApi:
        if self.configured:
            return self
        self._starting.enter_context(hold(self.root / "servers.lock"))
        here = [server.url for server in running(self.root) if server.name == PREFECT.name]
        if here:
            self._own_url = here[0]
            self._starting.close()
            return self
        trim(prefect_database(self.root))
        port = _free_port()
        self._own_url = f"http://{HOST}:{port}"
        with _log(self.root, "prefect-temporary").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tasks.servers.prefect_server", str(port)],
                stdin=subprocess.PIPE,  # when it closes, the server knows that this process is gone
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C must not end it before the flow
                env=_environment(PREFECT, self.root, port) | {PARENT_PIPE: "1"},
            )
        return self

    def __exit__(self, *_error: object) -> None:
        if process := self._process:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._starting.close()

    def url(self) -> str:
        """Return the API's address once it answers.

        Raises:
            ConfigError: if the configured server does not answer.
            RunFailedError: if a server of its own does not start.
        """
        if self._process:
            _wait_until_healthy(PREFECT, self._own_url, self._process.pid, self.root, "prefect-temporary")
            self._starting.close()
        url = (self.configured or f"{self._own_url}/api").rstrip("/")
        if not _answers(f"{url}/health", seconds=10):
            raise ConfigError(
                f"Prefect server {url}: does not answer; start it, or unset PREFECT_API_URL to have one started here"
            )
        if self.configured and not self.login and _status(f"{url}/admin/version", 10, _credentials()) in (401, 403):
            raise ConfigError(
                f"Prefect server {url}: refuses the login; set PREFECT_API_AUTH_STRING (of a server of your own) or "
                "PREFECT_API_KEY (of Prefect Cloud) to the right one"
            )
        return url


def _credentials() -> str:
    """Return the header by which the user's settings log in to the server that they name."""
    from prefect.settings import get_current_settings

    api = get_current_settings().api
    if api.auth_string:
        return "Basic " + base64.b64encode(api.auth_string.get_secret_value().encode()).decode()
    return f"Bearer {api.key.get_secret_value()}" if api.key else ""


def login_path(root: Path) -> Path:
    """Return where the login of the store's Prefect server is kept, readable by its owner alone."""
    return root / "prefect" / "login"


def login(root: Path) -> str:
    """Return the login of the store's Prefect server; create it if there is none.

    Other users of this machine can reach the server's port too, and anyone who can talk to it can have our workers run
    its deployments.
    """
    path = login_path(root)
    if not path.exists():
        with contextlib.suppress(FileExistsError):
            _write_private(path, f"effnet:{secrets.token_hex(16)}", replace=False)
    return path.read_text()


def login_page(root: Path) -> Path:
    """Return the page that, opened in a browser on this machine, logs in to the store's Prefect server.

    As Jupyter does: the login need not be printed, so it cannot end up in a log.
    """
    return login_path(root).with_suffix(".html")


def _write_login_page(root: Path, url: str) -> None:
    there = f"{url}{LOGIN_PAGE}#{login(root)}"
    page = f'<!doctype html><title>Prefect</title><meta http-equiv="refresh" content="0; {there}">'
    _write_private(login_page(root), page, replace=True)


def _write_private(path: Path, text: str, *, replace: bool) -> None:
    """Write a file readable by its owner alone, atomically: an empty login would lock everybody out."""
    with new_file(path, replace=replace) as temporary:
        temporary.touch(0o600)
        temporary.write_text(text)


def database(root: Path) -> Path:
    """Return where the store's MLflow database lies."""
    return root / "mlflow.db"


def mlflow_uri(root: Path) -> str:
    """Return the tracking URI of the store's MLflow database."""
    return f"sqlite:///{database(root)}"


def _launch(kind: Kind, port: int, root: Path) -> Server:
    commands = {
        PREFECT.name: ["tasks.servers.prefect_server", str(port)],
        MLFLOW.name: ["tasks.records.server", str(port), mlflow_uri(root), (root / "artifacts").as_uri()],
    }
    with _log(root, kind.name).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", *commands[kind.name]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=root,
            env=_environment(kind, root, port),
        )
    started = psutil.Process(process.pid).create_time()
    return Server(name=kind.name, url=f"http://{HOST}:{port}", pid=process.pid, started=started)


def _environment(kind: Kind, root: Path, port: int) -> dict[str, str]:
    base = os.environ | {"DO_NOT_TRACK": "true", "PYTHONSAFEPATH": "1"}  # for the processes that they start
    hosts = [f"{host}:{port}" for host in (HOST, "localhost")]
    pages = ",".join(f"http://{host}" for host in hosts)  # only scripts from these origins may send requests
    if kind is MLFLOW:
        return base | {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves seven processes, for jobs that no family has
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts),
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": pages,
        }
    home = root / "prefect"
    return base | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{prefect_database(root)}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",  # deletes runs after 90 days, events after 7
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": pages,
        "PREFECT_SERVER_API_AUTH_STRING": login(root),
    }


def _choose_port(kind: Kind, wanted: int | None, say: Callable[[str], None]) -> int:
    if wanted is not None:
        if not _is_free(wanted):
            raise ConfigError(
                f"--{kind.name}-port {wanted}: in use; name another port, or leave it out to have one chosen"
            )
        return wanted
    for port in range(kind.port, kind.port + PORTS_TRIED):
        if _is_free(port):
            if port != kind.port:
                say(f"{kind.title}: port {kind.port} is in use, taking {port}")
            return port
    raise ConfigError(f"{kind.title}: ports {kind.port} to {kind.port + PORTS_TRIED - 1} are all in use; name one")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port in TIME_WAIT is free
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(kind: Kind, url: str, pid: int, root: Path, log: str | None = None) -> None:
    """Wait until the server answers, and check that it is this process: another may have taken the port."""
    deadline = time.monotonic() + START_SECONDS
    path, port = _log(root, log or kind.name), urlsplit(url).port
    while not (_is_open(port) and _listens(pid, port) and _answers(url + kind.health, seconds=2)):
        if not _alive(pid):
            lines = path.read_text(errors="replace").strip().splitlines()
            told = next(
                (line for line in reversed(lines) if "Errno" in line), (lines or ["it printed nothing"])[-1]
            ).strip()
            raise RunFailedError(f"{kind.title} server: exited while starting ({told}); its output is in {path}")
        if time.monotonic() > deadline:
            raise RunFailedError(f"{kind.title} server: no answer in {START_SECONDS:.0f} s; its output is in {path}")
        time.sleep(0.1)


def _is_open(port: int | None) -> bool:
    """Say whether anybody listens at a port: much cheaper than who, which delays a server that is starting."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port or 0), timeout=1):
        return True
    return False


def _listens(pid: int, port: int | None) -> bool:
    """Say whether a process, or one that it started, listens at a port."""
    try:
        process = psutil.Process(pid)
        sockets = [each for one in (process, *process.children(recursive=True)) for each in one.net_connections("tcp")]
    except psutil.Error:  # one of them ends just now
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in sockets)


def _answers(url: str, seconds: float) -> bool:
    return _status(url, seconds) == 200


def _status(url: str, seconds: float, credentials: str = "") -> int | None:
    """Return the status of a server's answer; None if there is none."""
    request = urllib.request.Request(url, headers={"Authorization": credentials} if credentials else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=seconds) as response:  # noqa: S310 - an http address
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return None


def _end(server: Server) -> None:
    """Stop a server and the processes it started."""
    try:
        process = psutil.Process(server.pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for member in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(left, timeout=STOP_SECONDS)


def _is(server: Server) -> bool:
    """Say whether a noted process is still the one that was noted."""
    try:
        process = psutil.Process(server.pid)
        return bool(abs(process.create_time() - server.started) < 1 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _note(root: Path, servers: Iterable[Server]) -> None:
    noted = Servers(servers=tuple(servers))
    publish(root / "servers.json", noted.model_dump_json(indent=2).encode())


def _log(root: Path, name: str) -> Path:
    path = Store(root).logs / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
