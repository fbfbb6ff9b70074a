"""What a job of a work pool does on its machine: fetch, carry out, send back results; heartbeats meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from effnet.config import LocalCompute
from effnet.errors import ConfigError, EffnetError, StoppedError
from effnet.exchange import Exchange
from effnet.order import Rendezvous
from effnet.outage import impatient
from effnet.process import report_to
from effnet.runs import RunFolder
from effnet.storage import is_remote
from effnet.store import Store, digest
from effnet.train.launch import RENDEZVOUS_SECONDS
from tasks.compute import interrupt
from tasks.compute.here import run_here
from tasks.compute.orders import BEAT_SECONDS, PoolJob
from tasks.compute.outage import Patience
from tasks.compute.watch import Watch
from tasks.servers.gpus import require_gpus

ADDRESS = "EFFNET_ADDRESS"  # of this machine, for others that train one network with it
SCRATCH = "EFFNET_SCRATCH"  # where a job keeps fetched data and runs; else the machine's temporary folder


def do_job(job: PoolJob, name: str, say: Callable[[str], None], warn: Callable[[str], None]) -> None:
    """Do a job.

    Args:
        job: what to do.
        name: of its heartbeat.
        say: told what is done.
        warn: told what children warn of.

    Raises:
        EffnetError: see tasks.compute.here.run_here, and effnet.exchange.
    """
    require_gpus(job.gpus)
    store = store_of(job)
    report_to(store.logs)
    exchange, patient = Exchange(job.place, store), Patience("exchange", warn)
    with _beating(exchange, name), handed_over(job, name, exchange, patient) as tick:
        orders = job.orders
        if job.machines > 1:
            rendezvous = _rendezvous(job, name, exchange, patient)
            orders = tuple(order.model_copy(update={"rendezvous": rendezvous}) for order in orders)
        run_here(orders, compute_of(job), store, Watch(warn, tick, lambda name: say(f"{name}: done"), say))


@contextmanager
def handed_over(job: PoolJob, name: str, exchange: Exchange, patient: Patience) -> Iterator[Callable[[], None]]:
    """Fetch a job's runs; yield what sends news of them now and then; send their results when the block ends.

    What it yields raises StoppedError once another job does this one's work, and nothing is sent from then on.
    """
    folders = []
    if not job.shared:
        keys = list(dict.fromkeys(key for order in job.orders for key in order.runs))
        folders = [patient(lambda key=key: exchange.fetch(key, job.cache_bytes)) for key in keys]  # type: ignore[misc]
    # With several machines, only the first one's first rank writes anything to send.
    sender = _Sender(name, exchange, [] if job.machine else folders, patient)
    try:
        yield sender.tick
    finally:
        patient(sender.send)  # results, or the checkpoint that was written when it was asked to stop


def compute_of(job: PoolJob) -> LocalCompute:
    """Return how a job uses its machine."""
    return LocalCompute(parallel=job.parallel, per_gpu=job.per_gpu, threads=job.threads)


def store_of(job: PoolJob) -> Store:
    """Return the store that a job works in: the shared one, or one on its machine's scratch.

    Raises:
        ConfigError: if the shared one is not there.
    """
    if job.shared:
        store = Store(Path(job.place))
        if is_remote(job.place) or not store.root.is_dir():
            raise ConfigError(
                f"{job.place}: no such folder on {os.uname().nodename}; mount the store there, or set compute.exchange"
            )
        return store
    scratch = os.environ.get(SCRATCH) or Path(tempfile.gettempdir()) / "effnet"
    own = f"-{job.machine}" if job.machine else ""  # two machines of one training may be two workers on one
    store = Store(Path(scratch).absolute() / f"{digest(job.place)[:16]}{own}")
    store.prepare()
    return store


def _rendezvous(job: PoolJob, name: str, exchange: Exchange, patient: Patience) -> Rendezvous:
    """Agree with the other machines of a training on an address: the first one posts it, the others wait for it.

    Raises:
        StoppedError: if the first one does not post it in time.
    """
    if job.machine == 0:
        own = _own_address()
        patient(lambda: exchange.post(f"{name}.rendezvous", own))
        return Rendezvous(address=own, machine=0)
    deadline = time.monotonic() + RENDEZVOUS_SECONDS
    while (address := patient(lambda: exchange.latest(f"{job.first}.rendezvous"))) is None:
        interrupt.check()
        if time.monotonic() > deadline:
            raise StoppedError(f"{job.orders[0].name}: machine 0 of {job.machines} never joined; start it again")
        time.sleep(1)
    return Rendezvous(address=address, machine=job.machine)


def _own_address() -> str:
    """Return HOST:PORT of a free port here: at ADDRESS if set, else the local address of the route to Prefect."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    if host := os.environ.get(ADDRESS):
        return f"{host}:{port}"
    server = urlsplit(os.environ.get("PREFECT_API_URL", "")).hostname or "localhost"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((server, 9))  # sends nothing: it only looks up the route
            return f"{probe.getsockname()[0]}:{port}"
    except OSError as error:
        raise ConfigError(f"cannot reach {server} from {os.uname().nodename} ({error}); set {ADDRESS}") from error


@contextmanager
def _beating(exchange: Exchange, name: str) -> Iterator[None]:
    """Post the job's heartbeats during the block; an exchange that is away for a while does not matter."""
    ended = threading.Event()

    def beat() -> None:
        for count in itertools.count():
            with contextlib.suppress(EffnetError, OSError), impatient():
                exchange.post(name, str(count))
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
    """Sends what is new of a job's runs, now and then, as long as no other job does its work.

    Between asking for that and sending is a gap; a run's files are asked for one run at a time, so it is short.
    """

    def __init__(self, name: str, exchange: Exchange, folders: list[RunFolder], patience: Patience) -> None:
        self._name, self._exchange, self._folders, self._patience = name, exchange, folders, patience
        self._last = time.monotonic()

    def tick(self) -> None:
        if time.monotonic() - self._last >= BEAT_SECONDS:
            self._patience.once(self.send)
            self._last = time.monotonic()

    def send(self) -> None:
        for folder in list(self._folders):
            if self._exchange.is_replaced(self._name):
                self._folders.clear()
                raise StoppedError(f"{folder.key}: another job was started for it while nothing was heard of this one")
            self._exchange.push(folder)
