"""`python -m tests.forked FD`: the process that forks `effnet` commands of tests, which share the imports.

A command is still a process of its own, with its arguments, folder, environment, output, signals and exit code: it only
begins with the modules that are imported already. What is about imports themselves, and what a test starts otherwise,
gets a new interpreter.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

# Prefect is not among them: it reads its settings when it is imported.
PRELOADED = ("effnet.train.loop", "effnet.evaluation.run", "effnet.evaluation.predictor", "pyarrow.dataset", "mlflow")
_ASKING = threading.Lock()  # a request is sent in two pieces
_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "ERROR"}  # as tasks.records.tracking has it


def run(module: str, arguments: list[str], cwd: str, env: dict[str, str], timeout: float) -> tuple[int, str, str]:
    """Run a module as a program in a forked process; return its exit code, output and errors.

    Raises:
        subprocess.TimeoutExpired: it was killed, as it took longer than `timeout` seconds.
    """
    ours, theirs = socket.socketpair()
    request = json.dumps({"module": module, "arguments": arguments, "cwd": cwd, "env": env}).encode()
    with ours, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        with theirs, _ASKING:
            descriptors = [theirs.fileno(), output.fileno(), errors.fileno()]
            socket.send_fds(_server(), [len(request).to_bytes(4)], descriptors)
            _server().sendall(request)
        with ours.makefile("rb") as answers:
            pid = int(answers.readline())
            ours.settimeout(timeout)
            try:
                code = int(answers.readline())
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired([module, *arguments], timeout, _text(output), _text(errors)) from None
        return code, _text(output), _text(errors)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode().replace("\r\n", "\n").replace("\r", "\n")  # as subprocess's text has it


@cache
def _server() -> socket.socket:
    """Start the process that forks, once; it ends with this one."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "tests.forked", str(theirs.fileno())]
        options: dict[str, Any] = {"cwd": Path(__file__).parents[1], "env": os.environ | _QUIET}
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL, **options)

    def end() -> None:
        ours.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()

    atexit.register(end)
    return ours


def main() -> dict[str, Any]:
    """Fork on request, until whoever asks is gone; in a forked process, return the request."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at a terminal, it is for the tests and their commands
    requests = socket.socket(fileno=int(sys.argv[1]))
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # what is imported stays shared
    while True:
        size, descriptors, *_ = socket.recv_fds(requests, 4, 3)
        if not size:
            sys.exit()
        request = json.loads(requests.recv(int.from_bytes(size), socket.MSG_WAITALL))
        if not os.fork():
            requests.close()
            return _fork(request, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _fork(request: dict[str, Any], answers: int, output: int, errors: int) -> dict[str, Any]:
    """Fork once more; return in the process that is to be the command, while this one tells how it ends."""
    if pid := os.fork():
        os.write(answers, b"%d\n" % pid)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(BrokenPipeError):
            os.write(answers, b"%d\n" % code)
        os._exit(0)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    for descriptor in (answers, output, errors):
        os.close(descriptor)
    return request


def _become(request: dict[str, Any]) -> NoReturn:
    """Become the command; end as an interpreter does, but leave what it imported to the operating system."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = [request["module"], *request["arguments"]]
    sys.path[0] = request["cwd"]
    code: Any = None
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
        if code is not None and not isinstance(code, int):
            sys.stderr.write(f"{code}\n")
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    _become(main())
