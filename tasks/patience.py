"""Waiting for servers that are away: told once when they go and once when they are back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from effnet.errors import AwayError
from tasks import interrupt

OUTAGE_SECONDS = 1800.0  # trainings go on meanwhile
POLL_SECONDS = 1.0
_T = TypeVar("_T")


class Patience:
    """Repeats calls to a server while it is away.

    Args:
        server: its name, for people.
        warn: told when it goes and when it is back.
        away: says in a line that an error means that the server is away, or None; without it, AwayError does.
    """

    def __init__(
        self, server: str, warn: Callable[[str], None], away: Callable[[Exception], str | None] | None = None
    ) -> None:
        self._server, self._warn = server, warn
        self._away = away or (lambda error: str(error) if isinstance(error, AwayError) else None)
        self._since: float | None = None

    def __call__(self, call: Callable[[], _T]) -> _T:
        """Return what a call gives; raise AwayError if the server stays away too long."""
        while True:
            try:
                answer = call()
            except Exception as error:
                reason = self._away(error)
                if reason is None:
                    raise
                self._wait(reason, error)
                continue
            if self._since is not None:
                self._since = None
                self._warn(f"{self._server}: back")
            return answer

    def once(self, call: Callable[[], object]) -> None:
        """Call once; that the server is away does not matter, another call will come."""
        try:
            call()
        except Exception as error:
            if self._away(error) is None:
                raise

    def _wait(self, reason: str, error: Exception) -> None:
        interrupt.check()
        now = time.monotonic()
        if self._since is None:
            self._since = now
            self._warn(f"{self._server}: away ({reason}); trainings go on, waiting for it")
        if now - self._since > OUTAGE_SECONDS:
            raise AwayError(
                f"{self._server}: away for {OUTAGE_SECONDS / 60:.0f} min ({reason}); run the command again later"
            ) from error
        time.sleep(POLL_SECONDS)
