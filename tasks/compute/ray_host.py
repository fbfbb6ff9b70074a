"""What runs on the machines of a Ray cluster: an actor that carries out one order after the other.

Its children are forked from a process that has torch loaded, and stay its own: a Ray worker takes as long to start as
any other process that imports torch, a small training not much longer.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

import psutil

from effnet.errors import EffnetError, StoppedError
from effnet.exchange import Exchange
from effnet.process import report_to
from tasks.compute import interrupt
from tasks.compute.here import run_here
from tasks.compute.job import compute_of, handed_over, store_of
from tasks.compute.orders import BEAT_SECONDS, PoolJob
from tasks.compute.outage import Patience
from tasks.compute.watch import Watch
from tasks.servers.gpus import VISIBLE, require_gpus

FORGOTTEN_SECONDS = 24 * 3600.0  # a job that nobody has asked for is stopped, with a checkpoint


class Ended(NamedTuple):
    """How a job ended."""

    code: int  # 0, or the exit code of what stopped it
    line: str  # why


class Host:
    """Carries out jobs, one at a time.

    Args:
        on_gpu: whether it was given a GPU. Ray hides the others from such an actor, and none from any other.
        idle_seconds: after so long without a job, and with nobody asking for it, its process ends; 0: never. While it
            does one, that takes FORGOTTEN_SECONDS, and the job is stopped.
    """

    def __init__(self, on_gpu: bool, idle_seconds: float) -> None:
        self._news: list[str] = []
        self._one = threading.Lock()
        self._content: dict[str, Any] = {}  # the job that it does, or did last
        self._ended = Ended(0, "")
        self._asked, self._stopped = time.monotonic(), False
        if not on_gpu:
            os.environ[VISIBLE] = ""
        if idle_seconds:
            threading.Thread(target=self._end_when_forgotten, args=(idle_seconds,), daemon=True).start()

    def do(self, content: dict[str, Any]) -> Ended:
        """Do a job, or this machine's part of it; return how it ended. The same one again is not done again."""
        self._asked = time.monotonic()
        with self._one:
            if content != self._content:
                self._content = content
                self._ended = self._how_it_ends(content)
                self._asked = time.monotonic()
            return self._ended

    def doing(self) -> dict[str, Any]:
        """Return the job that it does, or did last; an empty one if it is free, or will do no more."""
        self._asked = time.monotonic()
        return {} if self._stopped else self._content

    def _how_it_ends(self, content: dict[str, Any]) -> Ended:
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
        with handed_over(job, job.sends_as, Exchange(job.place, store), patient) as tick:
            run_here(job.orders, compute_of(job), store, Watch(self._news.append, tick))

    def address(self) -> str:
        """Return HOST:PORT of this machine for others that train with it, which also learn to listen there."""
        import ray

        host = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):  # else torch looks up the machine's name
            if found := interface_of(host, psutil.net_if_addrs()):
                os.environ.setdefault(name, found)
        with socket.socket() as probe:
            probe.bind((host, 0))
            return f"{host}:{probe.getsockname()[1]}"

    def news(self) -> list[str]:
        """Return what it warned of since the last call."""
        self._asked = time.monotonic()
        told, self._news[:] = list(self._news), []
        return told

    def stop(self) -> None:
        """Let the job that is under way end with its progress saved; another one must not follow."""
        self._stopped = True
        interrupt.ask()

    def _end_when_forgotten(self, idle_seconds: float) -> None:
        while True:
            time.sleep(min(idle_seconds, BEAT_SECONDS))
            unasked = time.monotonic() - self._asked
            if not self._one.locked() and unasked > idle_seconds:
                _leave()
            if self._one.locked() and unasked > FORGOTTEN_SECONDS:
                self.stop()


def interface_of(host: str, interfaces: Mapping[str, Sequence[Any]]) -> str | None:
    """Return the network interface whose network a host is in; None if there is none.

    Args:
        host: an IPv4 address of this machine.
        interfaces: as psutil.net_if_addrs has them.
    """
    for name, addresses in interfaces.items():
        for each in addresses:
            if each.family != socket.AF_INET or not each.netmask:
                continue
            if ip_address(host) in ip_network(f"{each.address}/{each.netmask}", strict=False):
                return name
    return None


def _leave() -> None:
    """End this process, and those of the other machines that train with it: they share what holds room for them."""
    import ray

    if group := ray.util.get_current_placement_group():
        ray.util.remove_placement_group(group)
    os._exit(0)
