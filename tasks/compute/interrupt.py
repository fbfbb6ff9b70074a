"""A request to stop that cannot get lost.

The signal raises KeyboardInterrupt wherever the main thread happens to be. If that is inside a callback of a library or
of the garbage collector, Python prints the exception and carries on; so the request is remembered, and raised again at
the next call of `check`.
"""

from __future__ import annotations

import signal
import threading

from effnet.process import note_stopping

_asked = threading.Event()


def install() -> None:
    """Let SIGINT and SIGTERM ask this process to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _interrupt())


def ask() -> None:
    """Ask this process to stop, as a signal does; for threads."""
    note_stopping()
    _asked.set()


def check() -> None:
    """Raise KeyboardInterrupt if the process was asked to stop."""
    if _asked.is_set():
        raise KeyboardInterrupt


def done() -> None:
    """Ignore further requests: the process is exiting, and another signal would replace its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _interrupt() -> None:
    ask()
    raise KeyboardInterrupt
