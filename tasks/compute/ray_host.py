"""What runs on the machines of a Ray cluster: an actor that carries out one order after the other.

Its children are forked from a process that has torch loaded, and stay its own: a Ray worker takes as long to start as
any other process that imports torch, a small training not much longer.
"""

from __future__ import annotations

import os
import secrets
import threading
from typing import Any, NamedTuple

from effnet.errors import EffnetError, StoppedError
from effnet.exchange import Exchange
from effnet.process import report_to
from tasks.compute import interrupt
from tasks.compute.here import run_here
from tasks.compute.job import compute_of, handed_over, store_of
from tasks.compute.orders import PoolJob
from tasks.compute.outage import Patience
from tasks.compute.watch import Watch
from tasks.servers.gpus import VISIBLE, require_gpus


class Ended(NamedTuple):
    """How a job ended."""

    code: int  # 0, or the exit code of what stopped it
    line: str  # why


class Host:
    """Carries out jobs, one at a time.

    Args:
        on_gpu: whether it was given a GPU. Ray hides the others from such an actor, and none from any other.
    """

    def __init__(self, on_gpu: bool) -> None:
        self._news: list[str] = []
        self._one = threading.Lock()
        if not on_gpu:
            os.environ[VISIBLE] = ""

    def do(self, content: dict[str, Any]) -> Ended:
        """Do a job, which must be of one machine; return how it ended."""
        with self._one:
            try:
                self._do(PoolJob.model_validate(content))
            except EffnetError as error:
                return Ended(error.exit_code, str(error))
            except KeyboardInterrupt:
                return Ended(StoppedError.exit_code, "stopped, with its progress saved")
            return Ended(0, "")

    def _do(self, job: PoolJob) -> None:
        require_gpus(job.gpus)
        store = store_of(job)
        report_to(store.logs)
        patient = Patience("exchange", self._news.append)
        with handed_over(job, secrets.token_hex(8), Exchange(job.place, store), patient) as tick:
            run_here(job.orders, compute_of(job), store, Watch(self._news.append, tick))

    def news(self) -> list[str]:
        """Return what it warned of since the last call."""
        told, self._news[:] = list(self._news), []
        return told

    def stop(self) -> None:
        """Let the job that is under way end with its progress saved; another one must not follow."""
        interrupt.ask()
