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

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_PR_SET_PDEATHSIG = 1  # prctl.h
WARNING = "warning: "  # lines that begin so are shown to the person at the terminal


def child_main(main: Callable[[], None]) -> NoReturn:
    """Run `main` and leave with the exit code of what happened; errors are one line on standard error."""
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
        sys.exit(error.exit_code)
    except Exception:
        traceback.print_exc()
        sys.exit(EffnetError.exit_code)
    sys.exit(0)


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
    """Call `request` with a reason on SIGTERM, on SIGINT and when the parent is gone."""
    signal.signal(signal.SIGTERM, lambda *_: request("asked to stop"))
    signal.signal(signal.SIGINT, lambda *_: request("asked to stop"))
    if os.environ.get(PARENT_PIPE):
        threading.Thread(target=_watch_parent, args=(request,), daemon=True).start()


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
