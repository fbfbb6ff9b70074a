"""Calls to a server that may be away, or that accepts and never answers: bounded in total time, and retried later.

No setting of a client bounds a server that sends a byte a second, so each call has its own thread, which is
abandoned when time is up.
"""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from effnet.errors import AwayError

QUICK_SECONDS = 5.0  # a call that takes longer is warned about
PATIENCE_SECONDS = 40.0  # total beyond that, for all calls of a breaker together
RETRY_SECONDS = 60.0  # until a failed server is probed again; doubled every time,
LONGEST_SECONDS = 900.0  # up to this, so that even after many failures a server that is back is noticed

_T = TypeVar("_T")
_inside = threading.local()


class Breaker:
    """A circuit breaker: makes calls only while the server answers, and probes now and then whether it is back.

    Args:
        server: its name, for people.
        probe: a short call that fails while the server is away.
        warn: told what is waited for, and that the server is back.
    """

    def __init__(self, server: str, probe: Callable[[], object], warn: Callable[[str], None]) -> None:
        self._server, self._probe, self._warn = server, probe, warn
        self._patience, self._delay = PATIENCE_SECONDS, RETRY_SECONDS
        self._retry_at = 0.0
        self._open = self._answered = False

    def closed(self) -> bool:
        """Say whether calls may be made; while they may not, this starts a probe of the server now and then."""
        if self._open and self._answered:
            self._open = self._answered = False
            self._warn(f"{self._server}: back; sending what it missed")
        elif self._open and time.monotonic() > self._retry_at:
            self._put_off()
            threading.Thread(target=self._look, daemon=True, name="probe").start()
        return not self._open

    def call(self, work: Callable[[], _T], allowance: float) -> _T:
        """Return a call's result; any error opens the circuit. A nested call counts as part of the outer one.

        Args:
            work: the call.
            allowance: seconds that it may take beyond the usual, for what it computes or uploads.

        Raises:
            AwayError: if it takes too long.
            Exception: what the call raises.
        """
        if getattr(_inside, "call", False):
            return work()
        try:
            result: _T = self._bounded(work, allowance)
        except Exception:
            self._open = True
            self._put_off()
            raise
        return result

    def _put_off(self) -> None:
        self._retry_at = time.monotonic() + self._delay
        self._delay = min(2 * self._delay, LONGEST_SECONDS)

    def _look(self) -> None:
        try:
            self._probe()
        except Exception:  # it is away still
            return
        self._answered = True

    def _bounded(self, work: Callable[[], Any], allowance: float) -> Any:
        answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        context = contextvars.copy_context()

        def run() -> None:
            _inside.call = True
            try:
                answers.put((True, context.run(work)))
            except BaseException as error:  # whatever it is, it is raised where it is waited for
                answers.put((False, error))

        threading.Thread(target=run, daemon=True, name=self._server).start()
        done, value = self._wait(answers, QUICK_SECONDS + allowance)
        if not done:
            raise value
        return value

    def _wait(self, answers: queue.SimpleQueue[tuple[bool, Any]], quick: float) -> tuple[bool, Any]:
        try:
            return answers.get(timeout=quick)
        except queue.Empty:
            pass
        limit, started = max(self._patience, 0.0), time.monotonic()
        if limit >= 1:
            self._warn(f"{self._server}: no answer for {quick:.0f} s; waiting up to {limit:.0f} s more")
        try:
            return answers.get(timeout=limit)
        except queue.Empty:
            raise AwayError(f"no answer for {quick + limit:.0f} s") from None
        finally:
            self._patience -= time.monotonic() - started
