"""The servers of infra/compose.yaml as processes of this machine, with the settings that the file gives them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.operations.pools import kill_family
from tests.tiny import clean_environment

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "infra" / "compose.yaml"
CANARY = "c4naryS3cret"  # part of every secret: it must be found nowhere else
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
_COMPOSE = (str(Path(sys.executable).with_name("docker-compose")), "-f", str(COMPOSE), "--env-file", os.devnull)
SERVERS = ("postgres", "prefect", "mlflow")


class Stack:
    """PostgreSQL, Prefect and MLflow in a folder.

    Args:
        folder: of all their data and logs.
        s3: what replaces the S3 store's settings: its environment variables; without them artifacts are files.
    """

    def __init__(self, folder: Path, s3: dict[str, str] | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.secrets = {name: f"{name.lower()}-{CANARY}" for name in _secret_names()}
        self.secrets |= {name: "somebody" for name in self.secrets if name.endswith("_USER")}  # no secret
        self._ports = {name: free_port() for name in SERVERS}
        self._s3 = s3 or {}
        self._composed = self._compose()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What clients need, workers for example."""
        return self._translated(self._composed["services"]["worker"]["environment"])

    def url(self, server: str) -> str:
        """Return the address of Prefect or MLflow."""
        return f"http://127.0.0.1:{self._ports[server]}"

    def start(self) -> None:
        """Start everything."""
        self._make_databases()
        self.start_server("prefect")
        self.start_server("mlflow")

    def stop(self) -> None:
        """Stop everything."""
        for name in ("mlflow", "prefect"):
            with contextlib.suppress(KeyError):
                self.kill(name)
        self.stop_postgres()

    def start_server(self, name: str) -> None:
        """Start Prefect or MLflow with the command and the environment of its service, and wait until it answers."""
        service = self._composed["services"][name]
        command = [word.replace("0.0.0.0", "127.0.0.1") for word in service["command"]]  # noqa: S104
        if name == "prefect":
            command += ["--port", str(self._ports[name])]
        else:
            command[command.index("5000")] = str(self._ports[name])
        home = self.folder / f"{name}-home"
        home.mkdir(exist_ok=True)
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=home,
                env=clean_environment() | {"PREFECT_HOME": str(home)} | self._translated(service["environment"]),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        health = self.url(name) + ("/api/health" if name == "prefect" else "/health")
        deadline = time.monotonic() + 120
        while status(health) != 200:
            assert self._processes[name].poll() is None, (self.folder / f"{name}.log").read_text()[-3000:]
            assert time.monotonic() < deadline, f"{name} does not come up"
            time.sleep(0.2)

    def kill(self, name: str) -> None:
        """Kill a server with all its processes."""
        kill_family(self._processes.pop(name))

    def start_postgres(self) -> None:
        """Start the database server."""
        options = f"-p {self._ports['postgres']} -c listen_addresses=127.0.0.1 -k {self._data}"
        self._postgres("pg_ctl", "-D", str(self._data), "-o", options, "-l", str(self._data / "log"), "-w", "start")

    def stop_postgres(self) -> None:
        """Stop the database server as a crash does."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self._postgres("pg_ctl", "-D", str(self._data), "-m", "immediate", "stop")

    def sql(self, database: str, statement: str) -> str:
        """Return what a statement gives."""
        return self._postgres(
            *("psql", "-h", str(self._data), "-p", str(self._ports["postgres"]), "-U", "effnet", "-d", database),
            *("-v", "ON_ERROR_STOP=1", "-At", "-c", statement),
        )

    def dump(self) -> str:
        """Return all databases as text."""
        return self._postgres("pg_dumpall", "-h", str(self._data), "-p", str(self._ports["postgres"]), "-U", "effnet")

    @property
    def _data(self) -> Path:
        return Path(f"/tmp/effnet-pg-{os.getpid()}-{self._ports['postgres']}")  # noqa: S108 - sockets need short names

    def _make_databases(self) -> None:
        service = self._composed["services"]["postgres"]["environment"]
        self._data.mkdir(mode=0o700)
        if os.getuid() == 0:
            shutil.chown(self._data, "postgres", "postgres")
        secret = self._data.with_suffix(".password")
        secret.write_text(service["POSTGRES_PASSWORD"])
        secret.chmod(0o644)
        self._postgres(
            *("initdb", "-D", str(self._data), "-U", "effnet", "--pwfile", str(secret)),
            *("--auth-host=scram-sha-256", "--auth-local=trust", "-E", "UTF8", "--locale=C.UTF-8"),
        )
        secret.unlink()
        self.start_postgres()
        self.sql("postgres", "CREATE DATABASE prefect")
        for line in (ROOT / "infra" / "docker" / "databases.sql").read_text().splitlines():
            if line.startswith("CREATE"):
                self.sql("postgres", line)

    def _postgres(self, program: str, *arguments: str) -> str:
        assert POSTGRES
        user = {"user": "postgres"} if os.getuid() == 0 else {}
        with (self.folder / "postgres.log").open("a") as log:  # a pipe would be kept open by the server
            return subprocess.run(
                [str(POSTGRES / program), *arguments],
                cwd="/",
                check=True,
                stderr=log,
                text=True,
                stdout=log if program == "pg_ctl" else subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                **user,
            ).stdout

    def _compose(self) -> dict[str, Any]:
        """Return the compose file as Compose reads it."""
        done = subprocess.run(
            [*_COMPOSE, "config", "--format", "json"],
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)} | self.secrets,
            capture_output=True,
            text=True,
            check=True,
        )
        return dict(json.loads(done.stdout))

    def _translated(self, environment: dict[str, str]) -> dict[str, str]:
        """Return a service's environment with the addresses of this machine."""
        auth = self.folder / "basic_auth.ini"
        auth.write_text(self._here(self._composed["configs"]["mlflow_auth"]["content"]))
        found = {name: self._here(value) for name, value in environment.items()} | self._s3
        for name in ("AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL"):
            if name in found:
                found[name] = self._s3.get("AWS_ENDPOINT_URL", found[name])
        if "MLFLOW_ARTIFACTS_DESTINATION" in found and not self._s3:
            found["MLFLOW_ARTIFACTS_DESTINATION"] = str(self.folder / "artifacts")
        if "EFFNET_SCRATCH" in found:
            found["EFFNET_SCRATCH"] = str(self.folder / "scratch")
        return found

    def _here(self, text: str) -> str:
        for there, server in (("postgres:5432", "postgres"), ("prefect:4200", "prefect"), ("mlflow:5000", "mlflow")):
            text = text.replace(f"@{there}", f"@127.0.0.1:{self._ports[server]}")
            text = text.replace(f"//{there}", f"//127.0.0.1:{self._ports[server]}")
            text = text.replace(f"localhost:{there.split(':')[1]}", f"127.0.0.1:{self._ports[server]}")
        return text.replace("/etc/mlflow/basic_auth.ini", str(self.folder / "basic_auth.ini"))


@contextlib.contextmanager
def running_stack(folder: Path) -> Iterator[Stack]:
    """Run the stack while the block runs; skip the test, loudly, where there is no PostgreSQL."""
    if POSTGRES is None:
        pytest.skip("NO POSTGRESQL HERE: the stack of infra/compose.yaml is not tried")
    stack = Stack(folder)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def status(url: str, login: str = "", data: bytes | None = None, method: str | None = None, **headers: str) -> int:
    """Return the status of an answer; 0 if there is none."""
    import base64

    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    if login:
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _secret_names() -> list[str]:
    lines = (ROOT / "infra" / ".env.example").read_text().splitlines()
    return [line.partition("=")[0] for line in lines if "=" in line and not line.startswith("#")]
