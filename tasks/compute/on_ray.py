"""Orders on the machines of a Ray cluster: actors carry them out, one after the other, as child processes.

Ray decides which machine, and says when one is gone; an order whose machine is gone goes on elsewhere from its last
checkpoint. Weights, journals and results never pass through Ray: they lie in the store, or go through the exchange.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from effnet.config import RayCompute
from effnet.errors import AwayError, BusyError, ConfigError, DataError, MachineError, RunFailedError, StoppedError
from effnet.exchange import Exchange
from effnet.order import Order
from effnet.process import GRACE_SECONDS
from effnet.store import Store
from tasks.compute import interrupt
from tasks.compute.here import shown, side_by_side
from tasks.compute.orders import BEAT_SECONDS, PoolJob, is_fulfilled, key_of, progress
from tasks.compute.outage import Patience, collect
from tasks.compute.ray_cluster import Cluster, connect, leave, room
from tasks.compute.ray_host import Ended, Host
from tasks.compute.watch import Watch

POLL_SECONDS = 0.1
ROOM_SECONDS = 45.0  # after so long without room for a training, it is told
SAVE_SECONDS = 15.0  # for a training to save when the head is lost: Ray ends this process soon
BUSY_SECONDS = 5.0  # between tries to take a run that another process holds
GONE_SECONDS = 2.0  # after a machine vanished, twice as long each time: Ray notices within 15 that a node is dead
ATTEMPTS = 5  # of an order that gets no further because its machines vanish
FIND_SECONDS = 10.0  # for actors that are there to say what they do
IDLE_SECONDS = 120.0  # after which actors end that have nothing to do and that nobody asks
NAME = "host-"  # of an actor begins so
LOST = Ended(-1, "its machine is gone")
_FINAL = (ConfigError, DataError, RunFailedError)
_KINDS = {kind.exit_code: kind for kind in (AwayError, BusyError, ConfigError, DataError, MachineError, StoppedError)}


def run_on_ray(orders: Sequence[Order], compute: RayCompute, store: Store, watch: Watch) -> None:
    """Carry out all orders on a Ray cluster, largest first; in a flow run, each is one of its task runs.

    Args:
        orders: what to do, each on one machine.
        compute: the cluster, and what each order gets of it.
        store: of the family.
        watch: told of every order, of those that are started again, and of those that find no room.

    Raises:
        ConfigError: if Ray is not installed, no cluster answers, or no machine has room for even one order.
        AwayError: if the cluster's head is lost; the orders are stopped first, each with a checkpoint.
        EffnetError: of the kind that an order failed with, with its line; the others are stopped.
        BaseException: whatever interrupts the wait; the orders are stopped first, each with a checkpoint.
    """
    if orders:
        _Engine(connect(compute, store), compute, store, watch.one_at_a_time()).run(orders)


class _Engine:
    def __init__(self, cluster: Cluster, compute: RayCompute, store: Store, watch: Watch) -> None:
        self._cluster, self._compute, self._store, self._watch = cluster, compute, store, watch
        self._place = compute.exchange or str(store.root.absolute())
        self._exchange = Exchange(self._place, store)
        self._patient = Patience("exchange", watch.warn)
        self._stop = threading.Event()

    def run(self, orders: Sequence[Order]) -> None:
        self._found = _find(self._cluster, [key_of(order) for order in orders])
        ranked = sorted(orders, key=lambda order: (key_of(order) not in self._found, -order.size))
        waiting, taking = deque(ranked), threading.Lock()
        at_once = min(len(orders), self._compute.jobs or self._room())

        def work() -> None:
            seat = _Seat(self._cluster, self._compute)
            try:
                while not self._stop.is_set():
                    with taking:
                        if not waiting:
                            return
                        order = waiting.popleft()
                    shown(order.name, functools.partial(self._supervise, order, seat))
            finally:
                seat.leave()

        def tick() -> None:
            self._cluster.check_head()
            self._watch.tick()

        try:
            side_by_side(work, at_once, tick, self._stop.set)
        finally:  # all of them are taken, unless it was interrupted
            for found in self._found.values():
                seat = _Seat(self._cluster, self._compute, found.actor)
                seat.begin(found.job)
                seat.stop()

    def _room(self) -> int:
        """Return how many orders the cluster's machines take at a time; at least 1 where machines may still join.

        Raises:
            ConfigError: if no machine has room for one, and none joins.
        """
        wanted = {"CPU": float(self._compute.cpus)} | ({"GPU": self._compute.gpus} if self._compute.gpus else {})
        asked, began = f"{self._compute.cpus} CPUs and {_amount(self._compute.gpus)} GPUs", time.monotonic()
        while not (found := room(nodes := self._cluster.nodes(), wanted)):
            has = ", ".join(
                f"{_amount(node.get('CPU', 0))} CPUs and {_amount(node.get('GPU', 0))} GPUs" for node in nodes
            )
            if not self._cluster.outlives:
                raise ConfigError(f"compute: a training is to have {asked}, this machine has {has}; ask for less")
            if self._cluster.may_grow():
                self._watch.warn(f"no machine of the Ray cluster has {asked} ({has}); waiting for one to join")
                return 1
            if time.monotonic() - began > ROOM_SECONDS:  # some may still be starting
                raise ConfigError(
                    f"compute: a training is to have {asked}, the machines of the Ray cluster have {has}, and none "
                    f"joined in {ROOM_SECONDS:.0f} s; ask for less, or start a larger one"
                )
            interrupt.check()
            self._cluster.check_head()
            time.sleep(POLL_SECONDS)
        return found

    def _supervise(self, order: Order, seat: _Seat) -> None:
        """Have an order carried out, again and again if machines vanish."""
        tries = 1
        if found := self._found.pop(key_of(order), None):
            self._watch.say(f"{order.name}: found on the Ray cluster, where it was left")
            seat.take(found.actor)
        while True:
            job = found.job if found else self._job(order)
            found = None
            if not job.shared:
                for key in order.runs:
                    self._patient(lambda key=key: self._exchange.publish(key))  # type: ignore[misc]
            before = progress(order, self._store)
            ended = self._do(order, job, seat)
            self._collect(order, results=True)
            if ended.code in (0, LOST.code) and self._patient(lambda: is_fulfilled(order, self._store)):
                self._watch.done(order.name)
                return
            tries = 1 if progress(order, self._store) > before else tries + 1
            self._again(order, ended, tries)

    def _again(self, order: Order, ended: Ended, tries: int) -> None:
        """Return if the order is to be done again; raise if not."""
        kind = _KINDS.get(ended.code, RunFailedError)
        why = ended.line or "it ended without its results"
        if ended.code > 0 and kind in _FINAL:
            raise kind(f"{order.name}: {why}")
        if kind is BusyError:
            self._stop.wait(BUSY_SECONDS)
            return
        if tries > ATTEMPTS:
            raise RunFailedError(f"{order.name}: {why}, {ATTEMPTS} times; run the command again")
        self._watch.warn(f"{order.name}: {why}; restarted from its last checkpoint")
        if ended is LOST:
            self._stop.wait(GONE_SECONDS * 2 ** (tries - 1))  # Ray would still send it to a machine that has just gone

    def _do(self, order: Order, job: PoolJob, seat: _Seat) -> Ended:
        """Have a job done; return how it ended.

        Raises:
            StoppedError: if it was stopped because this engine is.
        """
        seat.begin(job)
        began, looked, told = time.monotonic(), time.monotonic(), False
        while not self._stop.is_set():
            if (ended := seat.ended()) is not None:
                self._tell(order, seat)
                return ended
            now = time.monotonic()
            if not told and not seat.is_up() and now - began > ROOM_SECONDS:
                told = True
                self._watch.warn(f"{order.name}: the Ray cluster has no room for it yet; waiting")
            if now - looked > BEAT_SECONDS:
                looked = now
                self._tell(order, seat)
                self._collect(order, results=False)
        seat.stop()
        self._tell(order, seat)
        self._collect(order, results=True)
        raise StoppedError(f"{order.name}: stopped, with its progress saved")

    def _tell(self, order: Order, seat: _Seat) -> None:
        for line in seat.news():
            self._watch.warn(line if line.startswith(order.name) else f"{order.name}: {line}")

    def _job(self, order: Order) -> PoolJob:
        return PoolJob(
            place=self._place,
            shared=self._compute.exchange is None,
            orders=(order,),
            parallel=1,
            threads=self._compute.threads,
            gpus=math.ceil(self._compute.gpus),
            cache_bytes=round(self._compute.cache_gb * 1e9),
            attempt=next(_attempts),
        )

    def _collect(self, order: Order, *, results: bool) -> None:
        if self._compute.exchange is not None:
            collect(order, self._store, self._exchange, self._patient, results=results)


_attempts = itertools.count(int(time.time()))  # so that none is one of an earlier process


class _Found(NamedTuple):
    """What an earlier process left: an actor, and what it does."""

    actor: Any
    job: PoolJob


class _Seat:
    """Room for one order at a time on some machine of the cluster: an actor, started again if its machine is gone.

    Args:
        cluster: of the machine.
        compute: what an order gets of it.
        actor: one that there is already.
    """

    def __init__(self, cluster: Cluster, compute: RayCompute, actor: Any = None) -> None:
        self._cluster, self._ray, self._compute, self._actor = cluster, cluster.ray, compute, actor
        self._up: Any = None  # answered once the actor runs
        self._doing: Any = None  # answered once it has done the job

    def begin(self, job: PoolJob) -> None:
        """Have a job done."""
        self._job = job
        if self._actor is None:
            self._actor = self._cluster.one_of_idle() or self._new()
        self._up = self._actor.news.remote()
        self._doing = self._actor.do.remote(job.content())

    def take(self, actor: Any) -> None:
        """Have an actor do the next job that there is already."""
        self.leave()
        self._actor = actor

    def _new(self) -> Any:
        """Start an actor. In a cluster that outlives this process it does, too, and is found by its name."""
        gpus, idle_seconds, options = self._compute.gpus, 0.0, {}
        if self._cluster.outlives:
            name, idle_seconds = f"{NAME}{secrets.token_hex(8)}", IDLE_SECONDS
            options = {"name": name, "lifetime": "detached"}
            self._cluster.ours.add(name)
        remote = self._ray.remote(Host).options(
            num_cpus=self._compute.cpus, num_gpus=gpus, max_concurrency=8, **options
        )
        return remote.remote(bool(gpus), idle_seconds)

    def is_up(self) -> bool:
        """Say whether the actor has room, and has begun."""
        return bool(self._ray.wait([self._up], timeout=0)[0])

    def ended(self) -> Ended | None:
        """Return how the job ended, LOST if its machine is gone; None while it goes on."""
        if not self._ray.wait([self._doing], timeout=POLL_SECONDS)[0]:
            if not self.is_up() and (other := self._cluster.one_of_idle()):  # what has room is idle, and would stay so
                self._drop()
                self._actor = other
                self.begin(self._job)
            return None
        try:
            return Ended(*self._ray.get(self._doing))
        except self._ray.exceptions.RayError:
            self._drop()
            return LOST

    def news(self) -> list[str]:
        """Return what the machine warned of; nothing if it does not answer."""
        if self._actor is None or not self.is_up():
            return []
        try:
            return list(self._ray.get(self._actor.news.remote(), timeout=BEAT_SECONDS))
        except self._ray.exceptions.RayError:
            return []

    def stop(self) -> None:
        """Let a job end with its progress saved, and the actor after it."""
        if self._actor is not None:
            self._actor.stop.remote()
            seconds = SAVE_SECONDS if self._cluster.lost else 2 * GRACE_SECONDS
            self._ray.wait([self._doing], timeout=seconds if self.is_up() else 0)
            self._drop()

    def leave(self) -> None:
        """Keep the actor for the next stage."""
        if self._actor is not None:
            self._cluster.idle.append(self._actor)
            self._actor = None

    def _drop(self) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor)
        self._actor = None


def _find(cluster: Cluster, keys: Sequence[str]) -> dict[str, _Found]:
    """Return what an earlier process left on the cluster that does what is wanted, by the keys of orders."""
    if not cluster.outlives:
        return {}
    ray, asked = cluster.ray, dict[Any, tuple[str, Any]]()
    for name in ray.util.list_named_actors():
        if name.startswith(NAME) and name not in cluster.ours:
            with contextlib.suppress(ValueError):  # it has ended meanwhile
                actor = ray.get_actor(name)
                asked[actor.doing.remote()] = (name, actor)
    found = {}
    for answer in ray.wait(list(asked), num_returns=len(asked), timeout=FIND_SECONDS)[0] if asked else ():
        with contextlib.suppress(ray.exceptions.RayError):
            if content := ray.get(answer, timeout=FIND_SECONDS):
                job, (name, actor) = PoolJob.model_validate(content), asked[answer]
                if (key := key_of(job.orders[0])) in keys:
                    cluster.ours.add(name)
                    found[key] = _Found(actor, job)
    return found


atexit.register(leave)


def _amount(number: float) -> str:
    return f"{number:g}"
