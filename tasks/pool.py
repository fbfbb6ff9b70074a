"""Orders as jobs of a Prefect work pool: submitted, watched, started again when their machine vanishes, cancelled.

A job is a run of the deployment `run_job/POOL`. Its idempotency key is made from what it is to do and its attempt, so a
parent that was killed finds its jobs again, and only a job that ended badly is followed by another attempt.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from effnet.config import PoolCompute
from effnet.errors import AwayError, BusyError, ConfigError, DataError, EffnetError, RunFailedError, StoppedError
from effnet.exchange import Exchange
from effnet.runs import RunFolder, read_journal
from effnet.store import Store, digest
from tasks import interrupt
from tasks.job import BEAT_SECONDS, PoolJob
from tasks.patience import Patience
from tasks.placement import Order

FLOW = "run_job"
POLL_SECONDS = 1.0
ATTEMPTS = 5  # of a job that gets no further: its machine vanishes, or its run is held elsewhere
SILENT_SECONDS = 8 * BEAT_SECONDS  # a running job that says nothing for so long is taken for dead
UNTAKEN_SECONDS = 60.0  # a job that no worker takes is told of
STOP_SECONDS = 60.0  # cancelled jobs have this long to write their checkpoints

_NAMES: dict[str, type[EffnetError]] = {
    "Bad configuration": ConfigError,
    "Bad data": DataError,
    "Busy": BusyError,
    "Stopped": StoppedError,
}


def state_name(error: EffnetError) -> str:
    """Return the name of the state that a job ends in with an error."""
    return next((name for name, kind in _NAMES.items() if isinstance(error, kind)), "Failed")


@dataclass
class _Running:
    """A job that was submitted."""

    job: PoolJob
    run: UUID
    name: str
    tries: int  # by this parent, since the job last got further
    began: bool = False
    pulse: bytes | None = None
    heard: float = field(default_factory=time.monotonic)  # submitted, begun, or its pulse seen to change
    looked: float = 0.0  # at what it sent
    progress: int = 0  # bytes of journals when the attempt began
    warned: bool = False


def run_on_pool(
    orders: Sequence[Order],
    compute: PoolCompute,
    store: Store,
    *,
    tick: Callable[[], None],
    done: Callable[[Order], None],
    warn: Callable[[str], None],
) -> None:
    """Carry out all orders on a work pool, largest first.

    Args:
        orders: what to do.
        compute: the pool, and how to use it.
        store: of the family.
        tick: called every second while jobs run.
        done: called with every order that was carried out.
        warn: told about jobs that were started again, that no worker takes, and about a server that is away.

    Raises:
        EffnetError: of the kind that a job ended with, with its line; the other jobs are cancelled.
        BaseException: whatever interrupts the wait; the jobs are cancelled, each with a checkpoint.
    """
    if orders:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            _Pool(client, compute, store, warn).run(_batches(orders, compute.batch), tick, done)


def _batches(orders: Sequence[Order], size: int) -> list[list[Order]]:
    """Group trainings, largest first; everything else is a job of its own."""
    ranked = sorted(orders, key=lambda order: -order.work)
    small = [order for order in ranked if order.action == "train"]
    groups = [small[start : start + size] for start in range(0, len(small), size)]
    return groups + [[order] for order in ranked if order.action != "train"]


class _Pool:
    def __init__(self, client: Any, compute: PoolCompute, store: Store, warn: Callable[[str], None]) -> None:
        self._client, self._compute, self._store, self._warn = client, compute, store, warn
        self._place = compute.exchange or str(store.root)
        self._exchange = Exchange(self._place, store)
        self._patient = Patience("Prefect server", warn, _away)
        self._handed = Patience("exchange", warn)
        self._deployment = self._patient(self._find_deployment)

    def run(self, batches: Sequence[Sequence[Order]], tick: Callable[[], None], done: Callable[[Order], None]) -> None:
        waiting = deque(batches)
        running: list[_Running] = []
        try:
            while waiting or running:
                interrupt.check()
                while waiting and (not self._compute.jobs or len(running) < self._compute.jobs):
                    running.append(self._submit(self._job(waiting.popleft())))
                for place, each in reversed(list(enumerate(running))):
                    if (still := self._look(each)) is not None:
                        running[place] = still
                        continue
                    del running[place]
                    for order in each.job.orders:
                        done(order)
                tick()
                time.sleep(POLL_SECONDS)
        except BaseException:
            self._cancel(running)
            raise

    def _job(self, orders: Sequence[Order]) -> PoolJob:
        compute = self._compute
        return PoolJob(
            place=self._place,
            shared=compute.exchange is None,
            orders=tuple(orders),
            parallel=compute.parallel,
            threads=compute.threads,
            gpus=compute.gpus,
            cache_bytes=round(compute.cache_gb * 1e9),
        )

    def _submit(self, job: PoolJob, tries: int = 1) -> _Running:
        """Start a job, or find the one that an earlier parent started, unless that one ended badly."""
        from prefect.deployments import run_deployment

        if not job.shared:
            for key in dict.fromkeys(key for order in job.orders for key in order.runs):
                self._handed(lambda key=key: self._exchange.offer(key))  # type: ignore[misc]
        name = job.orders[0].name + (f" +{len(job.orders) - 1}" if len(job.orders) > 1 else "")
        run: Any = self._patient(
            lambda: run_deployment(
                self._deployment,
                parameters={"job": job.model_dump(mode="json")},
                flow_run_name=name,
                timeout=0,
                idempotency_key=digest(job.model_dump(mode="json")),
                job_variables=dict(self._compute.job_variables),
            )
        )
        if run.state is not None and run.state.is_final() and not run.state.is_completed():
            return self._submit(job.model_copy(update={"attempt": job.attempt + 1}), tries)
        return _Running(job, run.id, name, tries, progress=self._progress(job))

    def _look(self, each: _Running) -> _Running | None:
        """Return the job as it is now, or its next attempt; None if it is done.

        Raises:
            EffnetError: if it failed, or ended without a result too often.
        """
        state = self._patient(lambda: self._client.read_flow_run(each.run)).state
        if state is None:
            return each
        if state.is_completed():
            self._collect(each, results=True)
            if all(map(self._fulfilled, each.job.orders)):
                return None
            return self._again(each, "Lost", "it ended well, but its results are not there")
        if state.is_cancelled():
            raise StoppedError(f"{each.name}: its job was cancelled; run the command again to go on")
        if state.is_final():
            return self._again(each, state.name, state.message or "no reason was given")
        if state.is_running():
            if not each.began:
                each.began, each.heard = True, time.monotonic()
            if time.monotonic() - each.looked < BEAT_SECONDS:
                return each  # it says nothing more often
            each.looked = time.monotonic()
            self._collect(each, results=False)
            if self._silent(each):
                self._crash(each)
                return self._again(each, "Crashed", "its heartbeat stopped")
        else:
            self._tell_if_untaken(each)
        return each

    def _again(self, each: _Running, name: str, reason: str) -> _Running:
        reason = reason.removeprefix("Flow run encountered an exception: ")
        kind = _NAMES.get(name, RunFailedError)
        if name == "Failed" or kind in (ConfigError, DataError):
            raise kind(f"{each.name}: {reason} (job {each.run} on work pool {self._compute.work_pool})")
        further = self._progress(each.job) > each.progress
        if not further and each.tries >= ATTEMPTS:
            raise RunFailedError(
                f"{each.name}: {reason}, {each.tries} times (work pool {self._compute.work_pool}, last job "
                f"{each.run}); run the command again"
            )
        self._warn(f"{each.name}: {name.lower()} ({reason}); started again, it goes on from its last checkpoint")
        job = each.job.model_copy(update={"attempt": each.job.attempt + 1})
        return self._submit(job, 1 if further else each.tries + 1)

    def _fulfilled(self, order: Order) -> bool:
        """Say whether the runs have what was ordered."""
        folders = [RunFolder(self._store.runs / key) for key in order.runs]
        if order.action == "evaluate":
            return all(folder.evaluation_path.exists() for folder in folders)
        if order.action == "latency":
            return all(folder.latency_path.exists() for folder in folders)
        return all(
            folder.result_path.exists()
            or (order.until is not None and len(read_journal(folder.metrics_path)[0]) >= order.until)
            for folder in folders
        )

    def _silent(self, each: _Running) -> bool:
        try:
            pulse = self._exchange.pulse(str(each.run))
        except AwayError:  # which says nothing of the job
            pulse, each.heard = each.pulse, time.monotonic()
        if pulse != each.pulse:
            each.pulse, each.heard = pulse, time.monotonic()
        return time.monotonic() - each.heard > SILENT_SECONDS

    def _collect(self, each: _Running, *, results: bool) -> None:
        if not each.job.shared:
            for order in each.job.orders:
                for key in order.runs:
                    folder = RunFolder(self._store.runs / key)
                    if results:
                        self._handed(lambda folder=folder: self._exchange.collect(folder, results=True))  # type: ignore[misc]
                    else:
                        self._handed.once(lambda folder=folder: self._exchange.collect(folder))  # type: ignore[misc]

    def _progress(self, job: PoolJob) -> int:
        paths = [RunFolder(self._store.runs / key).metrics_path for order in job.orders for key in order.runs]
        return sum(path.stat().st_size for path in paths if path.exists())

    def _tell_if_untaken(self, each: _Running) -> None:
        if not each.warned and time.monotonic() - each.heard > UNTAKEN_SECONDS:
            each.warned = True
            self._warn(
                f"{each.name}: no worker takes it; is one running? prefect worker start --pool "
                f"{self._compute.work_pool}"
            )

    def _crash(self, each: _Running) -> None:
        from prefect.states import Crashed

        state: Any = Crashed(message="its heartbeat stopped")
        self._patient(lambda: self._client.set_flow_run_state(each.run, state, force=True))

    def _cancel(self, running: Sequence[_Running]) -> None:
        """Cancel jobs, and wait until they have ended or their time is over."""
        from prefect.states import Cancelling

        left = list(running)
        deadline = time.monotonic() + STOP_SECONDS
        try:
            for each in left:
                self._client.set_flow_run_state(each.run, Cancelling(message="the family is no longer built"))
            while left and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
                left = [each for each in left if not self._client.read_flow_run(each.run).state.is_final()]
        except Exception as error:
            self._warn(f"jobs on work pool {self._compute.work_pool} could not be cancelled ({_short(error)})")

    def _find_deployment(self) -> UUID:
        from prefect.exceptions import ObjectNotFound

        name = f"{FLOW}/{self._compute.work_pool}"
        try:
            return UUID(str(self._client.read_deployment_by_name(name).id))
        except ObjectNotFound as error:
            raise ConfigError(
                f"compute.work_pool: no deployment {name} on the Prefect server; name a pool "
                "of prefect.yaml, and register it with `effnet deploy`"
            ) from error


def _away(error: Exception) -> str | None:
    """Say that an error means that the Prefect server is away; refusals do not."""
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    if isinstance(error, PrefectHTTPStatusError):
        return _short(error) if error.response.status_code >= 500 else None
    return _short(error) if isinstance(error, httpx.TransportError) else None


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
