"""What every child process of a family does: stop when asked, stop when its parent is gone, fail in one line."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NoReturn

import psutil

from effnet import machine
from effnet.errors import EffnetError, MachineError

# Set by the parent that holds the other end of the child's standard input. Its end means that the parent is gone,
# however it ended: nobody is left to take the result, so the child saves its state and stops.
PARENT_PIPE = "EFFNET_PARENT_PIPE"

GRACE_SECONDS = 20.0  # who is asked to stop has this long to save; Prefect kills a flow run after 30

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_PR_SET_PDEATHSIG = 1  # prctl.h
_stopping = False  # a plain value: a signal's handler sets it, which must wait for no lock
WARNING = "warning: "  # lines that begin so are shown to the person at the terminal


def child_main(main: Callable[[], None]) -> NoReturn:
    """Run `main` and leave with the exit code of what happened; errors are one line on standard error."""
    code = 0
    try:
        try:
            main()
        except Exception as error:
            machine.raise_if_broken(error)
            raise
    except EffnetError as error:
        if isinstance(error, MachineError):
            traceback.print_exc()  # whoever looks after the machine wants to know where
        _print(str(error))
        code = error.exit_code
    except Exception:
        traceback.print_exc()
        code = EffnetError.exit_code
    if stopping():  # at once: threads may be waiting for a server that is away
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def keep_memory() -> None:
    """Let the C library keep memory that is freed, and give it out again, instead of returning it to the system.

    A training step frees and takes the same large tensors over and over; each time the system has to clear their pages
    anew. On two cores that costs half of the time (benchmarks/train.py). Does nothing where there is no glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def die_with_parent() -> None:
    """Let the system kill this process when the one that started it is gone (Linux; elsewhere nothing happens).

    For ranks: without their launcher nobody would tell them that another rank is gone, and they would wait for it.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:  # it was gone before
            os.kill(os.getpid(), signal.SIGKILL)


def say(line: str) -> None:
    """Note something in the log."""
    _print(line)


def warn(line: str) -> None:
    """Say something that the person should know, and go on."""
    _print(WARNING + line)


def stop_on_signals(request: Callable[[str], None]) -> None:
    """Call `request` with a reason on SIGTERM, on SIGINT and when the parent is gone; `stopping` is true from then."""

    def stop(reason: str) -> None:
        note_stopping()
        request(reason)

    signal.signal(signal.SIGTERM, lambda *_: stop("asked to stop"))
    signal.signal(signal.SIGINT, lambda *_: stop("asked to stop"))
    if os.environ.get(PARENT_PIPE):
        threading.Thread(target=_watch_parent, args=(stop,), daemon=True).start()


def note_stopping(asked: bool = True) -> None:
    """Let all waits of this process know that it was asked to stop."""
    global _stopping
    _stopping = asked


def stopping() -> bool:
    """Say whether this process was asked to stop: nothing is waited for any longer than it takes to save."""
    return _stopping


def process_started() -> float:
    """Return the Unix time in seconds at which this process began."""
    return float(psutil.Process().create_time())


def _print(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _watch_parent(request: Callable[[str], None]) -> None:
    # Unbuffered: the interpreter cannot shut down while a daemon thread holds the buffer's lock.
    while os.read(0, 1):
        pass
    request("the process that started it is gone")
