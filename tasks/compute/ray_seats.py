"""Where orders sit on a Ray cluster: an actor on a machine, or one on each of several machines that train together."""

from __future__ import annotations

import contextlib
import secrets
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

from effnet.config import RayCompute
from effnet.errors import BusyError, ConfigError, DataError, MachineError, RunFailedError
from effnet.order import Rendezvous
from effnet.process import GRACE_SECONDS
from tasks.compute.orders import BEAT_SECONDS, PoolJob, key_of
from tasks.compute.ray_cluster import Cluster
from tasks.compute.ray_host import Ended, Host

POLL_SECONDS = 0.1
SAVE_SECONDS = 15.0  # for a training to save when the head is lost: Ray ends this process soon
FIND_SECONDS = 10.0  # for actors that are there to say what they do
IDLE_SECONDS = 120.0  # after which actors end that have nothing to do and that nobody asks
LOST = Ended(-1, "its machine is gone")
NAME = "host-"  # the name of an actor begins so, and ends with its machine's number


class Found(NamedTuple):
    """What an earlier process left: the actor of each machine, and what it does."""

    actors: tuple[Any, ...]
    jobs: tuple[PoolJob, ...]


class Seat(Protocol):
    """Room for one order at a time."""

    def begin(self, job: PoolJob) -> None:
        """Have a job done."""

    def take(self, found: Found) -> None:
        """Have what an earlier process left done to its end."""

    def is_up(self) -> bool:
        """Say whether there is room, and it has begun."""

    def ended(self) -> Ended | None:
        """Return how the job ended, LOST if a machine of it is gone; None while it goes on."""

    def news(self) -> list[str]:
        """Return what the machines warned of; nothing if they do not answer."""

    def stop(self) -> None:
        """Let the job end with its progress saved, and the actors after it."""

    def leave(self) -> None:
        """Nothing follows in this stage."""


class One:
    """A seat on some machine of the cluster: an actor, started again if its machine is gone."""

    def __init__(self, cluster: Cluster, compute: RayCompute) -> None:
        self._cluster, self._ray, self._compute = cluster, cluster.ray, compute
        self._actor: Any = None
        self._up: Any = None  # answered once the actor runs
        self._doing: Any = None  # answered once it has done the job

    def begin(self, job: PoolJob) -> None:
        self._job = job
        if self._actor is None:
            self._actor = self._cluster.one_of_idle() or _host(self._cluster, self._compute, _new_name(), 0, {})
        self._up = self._actor.news.remote()
        self._doing = self._actor.do.remote(job.content())

    def take(self, found: Found) -> None:
        (self._actor,), (job,) = found
        self.begin(job)

    def is_up(self) -> bool:
        return bool(self._ray.wait([self._up], timeout=0)[0])

    def ended(self) -> Ended | None:
        if not self._ray.wait([self._doing], timeout=POLL_SECONDS)[0]:
            if not self.is_up() and (other := self._cluster.one_of_idle()):  # what has room is idle, and would stay so
                self._drop()
                self._actor = other
                self.begin(self._job)
            return None
        ended = _answer(self._cluster, self._doing)
        if ended is LOST:
            self._drop()
        return ended

    def news(self) -> list[str]:
        return _news(self._cluster, [self._actor]) if self._actor is not None and self.is_up() else []

    def stop(self) -> None:
        if self._actor is not None:
            _stop(self._cluster, [self._actor], [self._doing], self.is_up())
            self._drop()

    def leave(self) -> None:
        """Keep the actor for the next stage."""
        if self._actor is not None:
            self._cluster.idle.append(self._actor)
            self._actor = None

    def _drop(self) -> None:
        _kill(self._cluster, [self._actor])
        self._actor = None


class Gang:
    """A seat on several machines, which train one network: all of them or none, and started again together."""

    def __init__(self, cluster: Cluster, compute: RayCompute) -> None:
        self._cluster, self._ray, self._compute = cluster, cluster.ray, compute
        self._name = ""  # of the group that holds room for it
        self._actors: list[Any] = []  # by number of their machines
        self._up: list[Any] = []  # answered, with an address, once they run
        self._doing: list[Any] = []  # answered once they have done the job

    def begin(self, job: PoolJob) -> None:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self._job, self._name, number = job, _new_name(), self._compute.machines
        self._cluster.end_idle()  # what an earlier stage left may hold the room of a whole machine
        bundle = wanted(self._compute)
        lifetime = "detached" if self._cluster.outlives else None
        # Atomic: two of them cannot each hold half of the machines, and wait for the rest forever.
        group = self._ray.util.placement_group([bundle] * number, "STRICT_SPREAD", name=self._name, lifetime=lifetime)
        places = [PlacementGroupSchedulingStrategy(group, machine) for machine in range(number)]
        self._actors = [
            _host(self._cluster, self._compute, self._name, machine, {"scheduling_strategy": place})
            for machine, place in enumerate(places)
        ]
        self._up = [actor.address.remote() for actor in self._actors]
        self._doing = []

    def take(self, found: Found) -> None:
        self._actors, self._name = list(found.actors), found.jobs[0].first
        self._up = [actor.address.remote() for actor in self._actors]
        self._doing = [actor.do.remote(job.content()) for actor, job in zip(*found, strict=True)]

    def is_up(self) -> bool:
        return len(self._ray.wait(self._up, num_returns=len(self._up), timeout=0)[0]) == len(self._up)

    def ended(self) -> Ended | None:
        if not self._doing:
            return self._meet()
        ready = self._ray.wait(self._doing, num_returns=len(self._doing), timeout=POLL_SECONDS)[0]
        ends = [_answer(self._cluster, answer) for answer in ready]
        if len(ends) < len(self._doing) and all(end.code == 0 for end in ends):
            return None
        if len(ends) < len(self._doing):  # the others lose contact, or save if they have not noticed yet
            _stop(self._cluster, self._actors, self._doing, True)
            ready = self._ray.wait(self._doing, num_returns=len(self._doing), timeout=0)[0]
            ends = [_answer(self._cluster, answer) for answer in ready]
        self._drop()
        return cause(ends)

    def _meet(self) -> Ended | None:
        """Once all machines are there, let them begin: at an address of the first one, whose first rank leads."""
        ready = self._ray.wait(self._up, num_returns=len(self._up), timeout=POLL_SECONDS)[0]
        try:
            addresses = {answer: self._ray.get(answer, timeout=BEAT_SECONDS) for answer in ready}
        except self._ray.exceptions.RayError:
            self._drop()
            return LOST
        if len(addresses) == len(self._up):
            jobs = parts(self._job, addresses[self._up[0]], self._name, len(self._up))
            self._doing = [actor.do.remote(job.content()) for actor, job in zip(self._actors, jobs, strict=True)]
        return None

    def news(self) -> list[str]:
        return _news(self._cluster, self._actors) if self._actors and self.is_up() else []

    def stop(self) -> None:
        if self._actors:
            _stop(self._cluster, self._actors, self._doing, bool(self._doing))
            self._drop()

    def leave(self) -> None:
        """Each order has machines of its own."""

    def _drop(self) -> None:
        _kill(self._cluster, self._actors)
        with contextlib.suppress(ValueError):  # it is gone already
            if not self._cluster.lost:
                self._ray.util.remove_placement_group(self._ray.util.get_placement_group(self._name))
        self._actors = []


def wanted(compute: RayCompute) -> dict[str, float]:
    """Return what a training takes of each of its machines."""
    return {"CPU": float(compute.cpus)} | ({"GPU": compute.gpus} if compute.gpus else {})


def parts(job: PoolJob, address: str, name: str, machines: int) -> list[PoolJob]:
    """Return the part of each machine in a job of several, which meet at the address of the first one."""
    (order,) = job.orders
    return [
        job.model_copy(
            update={
                "machine": machine,
                "first": name,
                "orders": (order.model_copy(update={"rendezvous": Rendezvous(address=address, machine=machine)}),),
            }
        )
        for machine in range(machines)
    ]


def cause(ends: Sequence[Ended]) -> Ended:
    """Return how machines that train together ended: a cause comes before what it did to the others."""
    final = [kind.exit_code for kind in (ConfigError, DataError, RunFailedError)]
    ranked = [*final, LOST.code, MachineError.exit_code, BusyError.exit_code]

    def gravity(end: Ended) -> int:
        if end.code == 0:
            return len(ranked) + 1
        return ranked.index(end.code) if end.code in ranked else len(ranked)

    return min(ends, key=gravity, default=LOST)


def find(cluster: Cluster, keys: Collection[str]) -> dict[str, Found]:
    """Return what an earlier process left on the cluster that does what is wanted, by the keys of orders."""
    if not cluster.outlives:
        return {}
    ray, asked = cluster.ray, dict[Any, tuple[str, Any]]()
    for name in ray.util.list_named_actors():
        if name.startswith(NAME) and name not in cluster.ours:
            with contextlib.suppress(ValueError):  # it has ended meanwhile
                actor = ray.get_actor(name)
                asked[actor.doing.remote()] = (name, actor)
    ready = ray.wait(list(asked), num_returns=len(asked), timeout=FIND_SECONDS)[0] if asked else []
    gangs: dict[str, list[tuple[PoolJob, Any, str]]] = defaultdict(list)
    for answer in ready:
        with contextlib.suppress(ray.exceptions.RayError):
            if content := ray.get(answer, timeout=FIND_SECONDS):
                name, actor = asked[answer]
                gangs[name.rpartition("-")[0]].append((PoolJob.model_validate(content), actor, name))
    found = {}
    for gang in gangs.values():
        jobs, actors, names = zip(*sorted(gang, key=lambda each: each[0].machine), strict=True)
        if (key := key_of(jobs[0].orders[0])) in keys and len(jobs) == jobs[0].machines:
            cluster.ours.update(names)
            found[key] = Found(actors, jobs)
    return found


def _new_name() -> str:
    return f"{NAME}{secrets.token_hex(8)}"


def _host(cluster: Cluster, compute: RayCompute, name: str, machine: int, options: dict[str, Any]) -> Any:
    """Start an actor. In a cluster that outlives this process it does, too, and is found by its name."""
    idle_seconds = 0.0
    if cluster.outlives:
        name, idle_seconds = f"{name}-{machine}", IDLE_SECONDS
        options = options | {"name": name, "lifetime": "detached"}
        cluster.ours.add(name)
    remote = cluster.ray.remote(Host).options(
        num_cpus=compute.cpus, num_gpus=compute.gpus, max_concurrency=8, **options
    )
    return remote.remote(bool(compute.gpus), idle_seconds)


def _answer(cluster: Cluster, answer: Any) -> Ended:
    try:
        return Ended(*cluster.ray.get(answer, timeout=BEAT_SECONDS))
    except cluster.ray.exceptions.RayError:
        return LOST


def _news(cluster: Cluster, actors: Sequence[Any]) -> list[str]:
    try:
        told = cluster.ray.get([actor.news.remote() for actor in actors], timeout=BEAT_SECONDS)
    except cluster.ray.exceptions.RayError:
        return []
    return [line for lines in told for line in lines]


def _stop(cluster: Cluster, actors: Sequence[Any], doing: Sequence[Any], began: bool) -> None:
    for actor in actors:
        actor.stop.remote()
    seconds = SAVE_SECONDS if cluster.lost else 2 * GRACE_SECONDS
    if doing:
        cluster.ray.wait(list(doing), num_returns=len(doing), timeout=seconds if began else 0)


def _kill(cluster: Cluster, actors: Sequence[Any]) -> None:
    for actor in actors:
        with contextlib.suppress(cluster.ray.exceptions.RayError):
            cluster.ray.kill(actor)
