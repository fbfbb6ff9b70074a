"""A Ray cluster of several nodes on this machine, each with a loopback address of its own."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from tests.tiny import clean_environment

HEAD = "127.0.0.2"
RAY = Path(sys.executable).parent / "ray"


class Nodes:
    """A head without processors, and nodes with one each; it ends by `close`, and touches no other Ray."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: paths of sockets have at most 107 bytes
        with socket.socket() as probe:
            probe.bind((HEAD, 0))
            self.address = f"{HEAD}:{probe.getsockname()[1]}"
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
        token["RAY_worker_niceness"] = "0"  # else a busy machine starves them
        root = str(Path(__file__).parents[3])
        self.environment = clean_environment() | token | {"HOME": str(self.folder), "PYTHONPATH": root}
        self._up: set[str] = set()

    def start(self, *nodes: str) -> None:
        """Start the head and nodes by their addresses, if they do not run."""
        if HEAD not in self._up:
            port = self.address.rpartition(":")[2]
            self._start(HEAD, "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false")
        for node in nodes:
            if node not in self._up:
                self._start(node, f"--address={self.address}", "--num-cpus=1")

    def scratch(self, node: str) -> Path:
        """Return the folder that is the disk of a node."""
        return self.folder / node

    def kill(self, node: str, what: str = "raylet") -> None:
        """Kill a node's raylet with SIGKILL, or the head's gcs_server."""
        for process in self._processes():
            line = process.cmdline()
            if Path(line[0]).name == what and any(word.endswith(f"address={node}") for word in line):
                process.kill()
                self._up.discard(node)
                return
        raise AssertionError(f"no {what} of {node}")

    def hosts(self) -> set[int]:
        """Return the processes of actors that carry out orders."""
        ours = {child.pid for process in self._processes() for child in process.children(recursive=True)}
        return {pid for pid in ours if _title(pid).startswith("ray::Host")}

    def close(self) -> None:
        """End all of it."""
        ours = list(self._processes())
        ours += [child for process in ours for child in process.children(recursive=True)]
        for process in ours:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(ours, timeout=20)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _processes(self) -> list[psutil.Process]:
        def is_ours(process: psutil.Process) -> bool:
            with contextlib.suppress(psutil.Error):
                return str(self.folder) in " ".join(process.cmdline())
            return False

        return [process for process in psutil.process_iter() if is_ours(process)]

    def _start(self, node: str, *options: str) -> None:
        command = [str(RAY), "start", f"--node-ip-address={node}", "--object-store-memory=80000000", *options]
        if "--head" in options:
            command.append(f"--temp-dir={self.folder}")
        self.scratch(node).mkdir(exist_ok=True)
        environment = self.environment | {"EFFNET_SCRATCH": str(self.scratch(node)), "TMPDIR": str(self.folder)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        self._up.add(node)


def _title(pid: int) -> str:
    with contextlib.suppress(psutil.Error):
        return "".join(psutil.Process(pid).cmdline())
    return ""


def driver(nodes: Nodes, *words: str, **environment: str) -> subprocess.Popen[str]:
    """Start a process that drives orders (tests.tasks.compute.ray_driver); what it says is on its standard error."""
    command = [sys.executable, "-m", "tests.tasks.compute.ray_driver", *words]
    env = nodes.environment | {"EFFNET_LOGS": str(nodes.folder)} | environment
    return subprocess.Popen(command, env=env, cwd=nodes.folder, stderr=subprocess.PIPE, text=True, errors="replace")
