"""Child processes that start immediately: forked from a process that has already imported torch and effnet.

An import of torch takes two seconds, a small training not much more. The standard library's fork server imports the
parent's main module in every child (Prefect's, in a deployment) and does not end children whose parent is gone.

`python -P -m tasks.compute.forkserver ALIVE_FD` is the process that forks; without -P, a `tasks` in the working
folder would be imported instead of ours. It reads requests and writes their outcomes, as JSON lines; it exits once its
standard input is closed and its last child has ended.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import json
import os
import runpy
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from effnet.process import PARENT_PIPE, die_with_parent, keep_nice, last_resort

# pyarrow.dataset is what the first look at an index imports, and pandas with it: half a second in every child.
PRELOADED = ("effnet.train.loop", "effnet.train.checkpoint", "effnet.evaluation.run", "pyarrow.dataset")
POLL_SECONDS = 0.02


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
            [sys.executable, "-P", "-m", "tasks.compute.forkserver", str(alive)],
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
        self._started = itertools.count(1)
        self._talk = threading.Lock()  # one at a time

    @property
    def running(self) -> bool:
        """Whether it can start children."""
        return self._server.poll() is None

    def start(self, name: str, module: str, arguments: Sequence[str], log: Path, changes: Mapping[str, str]) -> Fork:
        """Start `python -m module arguments`, with this process's environment and `changes`; append to the log.

        `ps` and `top` show the child by its name.
        """
        number = next(self._started)
        request = {"child": number, "name": name, "module": module, "arguments": list(arguments), "log": str(log)}
        environment = dict(os.environ) | {PARENT_PIPE: "1"} | self._threads | dict(changes)
        self._send(request | {"folder": str(Path.cwd()), "environment": environment})
        return Fork(self, number)

    def code(self, child: int) -> int | None:
        """Return a child's exit code, the negative signal that killed it, or None while it runs."""
        self._read()
        if child not in self._codes and not self.running:
            self._read()
            self._codes.setdefault(child, -signal.SIGKILL)  # children die with the server
        return self._codes.get(child)

    def signal(self, child: int, number: int) -> None:
        """Send a signal to a child, if it still runs."""
        self._send({"child": child, "signal": int(number)})

    def close(self) -> None:
        """Let the server exit once its children have ended."""
        with contextlib.suppress(OSError):
            self._server.stdin.close()  # type: ignore[union-attr]
        os.close(self._alive)

    def _send(self, request: dict[str, Any]) -> None:
        with self._talk, contextlib.suppress(OSError):  # it is gone: code() tells
            self._server.stdin.write(json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]
            self._server.stdin.flush()  # type: ignore[union-attr]

    def _read(self) -> None:
        with self._talk:
            *lines, self._unread = (self._unread + (self._server.stdout.read() or b"")).split(b"\n")  # type: ignore[union-attr]
            for line in lines:
                told = json.loads(line)
                self._codes[told["child"]] = told["code"]


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


def main() -> None:
    """Fork on request."""
    alive = int(sys.argv[1])
    keep_nice()
    for name in PRELOADED:
        with contextlib.suppress(Exception):  # the child that needs it will say what is wrong
            importlib.import_module(name)
    gc.freeze()  # what is imported stays shared between the children
    children: dict[int, tuple[int, int]] = {}  # by pidfd: the child's number, its process id
    unread, open_ = b"", True
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        while open_ or children:
            for key, _ in selector.select():
                if key.fd in children:  # it has ended
                    selector.unregister(key.fd)
                    _tell_end(key.fd, *children.pop(key.fd))
                    continue
                data = os.read(0, 1 << 16)
                if not data:
                    open_ = False
                    selector.unregister(0)
                *lines, unread = (unread + data).split(b"\n")
                for line in lines:
                    _obey(json.loads(line), children, selector, alive)


def _obey(
    request: dict[str, Any], children: dict[int, tuple[int, int]], selector: selectors.BaseSelector, alive: int
) -> None:
    if number := request.get("signal"):
        for descriptor, (child, _) in children.items():
            if child == request["child"]:
                signal.pidfd_send_signal(descriptor, number)
        return
    pid = os.fork()
    if not pid:
        _become(request, alive)
    descriptor = os.pidfd_open(pid)
    children[descriptor] = (request["child"], pid)
    selector.register(descriptor, selectors.EVENT_READ)


def _tell_end(descriptor: int, child: int, pid: int) -> None:
    """Tell how a child ended."""
    os.close(descriptor)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError):
        os.write(1, json.dumps({"child": child, "code": code}).encode() + b"\n")


def _become(request: dict[str, Any], alive: int) -> NoReturn:
    """Turn this forked process into what was asked for."""
    code = 70
    try:
        die_with_parent()
        os.setsid()
        keep_nice()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        for source, target in ((alive, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        Path("/proc/self/comm").write_bytes(request["name"].encode()[:15].decode(errors="ignore").encode())
        sys.argv = [request["module"], *request["arguments"]]
        environment = request["environment"]
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(request["folder"])
        sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:  # before child_main was reached: the module itself is broken
        sys.stderr.write(last_resort(error)[0] + "\n")
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
