"""Places for children on this machine: a GPU each, or a share of one, or, where there is no GPU, a core."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from effnet.config import LocalCompute
from effnet.errors import ConfigError
from effnet.machine import CORES, SHARES_GPU
from effnet.memory import USABLE
from tasks.servers.gpus import VISIBLE, Gpu


class Wanted(Protocol):
    """What a job asks of its place."""

    @property
    def name(self) -> str: ...
    @property
    def ranks(self) -> int:
        """Its processes, each with a GPU of its own."""

    @property
    def need(self) -> float | None:
        """Bytes of memory that it takes of each of its GPUs; None: it shares a GPU with no other job."""


_J = TypeVar("_J", bound=Wanted)


@dataclass(frozen=True)
class Slot:
    """Where a job runs."""

    gpus: tuple[Gpu, ...] = ()  # one for each rank; none: on cores
    cores: int = 1  # that its threads may keep busy
    shared: bool = False  # with other jobs, which may come later
    mps: tuple[tuple[str, str], ...] = ()  # variables of the service through which they share a GPU

    @property
    def environment(self) -> dict[str, str]:
        """The variables that keep a child in its place; UUIDs, as numbers mean other GPUs in another process."""
        found = {CORES: str(self.cores)}
        if self.gpus:
            found[VISIBLE] = ",".join(gpu.uuid for gpu in self.gpus)
        return found | ({SHARES_GPU: "1", **dict(self.mps)} if self.shared else {})

    def __str__(self) -> str:
        return ", ".join(map(str, self.gpus))


def slots(compute: LocalCompute, gpus: Sequence[Gpu]) -> int:
    """Return how many jobs of one GPU or core run at a time, at most."""
    if not gpus:
        return compute.parallel or len(os.sched_getaffinity(0))
    most = len(gpus) * compute.per_gpu
    return min(compute.parallel or most, most)


class Slots(Generic[_J]):
    """Gives places to jobs in their order. None overtakes another, so that the turn of a large one comes.

    Args:
        jobs: that wait; the first one is next.
        gpus: to put them on; none: they run on cores.
        compute: how many at a time, in all and on each GPU.
        mps: what jobs that share a GPU find in their environment.

    Raises:
        ConfigError: if a job has more ranks than there are GPUs.
    """

    def __init__(
        self, jobs: Sequence[_J], gpus: Sequence[Gpu], compute: LocalCompute, mps: dict[str, str] | None = None
    ) -> None:
        self._waiting, self._on = deque(jobs), {gpu: list[float | None]() for gpu in gpus}
        self._per_gpu, self._mps, self._running = compute.per_gpu, tuple((mps or {}).items()), 0
        self._shared = compute.per_gpu > 1 and too_few(gpus, jobs)
        self._changed = threading.Condition()
        ranks = max((job.ranks for job in jobs), default=1)
        if gpus and ranks > len(gpus):
            job = next(job for job in jobs if job.ranks == ranks)
            raise ConfigError(
                f"{job.name}: {ranks} ranks need a GPU each, and there are {len(gpus)}: ask for fewer ranks"
            )
        most = slots(compute, gpus)
        if gpus:
            needs = [job.need for job in jobs if job.need is not None]
            room = sum(fitting(min(needs), gpu, compute.per_gpu) for gpu in gpus) if needs else len(gpus)
            most = min(most, room // ranks or 1)
        self.at_once = max(1, min(most, len(jobs)))
        self._cores = max(1, len(os.sched_getaffinity(0)) // self.at_once)

    def next(self) -> tuple[_J, Slot] | None:
        """Return the next job and its place, once there is one; None if none is left, or after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._place(self._waiting[0]) is not None)
            if not self._waiting:
                return None
            gpus = self._place(self._waiting[0])
            assert gpus is not None  # noqa: S101 - nobody else has changed it
            job = self._waiting.popleft()
            self._running += 1
            for gpu in gpus:
                self._on[gpu].append(job.need)
            self._changed.notify_all()  # the one after it may fit as well
            shared = job.need is not None and self._shared
            return job, Slot(gpus, self._cores, shared, self._mps if shared else ())

    def free(self, job: _J, slot: Slot) -> None:
        """Take a place back."""
        with self._changed:
            self._running -= 1
            for gpu in slot.gpus:
                self._on[gpu].remove(job.need)
            self._changed.notify_all()

    def close(self) -> None:
        """Give no more places."""
        with self._changed:
            self._waiting.clear()
            self._changed.notify_all()

    def _place(self, job: _J) -> tuple[Gpu, ...] | None:
        """Return the GPUs, the emptiest first, that a job would have now; None if it has to wait."""
        if self._running >= self.at_once:
            return None
        if not self._on:
            return ()
        free = sorted((gpu for gpu in self._on if self._takes(gpu, job)), key=lambda gpu: len(self._on[gpu]))
        return tuple(free[: job.ranks]) if len(free) >= job.ranks else None

    def _takes(self, gpu: Gpu, job: _J) -> bool:
        """Say whether a GPU has room for a job: any has if it is empty, even for what may turn out too large."""
        needs = self._on[gpu]
        if not needs:
            return True
        if job.need is None or None in needs or len(needs) >= self._per_gpu:
            return False
        whole = sum(need for need in needs if need is not None) + job.need
        return not gpu.memory or whole <= USABLE * gpu.memory


def too_few(gpus: Sequence[Gpu], jobs: Sequence[Wanted]) -> bool:
    """Say whether jobs would have to share the GPUs if all of them ran at a time."""
    return 0 < len(gpus) < sum(job.ranks for job in jobs)


def fitting(need: float, gpu: Gpu, per_gpu: int) -> int:
    """Return how many jobs of a need run on a GPU at a time."""
    return min(per_gpu, max(1, int(USABLE * gpu.memory // need))) if gpu.memory else per_gpu
