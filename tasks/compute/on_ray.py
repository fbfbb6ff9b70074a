"""Orders on the machines of a Ray cluster: actors carry them out, one after the other, as child processes.

Ray decides which machine, and says when one is gone; an order whose machine is gone goes on elsewhere from its last
checkpoint. Weights, journals and results never pass through Ray: they lie in the store, or go through the exchange.
"""

from __future__ import annotations

import functools
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Sequence

from effnet.config import RayCompute
from effnet.errors import AwayError, BusyError, ConfigError, DataError, MachineError, RunFailedError, StoppedError
from effnet.exchange import Exchange
from effnet.order import Order
from effnet.store import Store
from tasks.compute import interrupt
from tasks.compute.here import shown, side_by_side
from tasks.compute.orders import BEAT_SECONDS, PoolJob, is_fulfilled, key_of, progress
from tasks.compute.outage import Patience, collect
from tasks.compute.ray_cluster import Cluster, connect, gangs
from tasks.compute.ray_host import Ended
from tasks.compute.ray_seats import LOST, Gang, One, Seat, find, wanted
from tasks.compute.watch import Watch

LOOK_SECONDS = 0.1  # between looks for room
ROOM_SECONDS = 30.0  # after so long without room for a training, it is told
BUSY_SECONDS = 5.0  # between tries to take a run that another process holds
GONE_SECONDS = 2.0  # after a machine vanished, twice as long each time: Ray notices within 15 that a node is dead
ATTEMPTS = 5  # of an order that gets no further because its machines vanish
_FINAL = (ConfigError, DataError, RunFailedError)
_KINDS = {kind.exit_code: kind for kind in (AwayError, BusyError, ConfigError, DataError, MachineError, StoppedError)}


def run_on_ray(orders: Sequence[Order], compute: RayCompute, store: Store, watch: Watch) -> None:
    """Carry out all orders on a Ray cluster, largest first; in a flow run, each is one of its task runs.

    Args:
        orders: what to do, all on as many machines.
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
        self._found = find(self._cluster, [key_of(order) for order in orders])
        ranked = sorted(orders, key=lambda order: (key_of(order) not in self._found, -order.size))
        waiting, taking, machines = deque(ranked), threading.Lock(), max(order.machines for order in orders)
        at_once = min(len(orders), self._compute.jobs or self._room(machines))

        def work() -> None:
            seat = self._seat(machines)
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
                seat = self._seat(len(found.jobs))
                seat.take(found)
                seat.stop()

    def _seat(self, machines: int) -> Seat:
        return (Gang if machines > 1 else One)(self._cluster, self._compute)

    def _room(self, machines: int) -> int:
        """Return how many orders the cluster takes at a time; at least 1 where machines may still join.

        Raises:
            ConfigError: if there is no room for one, and no machine joins.
        """
        needs, began = wanted(self._compute), time.monotonic()
        each = f"each of {machines} machines for a training" if machines > 1 else "a training"
        asked = _room(self._compute.cpus, self._compute.gpus)
        while not (found := gangs(nodes := self._cluster.nodes(), needs, machines)):
            has = ", ".join(_room(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes)
            if not self._cluster.outlives:
                raise ConfigError(f"compute: a training is to have {asked}, this machine has {has}; ask for less")
            if self._cluster.may_grow():
                what = f"not {machines} machines" if machines > 1 else "no machine"
                self._watch.warn(f"{what} of the Ray cluster has {asked} ({has}); waiting for one to join")
                return 1
            if time.monotonic() - began > ROOM_SECONDS:  # some may still be starting
                raise ConfigError(
                    f"compute: {each} is to have {asked}, the Ray cluster is {len(nodes)} "
                    f"machine{'s' * (len(nodes) != 1)} with {has}, and none joined in "
                    f"{ROOM_SECONDS:.0f} s; ask for less, or start a larger one"
                )
            interrupt.check()
            self._cluster.check_head()
            time.sleep(LOOK_SECONDS)
        return found

    def _supervise(self, order: Order, seat: Seat) -> None:
        """Have an order carried out, again and again if machines vanish."""
        tries = 1
        if found := self._found.pop(key_of(order), None):
            self._watch.say(f"{order.name}: found on the Ray cluster, where it was left")
        while True:
            job = self._job(order)
            if not job.shared:
                for key in order.runs:
                    self._patient(lambda key=key: self._exchange.publish(key))  # type: ignore[misc]
            before = progress(order, self._store)
            if found:
                job = found.jobs[0]
                left = self._seat(len(found.jobs))  # perhaps of another number of machines
                left.take(found)
                found, ended = None, self._watched(order, left)
                left.leave()
            else:
                seat.begin(job)
                ended = self._watched(order, seat)
            if ended == LOST and not job.shared:  # it may only be cut off, and must publish nothing when it is back
                self._patient(lambda job=job: self._exchange.replace(job.sends_as))  # type: ignore[misc]
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

    def _watched(self, order: Order, seat: Seat) -> Ended:
        """Wait until an order's job has ended; return how.

        Raises:
            StoppedError: if it was stopped because this engine is.
        """
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

    def _tell(self, order: Order, seat: Seat) -> None:
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


def _room(cpus: float, gpus: float) -> str:
    """Return cores and GPUs in words."""
    return f"{_amount(cpus)} CPU{'s' * (cpus != 1)} and {_amount(gpus)} GPU{'s' * (gpus != 1)}"


def _amount(number: float) -> str:
    return f"{number:g}"
