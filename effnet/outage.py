"""Servers that are away: how long they are waited for, and what people are told meanwhile."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from effnet.errors import ConfigError

SETTING = "EFFNET_OUTAGE_SECONDS"
OUTAGE_SECONDS = 1800.0  # how long a server is waited for, unless the setting says otherwise
TELL_SECONDS = 5.0  # a shorter wait is not reported

_waits: ContextVar[bool] = ContextVar("waits", default=True)


def outage_seconds() -> float:
    """Return how many seconds a server that is away is waited for."""
    text = os.environ.get(SETTING, "")
    if not text:
        return OUTAGE_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ConfigError(f"{SETTING}={text[:40]}: write a number of seconds, 0 or more")
    return seconds


@contextmanager
def impatient() -> Iterator[None]:
    """Wait for no server in this block: the caller waits itself, or has other things to do."""
    token = _waits.set(False)
    try:
        yield
    finally:
        _waits.reset(token)


def waits() -> bool:
    """Say whether a server that is away is to be waited for here."""
    return _waits.get()


class Outage:
    """Reports one server's absence: a line after TELL_SECONDS, and one when it is back. Thread-safe.

    Args:
        server: its name, for people.
        tell: called with each line.
        note: what else people should know while it is away.
    """

    def __init__(self, server: str, tell: Callable[[str], None], note: str = "") -> None:
        self._server, self._tell, self._note = server, tell, note
        self._since: float | None = None
        self._told = False
        self._lock = threading.Lock()

    def failed(self, since: float, reason: str) -> float:
        """Note that a request first made at `since` (time.monotonic) fails; return how long the server is away."""
        with self._lock:
            self._since = since if self._since is None else min(self._since, since)
            away = time.monotonic() - self._since
            if away >= TELL_SECONDS and not self._told:
                self._told = True
                limit = f"waiting for it, up to {duration(outage_seconds())}"
                self._tell(f"{self._server}: away for {away:.0f} s ({reason}); {self._note}{limit}")
            return away

    def answered(self) -> None:
        """Note that the server is there."""
        if self._since is None:  # read without the lock: this runs after every request
            return
        with self._lock:
            if self._told and self._since is not None:
                self._tell(f"{self._server}: back after {time.monotonic() - self._since:.0f} s")
            self._since, self._told = None, False


def duration(seconds: float) -> str:
    """Return seconds as people say them."""
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
