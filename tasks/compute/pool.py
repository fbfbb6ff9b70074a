"""Orders as jobs of a Prefect work pool: submitted, watched, started again when their machine vanishes, cancelled.

A job is a run of the deployment `run_job/POOL`. Its idempotency key is made from its content and its attempt, so a
parent that is restarted finds its jobs again, and only a job that ended badly is followed by another attempt. A network
trained by several machines is one job on each: these end together, and are started again together.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from effnet.config import PoolCompute
from effnet.errors import (
    AwayError,
    BusyError,
    ConfigError,
    DataError,
    EffnetError,
    MachineError,
    RunFailedError,
    StoppedError,
)
from effnet.exchange import Exchange
from effnet.order import Order
from effnet.outage import impatient
from effnet.process import GRACE_SECONDS
from effnet.store import Store, digest
from tasks.compute import interrupt
from tasks.compute.orders import BEAT_SECONDS, PoolJob, is_fulfilled, progress
from tasks.compute.outage import Patience, collect
from tasks.compute.watch import Watch

FLOW = "run_job"
POLL_SECONDS = 1.0
ATTEMPTS = 5  # of a job that makes no progress because its machines vanish
SILENT_SECONDS = 8 * BEAT_SECONDS  # a running job without a heartbeat for so long is considered dead
DEAD_SECONDS = 3 * BEAT_SECONDS  # the same for a job that is marked as crashed
BUSY_SECONDS = 30.0  # between checks whether a run held by another process is free
UNTAKEN_SECONDS = 60.0  # after so long, warn that no worker takes a job
STOP_SECONDS = 3 * GRACE_SECONDS  # for cancelled jobs: the worker must notice, and they save and send their state

_NAMES: dict[str, type[EffnetError]] = {
    "Bad configuration": ConfigError,
    "Bad data": DataError,
    "Busy": BusyError,
    "Stopped": StoppedError,
    "Away": AwayError,
    "Broken machine": MachineError,
}


def state_name(error: EffnetError) -> str:
    """Return the name of the state that a job ends in with an error."""
    return next((name for name, kind in _NAMES.items() if isinstance(error, kind)), "Failed")


@dataclass
class _Part:
    """A machine's part of a job."""

    run: UUID
    began: bool = False
    pulse: str | None = None
    heard: float = field(default_factory=time.monotonic)  # when it was submitted, began, or its heartbeat last changed
    looked: float = 0.0  # at its pulse


@dataclass
class _Running:
    """A job that was submitted."""

    job: PoolJob
    name: str
    tries: int  # by this parent, since the job last got further
    parts: list[_Part]
    looked: float = 0.0  # at what it sent
    progress: int = 0  # bytes of journals when the attempt began
    warned: bool = False
    found: bool = False  # was started by an earlier parent: a bad end of that attempt does not count as a try
    doubted: float = 0.0  # since when Prefect says that it has crashed
    busy_until: float = 0.0  # its runs are held by another process: when to check again

    @property
    def run(self) -> UUID:
        """Its flow run; of several machines, the first one's."""
        return self.parts[0].run


def run_on_pool(
    orders: Sequence[Order],
    compute: PoolCompute,
    store: Store,
    watch: Watch,
) -> None:
    """Carry out all orders on a work pool, largest first.

    Args:
        orders: what to do.
        compute: the pool, and how to use it.
        store: of the family.
        watch: told of every order; of jobs that were started again, or that no worker takes; of a server that is away.

    Raises:
        EffnetError: of the kind that a job ended with, with its line; the other jobs are cancelled.
        BaseException: whatever interrupts the wait; the jobs are cancelled, each with a checkpoint.
    """
    if orders:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            _Pool(client, compute, store, watch).run(_batches(orders, compute.batch))


def _batches(orders: Sequence[Order], size: int) -> list[list[Order]]:
    """Group trainings, largest first; everything else is a job of its own."""
    ranked = sorted(orders, key=lambda order: -order.size)
    small = [order for order in ranked if order.action == "train"]
    groups = [small[start : start + size] for start in range(0, len(small), size)]
    return groups + [[order] for order in ranked if order.action != "train"]


class _Pool:
    def __init__(self, client: Any, compute: PoolCompute, store: Store, watch: Watch) -> None:
        self._client, self._compute, self._store, self._watch = client, compute, store, watch
        self._place = compute.exchange or str(store.root)
        self._exchange = Exchange(self._place, store)
        self._patient = Patience("Prefect server", watch.warn, _away)
        self._handed = Patience("exchange", watch.warn)
        self._deployment = self._patient(self._find_deployment)

    def run(self, batches: Sequence[Sequence[Order]]) -> None:
        waiting = deque(batches)
        running: list[_Running] = []
        try:
            # Two jobs of several machines could each take half of the pool, and wait for the rest forever.
            several = any(order.machines > 1 for batch in batches for order in batch)
            most = self._compute.jobs or (1 if several else len(batches))
            while waiting or running:
                interrupt.check()
                while waiting and len(running) < most:
                    running.append(self._submit(self._job(waiting.popleft())))
                for place, each in reversed(list(enumerate(running))):
                    if (still := self._look(each)) is not None:
                        running[place] = still
                        continue
                    del running[place]
                    for order in each.job.orders:
                        self._watch.done(order.name)
                self._watch.tick()
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
            per_gpu=compute.per_gpu,
            threads=compute.threads,
            gpus=compute.gpus,
            cache_bytes=round(compute.cache_gb * 1e9),
        )

    def _submit(self, job: PoolJob, tries: int = 1) -> _Running:
        """Start a job, or find the one that an earlier parent started, unless that one ended badly."""
        if not job.shared:
            for key in dict.fromkeys(key for order in job.orders for key in order.runs):
                self._handed(lambda key=key: self._exchange.publish(key))  # type: ignore[misc]
        name = job.orders[0].name + (f" +{len(job.orders) - 1}" if len(job.orders) > 1 else "")
        parts: list[_Part] = []
        for machine in range(job.machines):
            first = str(parts[0].run) if parts else ""
            try:
                run = self._start(job.model_copy(update={"machine": machine, "first": first}), name)
            except BaseException:
                self._cancel([_Running(job, name, tries, parts)])
                raise
            parts.append(_Part(run.id))
            if run.state is not None and run.state.is_final() and not run.state.is_completed():
                if run.state.is_crashed() and job.machines == 1:  # its own heartbeat may prove that wrong
                    return _Running(job, name, tries, parts, progress=self._progress(job), found=True)
                self._end(parts, "another machine's part ended first")
                return self._submit(job.model_copy(update={"attempt": job.attempt + 1}), tries)
        return _Running(job, name, tries, parts, progress=self._progress(job))

    def _start(self, job: PoolJob, name: str) -> Any:
        from prefect.deployments import run_deployment

        part = f" {job.machine + 1}/{job.machines}" if job.machines > 1 else ""
        return self._patient(
            lambda: run_deployment(
                self._deployment,
                parameters={"job": job.content()},
                flow_run_name=name + part,
                timeout=0,
                idempotency_key=digest(job.content()),
                job_variables=dict(self._compute.job_variables),
            )
        )

    def _look(self, each: _Running) -> _Running | None:
        """Return the job as it is now, or its next attempt; None if it is done.

        Raises:
            EffnetError: if it failed, or ended without a result too often.
        """
        if each.busy_until:
            return self._wait_for_other(each)
        states = [self._state(part) for part in each.parts]
        if all(state.is_completed() for state in states):
            if self._is_handed_back(each):
                return None
            return self._again(each, "Lost", "it completed, but its results are missing")
        if bad := [(part, state) for part, state in zip(each.parts, states, strict=True) if _ended_badly(state)]:
            return self._look_at_bad_end(each, bad)
        if any(state.is_running() for state in states):
            self._follow(each)
        for part, state in zip(each.parts, states, strict=True):
            if state.is_running() and self._silent(part):
                self._crash(part)
            elif not state.is_running() and not state.is_final():
                self._tell_if_untaken(each, part)
        return each

    def _look_at_bad_end(self, each: _Running, bad: Sequence[tuple[_Part, Any]]) -> _Running | None:
        """Do what `_look` does for a job some of whose parts ended badly, or are only said to have crashed."""
        if crashed := all(state.is_crashed() for _, state in bad):
            each.doubted = each.doubted or time.monotonic()
            if all(self._lives(part) for part, _ in bad):
                if not each.warned and time.monotonic() - each.doubted > DEAD_SECONDS:
                    each.warned = True
                    self._watch.warn(
                        f"{each.name}: reported as crashed ({bad[0][1].message}), but it is alive; waiting for it"
                    )
                self._follow(each)
                return each
        if crashed and self._is_handed_back(each):
            return None
        self._end(each.parts, "another machine's part ended")
        if any(state.is_cancelled() for _, state in bad):
            raise StoppedError(f"{each.name}: its job was cancelled; run the command again to resume")
        state = min((self._state(part) for part in each.parts), key=_gravity)
        return self._again(each, state.name, state.message or "no reason was given")

    def _follow(self, each: _Running) -> None:
        """Fetch what the job has sent meanwhile."""
        if time.monotonic() - each.looked > BEAT_SECONDS:
            each.looked = time.monotonic()
            self._collect(each, results=False)

    def _is_handed_back(self, each: _Running) -> bool:
        self._collect(each, results=True)
        return all(self._handed(lambda order=order: is_fulfilled(order, self._store)) for order in each.job.orders)  # type: ignore[misc]

    def _again(self, each: _Running, name: str, reason: str) -> _Running:
        reason = reason.removeprefix("Flow run encountered an exception: ")
        kind = _NAMES.get(name, RunFailedError)
        if name == "Failed" or kind in (ConfigError, DataError):
            raise kind(f"{each.name}: {reason} (job {each.run} on work pool {self._compute.work_pool})")
        if kind is BusyError:
            self._watch.warn(f"{each.name}: {reason}; waiting for that one (job {each.run})")
            each.busy_until = time.monotonic() + BUSY_SECONDS
            return each
        further = each.found or self._progress(each.job) > each.progress
        if not further and each.tries >= ATTEMPTS:
            raise kind(
                f"{each.name}: {reason}, {each.tries} times (work pool {self._compute.work_pool}, last job "
                f"{each.run}); run the command again"
            )
        self._watch.warn(f"{each.name}: {name.lower()} ({reason}); restarted from its last checkpoint")
        job = each.job.model_copy(update={"attempt": each.job.attempt + 1})
        return self._submit(job, 1 if further else each.tries + 1)

    def _wait_for_other(self, each: _Running) -> _Running | None:
        """Wait for the process that holds a job's runs: as long as it holds them, it must be alive."""
        if time.monotonic() < each.busy_until:
            return each
        if self._is_handed_back(each):
            return None
        return self._submit(each.job.model_copy(update={"attempt": each.job.attempt + 1}), each.tries)

    def _state(self, part: _Part) -> Any:
        from prefect.states import Pending

        return self._patient(lambda: self._client.read_flow_run(part.run)).state or Pending()

    def _silent(self, part: _Part) -> bool:
        """Say whether a running job has sent no heartbeat for so long that it must be dead."""
        if not part.began:
            part.began, part.heard = True, time.monotonic()
        self._listen(part)
        return time.monotonic() - part.heard > SILENT_SECONDS

    def _lives(self, part: _Part) -> bool:
        """Say whether a job that is marked as crashed sent a heartbeat a moment ago."""
        self._listen(part)
        return part.pulse is not None and time.monotonic() - part.heard <= DEAD_SECONDS

    def _listen(self, part: _Part) -> None:
        now = time.monotonic()
        if now - part.looked > BEAT_SECONDS:  # it says nothing more often
            part.looked = now
            try:
                with impatient():
                    pulse = self._exchange.latest(str(part.run))
            except AwayError:  # which says nothing of the job
                pulse, part.heard = part.pulse, now
            if pulse != part.pulse:
                part.pulse, part.heard = pulse, now

    def _collect(self, each: _Running, *, results: bool) -> None:
        if not each.job.shared:
            for order in each.job.orders:
                collect(order, self._store, self._exchange, self._handed, results=results)

    def _progress(self, job: PoolJob) -> int:
        return sum(progress(order, self._store) for order in job.orders)

    def _tell_if_untaken(self, each: _Running, part: _Part) -> None:
        if not each.warned and time.monotonic() - part.heard > UNTAKEN_SECONDS:
            each.warned = True
            self._watch.warn(
                f"{each.name}: no worker has picked it up; is one running? prefect worker start --pool "
                f"{self._compute.work_pool}"
            )

    def _crash(self, part: _Part) -> None:
        from prefect.states import Crashed

        state: Any = Crashed(message="its heartbeat stopped")
        self._patient(lambda: self._client.set_flow_run_state(part.run, state, force=True))

    def _end(self, parts: Sequence[_Part], why: str) -> None:
        """Cancel the parts of a job that still run, and wait until they have ended or gone silent.

        One that is only cut off publishes nothing any more when it is back.
        """
        from prefect.states import Cancelling

        left = [part for part in parts if not self._state(part).is_final()]
        for part in left:
            self._patient(lambda part=part: self._client.set_flow_run_state(part.run, Cancelling(message=why)))  # type: ignore[misc]
        deadline = time.monotonic() + STOP_SECONDS
        while left := [part for part in left if not self._state(part).is_final()]:
            interrupt.check()
            for part in left:
                if time.monotonic() > deadline or self._silent(part):
                    self._crash(part)
            time.sleep(POLL_SECONDS)
        for part in parts:
            self._handed(lambda part=part: self._exchange.replace(str(part.run)))  # type: ignore[misc]

    def _cancel(self, running: Sequence[_Running]) -> None:
        """Cancel jobs, and wait until they have ended or their time is over."""
        from prefect.states import Cancelling

        left = [part.run for each in running for part in each.parts]
        deadline = time.monotonic() + STOP_SECONDS
        try:
            for run in left:
                self._client.set_flow_run_state(run, Cancelling(message="the family is no longer being built"))
            while left and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
                left = [run for run in left if not self._client.read_flow_run(run).state.is_final()]
        except Exception as error:
            self._watch.warn(f"jobs on work pool {self._compute.work_pool} could not be cancelled ({_short(error)})")

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


def _ended_badly(state: Any) -> bool:
    return bool(state.is_final() and not state.is_completed())


def _gravity(state: Any) -> int:
    """Rank how a part of a job ended: a cause ranks before its effects on the other parts."""
    if state.is_failed() and _NAMES.get(state.name) in (ConfigError, DataError, None):
        return 0
    broken = _NAMES.get(state.name) is MachineError
    return 1 if state.is_crashed() or broken else 2 if state.is_failed() else 3


def _away(error: Exception) -> str | None:
    """Return the reason if an error means that the Prefect server is away, else None; a refusal does not mean that."""
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    if isinstance(error, PrefectHTTPStatusError):
        return _short(error) if error.response.status_code >= 500 else None
    return _short(error) if isinstance(error, httpx.TransportError) else None


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
