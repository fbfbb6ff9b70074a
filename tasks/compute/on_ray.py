"""Orders on the machines of a Ray cluster: actors carry them out, one after the other, as child processes.

Ray decides which machine, and says when one is gone; an order whose machine is gone goes on elsewhere from its last
checkpoint. Weights, journals and results never pass through Ray: they lie in the store, or go through the exchange.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import math
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from effnet.config import RayCompute
from effnet.errors import AwayError, BusyError, ConfigError, DataError, MachineError, RunFailedError, StoppedError
from effnet.exchange import Exchange
from effnet.order import Order
from effnet.process import GRACE_SECONDS
from effnet.store import Store, digest
from tasks.compute.here import shown, side_by_side
from tasks.compute.orders import BEAT_SECONDS, PoolJob, is_fulfilled, progress
from tasks.compute.outage import Patience, collect
from tasks.compute.ray_host import Ended, Host
from tasks.compute.watch import Watch

POLL_SECONDS = 0.1
CONNECT_SECONDS = 10.0  # for a cluster's head to take a connection
ROOM_SECONDS = 60.0  # after so long without room for a training, it is told
BUSY_SECONDS = 5.0  # between tries to take a run that another process holds
ATTEMPTS = 5  # of an order that gets no further because its machines vanish
LOST = Ended(-1, "its machine is gone")
# The driver's part of the cluster's memory for values, of which orders need next to none.
OBJECT_BYTES = 80_000_000
LOOPBACK = "127.0.0.2"  # 127.0.0.1 would be taken for the address that other machines reach
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
        ConfigError: if Ray is not installed, no cluster answers, or this machine has no room for even one order.
        EffnetError: of the kind that an order failed with, with its line; the others are stopped.
        BaseException: whatever interrupts the wait; the orders are stopped first, each with a checkpoint.
    """
    if orders:
        _Engine(connect(compute, store), compute, store, watch.one_at_a_time()).run(orders)


class _Engine:
    def __init__(self, ray: ModuleType, compute: RayCompute, store: Store, watch: Watch) -> None:
        self._ray, self._compute, self._store, self._watch = ray, compute, store, watch
        self._place = compute.exchange or str(store.root.absolute())
        self._exchange = Exchange(self._place, store)
        self._patient = Patience("exchange", watch.warn)
        self._stop = threading.Event()

    def run(self, orders: Sequence[Order]) -> None:
        waiting, taking = deque(sorted(orders, key=lambda order: -order.size)), threading.Lock()
        at_once = min(len(orders), self._compute.jobs or self._room())

        def work() -> None:
            seat = _Seat(self._ray, self._compute)
            try:
                while not self._stop.is_set():
                    with taking:
                        if not waiting:
                            return
                        order = waiting.popleft()
                    shown(order.name, functools.partial(self._supervise, order, seat))
            finally:
                seat.leave()

        side_by_side(work, at_once, self._watch.tick, self._stop.set)

    def _room(self) -> int:
        """Return how many orders the cluster's machines take at a time; at least 1, since one may still join.

        Raises:
            ConfigError: if this machine is all there is, and is too small.
        """
        wanted = {"CPU": float(self._compute.cpus)} | ({"GPU": self._compute.gpus} if self._compute.gpus else {})
        nodes: list[dict[str, float]] = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        room = sum(math.floor(min(node.get(name, 0.0) / many for name, many in wanted.items())) for node in nodes)
        if room:
            return room
        told = ", ".join(f"{_amount(node.get('CPU', 0))} CPUs and {_amount(node.get('GPU', 0))} GPUs" for node in nodes)
        asked = f"{self._compute.cpus} CPUs and {_amount(self._compute.gpus)} GPUs"
        if self._compute.ray == "local":
            raise ConfigError(f"compute: a training is to have {asked}, this machine has {told}; ask for less")
        self._watch.warn(f"no machine of the Ray cluster has {asked} ({told}); waiting for one to join")
        return 1

    def _supervise(self, order: Order, seat: _Seat) -> None:
        """Have an order carried out, again and again if machines vanish."""
        job, tries = self._job(order), 1
        while True:
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

    def _do(self, order: Order, job: PoolJob, seat: _Seat) -> Ended:
        """Have a job done; return how it ended.

        Raises:
            StoppedError: if it was stopped because this engine is.
        """
        doing, began, looked, told = seat.begin(job), time.monotonic(), time.monotonic(), False
        while not self._stop.is_set():
            if (ended := seat.ended(doing)) is not None:
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
        seat.stop(doing)
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
        )

    def _collect(self, order: Order, *, results: bool) -> None:
        if self._compute.exchange is not None:
            collect(order, self._store, self._exchange, self._patient, results=results)


_idle: list[Any] = []  # actors of this process that wait for another order, so that later stages need not start any


class _Seat:
    """Room for one order at a time on some machine of the cluster: an actor, started again if its machine is gone."""

    def __init__(self, ray: ModuleType, compute: RayCompute) -> None:
        self._ray, self._compute = ray, compute
        self._actor: Any = None
        self._up: Any = None  # answered once the actor runs

    def begin(self, job: PoolJob) -> Any:
        """Have a job done; return what `ended` takes."""
        if self._actor is None:
            with contextlib.suppress(IndexError):
                self._actor = _idle.pop()
        if self._actor is None:
            gpus = self._compute.gpus
            remote = self._ray.remote(Host).options(num_cpus=self._compute.cpus, num_gpus=gpus, max_concurrency=4)
            self._actor = remote.remote(bool(gpus))
        self._up = self._actor.news.remote()
        return self._actor.do.remote(job.content())

    def is_up(self) -> bool:
        """Say whether the actor has room, and has begun."""
        return bool(self._ray.wait([self._up], timeout=0)[0])

    def ended(self, doing: Any) -> Ended | None:
        """Return how a job ended, LOST if its machine is gone; None while it goes on."""
        if not self._ray.wait([doing], timeout=POLL_SECONDS)[0]:
            return None
        try:
            return Ended(*self._ray.get(doing))
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

    def stop(self, doing: Any) -> None:
        """Let a job end with its progress saved, and the actor after it."""
        if self._actor is not None:
            self._actor.stop.remote()
            self._ray.wait([doing], timeout=2 * GRACE_SECONDS if self.is_up() else 0)
            self._drop()

    def leave(self) -> None:
        """Keep the actor for the next stage."""
        if self._actor is not None:
            _idle.append(self._actor)
            self._actor = None

    def _drop(self) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor)
        self._actor = None


_connected: list[str] = []  # what this process is connected to


def connect(compute: RayCompute, store: Store) -> ModuleType:
    """Return Ray, connected to the cluster, or to one that is started here and ends with this process.

    Raises:
        ConfigError: if it is not installed or does not answer.
    """
    settings: dict[str, Any] = {"address": compute.ray}
    if _connected != [compute.ray]:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        if compute.ray == "local":
            if "ray" not in sys.modules:  # which reads them when it is imported, or makes a secret in the home folder
                os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            settings |= {"include_dashboard": False, "object_store_memory": OBJECT_BYTES}
            settings |= {"_node_ip_address": LOOPBACK} if sys.platform == "linux" else {}
    try:
        import ray
    except ImportError as error:
        raise ConfigError("compute.ray: Ray is not installed; pip install 'effnet[ray]'") from error
    if _connected == [compute.ray]:
        return ray
    _check_answers(compute.ray)
    if _connected:
        _leave(ray)
    namespace = f"effnet-{digest(compute.exchange or str(store.root.absolute()))[:16]}"
    with _own_signal_handlers():
        try:
            ray.init(**settings, namespace=namespace, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise ConfigError(f"compute.ray: no Ray cluster answers at {compute.ray} ({reason})") from error
    _connected[:] = [compute.ray]
    return ray


def _check_answers(address: str) -> None:
    """Raise ConfigError if nobody listens at a HOST:PORT: Ray itself would try for minutes, and print warnings."""
    host, _, port = address.rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"compute.ray: no Ray cluster answers at {address} ({error})") from error


def _leave(ray: ModuleType) -> None:
    _idle.clear()
    _connected.clear()
    ray.shutdown()


@atexit.register
def _leave_at_exit() -> None:
    if _connected:
        import ray

        _leave(ray)


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep this process's handlers: Ray sets its own, and an interrupted family would end without its order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Callable[..., Any] | int | None] = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _amount(number: float) -> str:
    return f"{number:g}"
