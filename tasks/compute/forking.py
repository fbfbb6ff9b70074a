"""`python -P -m tasks.compute.forking ALIVE_FD`: the process that forks children (tasks/compute/forkserver.py).

Without -P, a `tasks` in the working folder would be imported instead of ours. It reads requests and writes their
outcomes, as JSON lines; it exits once its standard input is closed and its last child has ended.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from effnet.process import BEGUN, die_with_parent, keep_nice, last_resort, note_stopping

# pyarrow.dataset is what the first look at an index imports, and pandas with it: half a second in every child.
PRELOADED = ("effnet.train.loop", "effnet.train.checkpoint", "effnet.evaluation.run", "pyarrow.dataset")


@dataclass
class _Child:
    number: int  # of the job that it does, or did last
    pid: int
    jobs: int = -1  # the end of a pipe into which further jobs are written; -1: none
    ends: int = -1  # the end of a pipe that tells of each job that is done


class _Children:
    """The children that live.

    Args:
        selector: wakes up for them.
        alive: a descriptor whose end of file tells children that whoever wanted them is gone.
    """

    def __init__(self, selector: selectors.BaseSelector, alive: int) -> None:
        self._selector, self._alive = selector, alive
        self._living: dict[int, _Child] = {}  # by pidfd

    def __bool__(self) -> bool:
        return bool(self._living)

    def obey(self, request: dict[str, Any]) -> None:
        """Start a child, give another job to one, let one go, or send a signal to one."""
        if number := request.get("signal"):
            for descriptor, child in self._living.items():
                if child.number == request["child"]:
                    signal.pidfd_send_signal(descriptor, number)
        elif (number := request.get("let_go")) is not None:
            for child in self._living.values():
                if child.number == number:
                    _close(child)
        elif "by" in request:
            self._give(request)
        else:
            self._fork(request)

    def look(self, descriptor: int) -> None:
        """Tell what became of a child that woke the selector up."""
        if descriptor in self._living:  # it has ended
            child = self._living.pop(descriptor)
            self._selector.unregister(descriptor)
            code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
            if child.ends >= 0:
                self._selector.unregister(child.ends)
                os.close(child.ends)
            _close(child)
            os.close(descriptor)
            _tell({"child": child.number, "code": code})
            return
        for child in self._living.values():
            if child.ends == descriptor and os.read(descriptor, 1):
                _tell({"child": child.number, "code": 0, "waits": True})
                return
        time.sleep(0.001)  # the end of a pipe: its process is about to end

    def let_all_go(self) -> None:
        """Let children that wait for another job end."""
        for child in self._living.values():
            _close(child)

    def _give(self, request: dict[str, Any]) -> None:
        for child in self._living.values():
            if child.number == request["by"] and child.jobs >= 0:
                child.number = request["child"]
                with contextlib.suppress(BrokenPipeError):  # its end will be told
                    os.write(child.jobs, json.dumps(request).encode() + b"\n")
                return
        _tell({"child": request["child"], "code": -signal.SIGKILL})  # it died meanwhile

    def _fork(self, request: dict[str, Any]) -> None:
        read, jobs = os.pipe() if request["keep"] else (-1, -1)
        ends, write = os.pipe() if request["keep"] else (-1, -1)
        pid = os.fork()
        if not pid:
            for descriptor, child in self._living.items():  # what it holds open would keep others from ending
                for each in (descriptor, child.jobs, child.ends):
                    _close_one(each)
            for each in (jobs, ends):
                _close_one(each)
            _become(request, self._alive, read, write)
        for each in (read, write):
            _close_one(each)
        descriptor = os.pidfd_open(pid)
        self._living[descriptor] = _Child(request["child"], pid, jobs, ends)
        for each in (descriptor, ends):
            if each >= 0:
                self._selector.register(each, selectors.EVENT_READ)


def main() -> None:
    """Fork on request."""
    alive = int(sys.argv[1])
    keep_nice()
    for name in PRELOADED:
        with contextlib.suppress(Exception):  # the child that needs it will say what is wrong
            importlib.import_module(name)
    gc.freeze()  # what is imported stays shared between the children
    unread, open_ = b"", True
    with selectors.DefaultSelector() as selector:
        children = _Children(selector, alive)
        selector.register(0, selectors.EVENT_READ)
        while open_ or children:
            for key, _ in selector.select():
                if key.fd != 0:
                    children.look(key.fd)
                    continue
                data = os.read(0, 1 << 16)
                if not data:
                    open_ = False
                    selector.unregister(0)
                    children.let_all_go()
                *lines, unread = (unread + data).split(b"\n")
                for line in lines:
                    children.obey(json.loads(line))


def _tell(outcome: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(outcome).encode() + b"\n")


def _close(child: _Child) -> None:
    """Let a child end once it has nothing to do."""
    _close_one(child.jobs)
    child.jobs = -1


def _close_one(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)


def _become(request: dict[str, Any], alive: int, jobs: int, ends: int) -> NoReturn:
    """Turn this forked process into what was asked for; if it is to be kept, into one such thing after the other."""
    code = 70
    try:
        die_with_parent()
        os.setsid()
        keep_nice()
        os.dup2(alive, 0)
        code = _run(request)
        if jobs >= 0:
            with os.fdopen(jobs) as lines:
                while code == 0:
                    _tidy()
                    os.write(ends, b".")
                    line = lines.readline()
                    if not line:
                        break
                    os.environ[BEGUN] = str(time.time())
                    code = _run(json.loads(line))
    finally:
        os._exit(code)


def _tidy() -> None:
    """Leave nothing of the last job behind; what it took of a GPU is given back, CUDA itself stays."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    note_stopping(False)
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _run(request: dict[str, Any]) -> int:
    """Run a module as a program; return the exit code."""
    code = 70
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        for target in (1, 2):
            os.dup2(log, target)
        os.close(log)
        Path("/proc/self/comm").write_bytes(request["name"].encode()[:15].decode(errors="ignore").encode())
        sys.argv = [request["module"], *request["arguments"]]
        begun = os.environ.get(BEGUN)
        os.environ.clear()
        os.environ.update(request["environment"] | ({BEGUN: begun} if begun else {}))
        os.chdir(request["folder"])
        paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        sys.path[:0] = [path for path in paths if path not in sys.path]
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
    return code


if __name__ == "__main__":
    main()
