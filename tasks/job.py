"""What a job of a work pool does on its machine: fetch, carry out here, hand back; a heartbeat meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import Field

from effnet.config import LocalCompute
from effnet.errors import ConfigError, EffnetError, RunFailedError
from effnet.exchange import Exchange
from effnet.runs import RunFolder
from effnet.storage import is_remote
from effnet.store import Store, digest
from effnet.values import Value
from tasks.patience import Patience
from tasks.placement import Order, carry_out

BEAT_SECONDS = 5.0  # between heartbeats, and between looks for what is new
SCRATCH = "EFFNET_SCRATCH"  # where a job keeps fetched data and runs; else the machine's temporary folder


class PoolJob(Value):
    """A job: the flow's only parameter."""

    place: Annotated[str, Field(min_length=1, description="the store that is shared, or the exchange")]
    shared: Annotated[bool, Field(description="whether the place is the store itself")]
    orders: Annotated[tuple[Order, ...], Field(min_length=1)]
    parallel: Annotated[int, Field(ge=0, le=256, description="orders at a time; 0: one per core")] = 0
    threads: Annotated[int, Field(ge=1, le=256, description="threads of each child process")] = 1
    gpus: Annotated[int, Field(ge=0, le=64, description="that must be found, or the job fails at once")] = 0
    cache_bytes: Annotated[int, Field(gt=0, description="of the disk, for fetched shards")] = 100_000_000_000
    attempt: Annotated[int, Field(ge=1, description="counted from 1; another one is another job")] = 1


def do_job(job: PoolJob, name: str, say: Callable[[str], None], warn: Callable[[str], None]) -> None:
    """Do a job.

    Args:
        job: what to do.
        name: of its heartbeat.
        say: told what is done.
        warn: told what children warn of.

    Raises:
        EffnetError: see tasks.dispatch.run_jobs, and effnet.exchange.
    """
    require_gpus(job.gpus)
    store = _store(job)
    exchange = Exchange(job.place, store)
    keys = list(dict.fromkeys(key for order in job.orders for key in order.runs))
    with _beating(exchange, name):
        patient = Patience("exchange", warn)
        folders = []
        if not job.shared:
            folders = [patient(lambda key=key: exchange.take(key, job.cache_bytes)) for key in keys]  # type: ignore[misc]
        sender = _Sender(exchange, folders, patient)

        def done(order: Order) -> None:
            say(f"{order.name}: done")

        try:
            compute = LocalCompute(parallel=job.parallel, threads=job.threads)
            carry_out(job.orders, compute, store, tick=sender.tick, done=done, warn=warn)
        finally:
            patient(sender.send)  # results, or the checkpoint that was written when it was asked to stop


def require_gpus(wanted: int) -> None:
    """Make sure that GPUs are there and work, before anything is fetched.

    Raises:
        RunFailedError: if they are not or do not.
    """
    if not wanted:
        return
    import torch

    where = f"{os.uname().nodename}, torch {torch.__version__}"
    found = torch.cuda.device_count()
    if found < wanted:
        raise RunFailedError(
            f"{found} GPUs here, {wanted} wanted ({where}); check the driver, the image and the pool's GPU count"
        )
    for number in range(wanted):
        try:
            torch.ones(1, device=f"cuda:{number}").add(1).cpu()
        except Exception as error:
            raise RunFailedError(f"GPU {number} does not work ({str(error).splitlines()[0]}; {where})") from error


def _store(job: PoolJob) -> Store:
    if job.shared:
        store = Store(Path(job.place))
        if is_remote(job.place) or not store.root.is_dir():
            raise ConfigError(
                f"{job.place}: no such folder on {os.uname().nodename}; mount the store there, or set compute.exchange"
            )
        return store
    scratch = os.environ.get(SCRATCH) or Path(tempfile.gettempdir()) / "effnet"
    store = Store(Path(scratch).absolute() / digest(job.place)[:16])
    store.prepare()
    return store


@contextmanager
def _beating(exchange: Exchange, name: str) -> Iterator[None]:
    """Say now and then that the job is alive; a place that is away for a while does not matter."""
    ended = threading.Event()

    def beat() -> None:
        for count in itertools.count():
            with contextlib.suppress(EffnetError, OSError):
                exchange.beat(name, count)
            if ended.wait(BEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(BEAT_SECONDS)


class _Sender:
    """Sends what is new of runs, now and then."""

    def __init__(self, exchange: Exchange, folders: list[RunFolder], patience: Patience) -> None:
        self._exchange, self._folders, self._patience = exchange, folders, patience
        self._last = time.monotonic()

    def tick(self) -> None:
        if time.monotonic() - self._last >= BEAT_SECONDS:
            self._patience.once(self.send)
            self._last = time.monotonic()

    def send(self) -> None:
        for folder in self._folders:
            self._exchange.send(folder)
