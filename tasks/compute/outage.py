"""Waiting for servers that are away: one warning when a server goes away, and one when it is back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from effnet.errors import AwayError
from effnet.exchange import Exchange
from effnet.order import Order
from effnet.outage import Outage, duration, impatient, outage_seconds
from effnet.runs import RunFolder
from effnet.store import Store
from tasks.compute import interrupt

POLL_SECONDS = 1.0
QUIET_SECONDS = 15.0  # after a failure, calls that need not wait are skipped for so long
_T = TypeVar("_T")


class Patience:
    """Repeats calls to a server while it is away.

    Args:
        server: its name, for people.
        warn: told when the server goes away and when it is back.
        away: returns a one-line reason if an error means that the server is away, else None; by default, only AwayError
            means that.
    """

    def __init__(
        self, server: str, warn: Callable[[str], None], away: Callable[[Exception], str | None] | None = None
    ) -> None:
        self._server, self._outage = server, Outage(server, warn, "trainings go on, ")
        self._away = away or (lambda error: str(error) if isinstance(error, AwayError) else None)
        self._quiet_until = 0.0

    def __call__(self, call: Callable[[], _T]) -> _T:
        """Return what a call gives; raise AwayError if the server stays away too long."""
        began: float | None = None
        while True:
            asked = time.monotonic()
            try:
                with impatient():
                    answer = call()
            except Exception as error:
                reason = self._away(error)
                if reason is None:
                    raise
                began = began or asked
                self._wait(began, reason, error)
                continue
            self._outage.answered()
            return answer

    def once(self, call: Callable[[], object]) -> None:
        """Call once; it does not matter if the server is away, since another call will follow."""
        if (asked := time.monotonic()) < self._quiet_until:
            return
        try:
            with impatient():
                call()
        except Exception as error:
            reason = self._away(error)
            if reason is None:
                raise
            self._outage.failed(asked, reason)
            self._quiet_until = time.monotonic() + QUIET_SECONDS
        else:
            self._outage.answered()

    def _wait(self, began: float, reason: str, error: Exception) -> None:
        interrupt.check()
        self._outage.failed(began, reason)
        if time.monotonic() - began > outage_seconds():
            raise AwayError(
                f"{self._server}: away for {duration(outage_seconds())} ({reason}); run the command again later"
            ) from error
        time.sleep(POLL_SECONDS)


def collect(order: Order, store: Store, exchange: Exchange, patient: Patience, *, results: bool) -> None:
    """Fetch what an order's runs have sent: news, which may wait for another time, or their results."""
    for folder in (RunFolder(store.runs / key) for key in order.runs):
        if results:
            patient(lambda folder=folder: exchange.pull(folder, results=True))  # type: ignore[misc]
        else:
            patient.once(lambda folder=folder: exchange.pull(folder))  # type: ignore[misc]
