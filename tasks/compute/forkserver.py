"""Child processes that start immediately: forked from a process that has already imported torch and effnet.

An import of torch takes two seconds, a small training not much more. The standard library's fork server imports the
parent's main module in every child (Prefect's, in a deployment) and does not end children whose parent is gone.
tasks/compute/forking.py is the process that forks.

A child that uses a GPU can be kept: it then does one job after the other, because each process that begins to use a
GPU sets CUDA and its libraries up anew, which takes longer than a small training.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from effnet.process import PARENT_PIPE

POLL_SECONDS = 0.02


class Place(NamedTuple):
    """Where a process can be kept."""

    device: str
    how: tuple[tuple[str, str], ...] = ()  # what else of its environment it cannot change any more


class ForkServer:
    """The client side, which requests children; safe to use from several threads.

    Args:
        threads: number that OpenMP and BLAS libraries may use in every child; they read it when they are loaded.
    """

    def __init__(self, threads: int) -> None:
        alive, self._alive = os.pipe()  # children see its end when this process is gone, however it ended
        number = str(threads)
        self._threads = {"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number}  # ranks are processes that read them too
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-m", "tasks.compute.forking", str(alive)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(alive,),
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then stops the children in order
            env=os.environ | self._threads,
        )
        os.close(alive)
        assert self._server.stdout  # noqa: S101
        os.set_blocking(self._server.stdout.fileno(), False)
        self._unread = b""
        self._codes: dict[int, int] = {}
        self._places: dict[int, Place] = {}  # of children that may be kept, or are, by number
        self._idle: list[int] = []  # those that wait for another job
        self._started = itertools.count(1)
        self._talk = threading.Lock()  # one at a time

    @property
    def running(self) -> bool:
        """Whether it can start children."""
        return self._server.poll() is None

    def start(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        log: Path,
        changes: Mapping[str, str],
        place: Place | None = None,
    ) -> Fork:
        """Start `python -m module arguments`, with this process's environment and `changes`; append to the log.

        `ps` and `top` show the child by its name.

        Args:
            name: for people.
            module: to run.
            arguments: of the command line.
            log: where the output goes.
            changes: to the environment.
            place: if the child ends with 0, its process waits for another job there. Without it the child has a process
                of its own, and finds no other one waiting anywhere.
        """
        number = next(self._started)
        environment = dict(os.environ) | {PARENT_PIPE: "1"} | self._threads | dict(changes)
        request = {"child": number, "name": name, "module": module, "arguments": list(arguments), "log": str(log)}
        request |= {"folder": str(Path.cwd()), "environment": environment, "keep": place is not None}
        self._read()
        with self._talk:
            if place is not None:
                self._places[number] = place
            waiting = [child for child in self._idle if self._places[child] == place]
            if waiting:
                self._idle.remove(waiting[0])
                request["by"] = waiting[0]
            else:
                self._let_go(place.device if place else None)
            self._send(request)
        return Fork(self, number)

    def _let_go(self, device: str | None) -> None:
        """Let processes end that wait on a device, or on any."""
        for child in tuple(self._idle):
            if device is None or self._places[child].device == device:
                self._send({"let_go": child})
                self._idle.remove(child)

    def code(self, child: int) -> int | None:
        """Return a child's exit code, the negative signal that killed it, or None while it runs."""
        self._read()
        if child not in self._codes and not self.running:
            self._read()
            self._codes.setdefault(child, -signal.SIGKILL)  # children die with the server
            self._idle.clear()
        return self._codes.get(child)

    def signal(self, child: int, number: int) -> None:
        """Send a signal to a child, if it still runs."""
        with self._talk:
            self._send({"child": child, "signal": int(number)})

    def close(self) -> None:
        """Let the server exit once its children have ended."""
        with contextlib.suppress(OSError):
            self._server.stdin.close()  # type: ignore[union-attr]
        os.close(self._alive)

    def _send(self, request: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it is gone: code() tells
            self._server.stdin.write(json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]
            self._server.stdin.flush()  # type: ignore[union-attr]

    def _read(self) -> None:
        with self._talk:
            *lines, self._unread = (self._unread + (self._server.stdout.read() or b"")).split(b"\n")  # type: ignore[union-attr]
            for line in lines:
                told = json.loads(line)
                self._codes.setdefault(told["child"], told["code"])
                if told.get("waits"):
                    self._idle.append(told["child"])
                elif told["child"] in self._idle:  # it has died
                    self._idle.remove(told["child"])


class Fork:
    """A child, with the methods of subprocess.Popen that are used."""

    def __init__(self, server: ForkServer, number: int) -> None:
        self._server, self._number = server, number

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""
        return self._server.code(self._number)

    def wait(self, timeout: float) -> int:
        """Return its exit code when it has ended; raise TimeoutExpired after so many seconds."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"child {self._number}", timeout)
            time.sleep(POLL_SECONDS)
        return code

    def terminate(self) -> None:
        """Ask it to stop."""
        self._server.signal(self._number, signal.SIGTERM)

    def kill(self) -> None:
        """Kill it."""
        self._server.signal(self._number, signal.SIGKILL)
