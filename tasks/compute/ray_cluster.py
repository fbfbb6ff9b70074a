"""The Ray cluster that orders go to: connecting to it, what room it has, and whether its head still answers."""

from __future__ import annotations

import atexit
import json
import logging
import math
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from effnet.config import RayCompute
from effnet.errors import AwayError, ConfigError
from effnet.store import Store, digest

CONNECT_SECONDS = 10.0  # for a cluster's head to take a connection, and to greet
HEAD_SECONDS = 20.0  # without an answer of the head: Ray ends this process after 60, and saving takes a while
LOOK_SECONDS = 5.0  # between looks at the head
# The driver's part of the cluster's memory for values, of which orders need next to none.
OBJECT_BYTES = 80_000_000
LOOPBACK = "127.0.0.2"  # 127.0.0.1 would be taken for the address that other machines reach
_OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # RFC 9113, 3.4: preface, empty SETTINGS
_SETTINGS = 4  # the type of the frame that a server answers with


class Cluster:
    """A cluster that this process is connected to.

    Args:
        ray: the package.
        address: as the config names it.
        head: HOST:PORT of its head.
        namespace: that the names of actors are looked for in.
    """

    def __init__(self, ray: ModuleType, address: str, head: str, namespace: str = "") -> None:
        self.ray, self.address, self.head, self.namespace = ray, address, head, namespace
        self._answered = self._looked = time.monotonic()
        self.lost = False  # whether the head is
        self.idle: list[Any] = []  # actors of this process that wait for another order, also one of a later stage
        self.ours: set[str] = set()  # names of all actors that are this process's

    @property
    def outlives(self) -> bool:
        """Whether the cluster goes on when this process is gone."""
        return self.address != "local"

    def nodes(self) -> list[dict[str, float]]:
        """Return what each living machine has, by resource."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def may_grow(self) -> bool:
        """Say whether something adds machines when there is no room: not where all were started by hand."""
        from ray._private.state import state
        from ray.experimental import internal_kv

        if state.get_cluster_config():  # reported by the autoscaler, version 2
            return True
        told = internal_kv._internal_kv_get(b"__autoscaling_status")
        nodes: Mapping[str, int] = (
            (json.loads(told) if told else {}).get("autoscaler_report", {}).get("active_nodes", {})
        )
        return any(not re.fullmatch("node_[0-9a-f]{56}", name) for name in nodes)  # version 1: types have names

    def one_of_idle(self) -> Any:
        """Return an actor that waits for an order, and still lives; None if there is none."""
        while True:
            try:
                actor = self.idle.pop()
                self.ray.get(actor.news.remote(), timeout=LOOK_SECONDS)
            except IndexError:
                return None
            except self.ray.exceptions.RayError:
                continue
            return actor

    def end_idle(self) -> None:
        """End the actors that wait for an order, and hold room meanwhile."""
        while self.idle:
            self.ray.kill(self.idle.pop())

    def check_head(self) -> None:
        """Raise AwayError if the head has not answered for a while; call it often."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        if (why := silence(self.head, LOOK_SECONDS)) is None:
            self._answered = time.monotonic()
        elif time.monotonic() - self._answered > HEAD_SECONDS:
            self.lost = True
            raise AwayError(
                f"compute.ray: the head of the Ray cluster at {self.head} has not answered for {HEAD_SECONDS:.0f} s "
                f"({why}); run the command again when it is back, trainings go on from their last checkpoints"
            )


_connected: list[Cluster] = []  # what this process is connected to


def connect(compute: RayCompute, store: Store) -> Cluster:
    """Return the cluster, connected to, or one that is started here and ends with this process.

    Raises:
        ConfigError: if Ray is not installed, or no cluster answers that takes this process.
    """
    # In a cluster that outlives this process, those who share a place see each other's actors, and nobody else's.
    namespace = (
        f"effnet-{digest(compute.exchange or str(store.root.absolute()))[:16]}" if compute.ray != "local" else ""
    )
    if _connected and (_connected[0].address, _connected[0].namespace) == (compute.ray, namespace):
        return _connected[0]
    settings: dict[str, Any] = {"address": compute.ray}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if compute.ray == "local":
        if "ray" not in sys.modules:  # which reads them when it is imported, or makes a secret in the home folder
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        os.environ.setdefault("RAY_worker_niceness", "0")  # trainings here do not step back behind others either
        settings |= {"include_dashboard": False, "object_store_memory": OBJECT_BYTES}
        settings |= {"_node_ip_address": LOOPBACK} if sys.platform == "linux" else {}
    ray = _load()
    if compute.ray not in ("auto", "local") and (why := silence(compute.ray, CONNECT_SECONDS)):
        raise ConfigError(f"compute.ray: no Ray cluster answers at {compute.ray} ({why})")
    leave()
    atexit.unregister(leave)
    atexit.register(leave)  # after Ray's own, which it must come before: the last one that is registered runs first
    with _own_signal_handlers():
        try:
            ray.init(**settings, namespace=namespace or None, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
            raise ConfigError(f"compute.ray: {refusal(compute.ray, error)}") from error
    # Of a machine that is lost it prints twenty lines of log; a line of ours says what became of its training.
    ray._private.worker.print_to_stdstream = lambda *_arguments, **_settings: None
    _connected[:] = [Cluster(ray, compute.ray, ray.get_runtime_context().gcs_address, namespace)]
    return _connected[0]


def _load() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("compute.ray: Ray is not installed; pip install 'effnet[ray]'") from error
    return ray


def leave() -> None:
    """Disconnect this process; a cluster that it started ends."""
    if _connected:
        cluster = _connected.pop()
        if cluster.lost or not cluster.ray.is_initialized():  # it would be waited for, or another one be started
            return
        cluster.end_idle()
        cluster.ray.shutdown()


def silence(address: str, seconds: float) -> str | None:
    """Return why nobody at HOST:PORT greets as a Ray head does, which speaks HTTP/2; None if it does.

    Ray itself would try for minutes, print warnings, and end the process.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), seconds) as there:
            there.sendall(_OPENING)
            frame = there.recv(9, socket.MSG_WAITALL)  # the header of the first frame: 3 bytes of length, then its type
    except TimeoutError:
        return f"no answer in {seconds:.0f} s"
    except (OSError, OverflowError) as error:
        return str(error)
    return None if len(frame) == 9 and frame[3] == _SETTINGS else "what listens there is no Ray head"


def refusal(address: str, error: Exception) -> str:
    """Return in one line why a cluster that answers, or is looked for, does not take this process."""
    told = " ".join(str(error).split()) or type(error).__name__
    versions = re.findall(r"Ray: (\S+) Python: (\S+)", told)
    if len(versions) == 2:
        (ray, python), (own_ray, own_python) = versions
        return (
            f"the Ray cluster at {address} runs Ray {ray} on Python {python}, this process Ray {own_ray} on Python "
            f"{own_python}; use the same everywhere"
        )
    if isinstance(error, ConnectionError) and address not in ("auto", "local"):
        return (
            f"the Ray cluster at {address} does not take this process; its token (RAY_AUTH_TOKEN, or "
            "~/.ray/auth_token) must be the cluster's"
        )
    return f"no Ray cluster answers at {address} ({told[:200]})"


def gangs(nodes: list[dict[str, float]], wanted: Mapping[str, float], machines: int) -> int:
    """Return how many orders the nodes take at a time, each on so many different ones.

    Args:
        nodes: what each has, by resource.
        wanted: what an order takes of each of its machines.
        machines: of an order.
    """
    places = [_takes(node, wanted) for node in nodes]
    number = sum(places) // machines
    while sum(min(place, number) for place in places) < number * machines:  # a node serves each order once
        number -= 1
    return number


def _takes(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    return math.floor(min(node.get(name, 0.0) / many for name, many in wanted.items()))


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
