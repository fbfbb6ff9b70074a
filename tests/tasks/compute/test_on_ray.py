"""Orders under Ray: the same bits as here, whatever dies; what cannot be done is said in a line."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest

from effnet.config import LocalCompute, RayCompute
from effnet.errors import AwayError, ConfigError, DataError, RunFailedError, StoppedError
from effnet.exchange import Exchange
from effnet.order import Order, Rendezvous
from effnet.process import note_stopping
from effnet.runs import RunFolder
from effnet.store import Store, digest, sha256_file
from tasks.compute import interrupt, on_ray, ray_cluster, ray_host, ray_seats
from tasks.compute.here import run_here
from tasks.compute.on_ray import run_on_ray
from tasks.compute.orders import PoolJob, key_of
from tasks.compute.ray_cluster import Cluster, connect, gangs, refusal, silence
from tasks.compute.ray_host import Ended, Host, interface_of
from tasks.compute.ray_seats import cause, find, parts
from tasks.compute.watch import Watch
from tests.tiny import store_beside

LOCAL = RayCompute(ray="local")


def runs(run_folder: RunFolder, store: Store, seeds: int) -> list[RunFolder]:
    spec = run_folder.spec()
    return [RunFolder.create(store, spec.model_copy(update={"seed": 10 + seed})) for seed in range(seeds)]


def orders(folders: list[RunFolder]) -> list[Order]:
    return [Order(name=f"train {number}", action="train", runs=(each.key,)) for number, each in enumerate(folders)]


def weights(folders: list[RunFolder]) -> list[str]:
    return [sha256_file(folder.weights_path) for folder in folders]


class Notes:
    def __init__(self, tick: Any = lambda: None) -> None:
        self.warned: list[str] = []
        self.done: list[str] = []
        self.watch = Watch(self.warned.append, tick, self.done.append)


@pytest.fixture(scope="module")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Ray for the tests of this file; it ends with them."""
    connect(LOCAL, Store(tmp_path_factory.mktemp("ray")))
    yield
    ray_cluster.leave()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_weights_are_those_of_here_whoever_is_killed(run_folder: RunFolder, tmp_path: Path) -> None:
    here = Store(tmp_path / "here")
    store_beside(run_folder.store, here.root)
    expected = runs(run_folder, here, 3)
    run_here(orders(expected), LocalCompute(), here, Notes().watch)
    folders, killed = runs(run_folder, run_folder.store, 3), list[int]()

    def tick() -> None:
        """Kill the first host, once a training of it is under way."""
        if killed or not any(folder.metrics_path.exists() for folder in folders):
            return
        for process in psutil.process_iter(["name", "cmdline"]):
            if "".join(process.info["cmdline"] or ()).startswith("ray::Host"):
                killed.append(process.pid)
                process.kill()
                return

    notes = Notes(tick)
    run_on_ray(orders(folders), LOCAL, run_folder.store, notes.watch)
    assert sorted(notes.done) == ["train 0", "train 1", "train 2"]
    assert killed
    assert any("its machine is gone; restarted from its last checkpoint" in line for line in notes.warned)
    assert weights(folders) == weights(expected)
    for folder, other in zip(folders, expected, strict=True):
        lines = [len(each.metrics_path.read_text().splitlines()) for each in (folder, other)]
        assert lines == [3, 3]  # every epoch once


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_an_exchange_hands_over_and_a_stop_saves(
    run_folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupt, "_asked", threading.Event())
    compute = RayCompute(ray="local", exchange=str(tmp_path / "exchange"))
    (folder,) = runs(run_folder, run_folder.store, 1)
    scratch = Path(tempfile.gettempdir()) / "effnet" / digest(compute.exchange)[:16] / "runs" / folder.key

    def tick() -> None:
        if (scratch / "metrics.jsonl").exists():
            interrupt.ask()

    with pytest.raises(KeyboardInterrupt):
        run_on_ray(orders([folder]), compute, run_folder.store, Notes(tick).watch)
    assert folder.result() is None
    assert list((tmp_path / "exchange" / "checkpoints" / folder.key).rglob("MANIFEST.json"))  # sent before the end
    interrupt._asked.clear()
    note_stopping(False)
    run_on_ray(orders([folder]), compute, run_folder.store, Notes().watch)
    assert folder.result() is not None


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_what_cannot_be_trained_is_told_by_its_kind(run_folder: RunFolder) -> None:
    (folder,) = runs(run_folder, run_folder.store, 1)
    folder.config_path.write_text("{")
    with pytest.raises((ConfigError, DataError), match=r"train 0: .*config\.json"):
        run_on_ray(orders([folder]), LOCAL, run_folder.store, Notes().watch)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_more_than_this_machine_has_is_told_at_once(run_folder: RunFolder) -> None:
    begun = time.monotonic()
    with pytest.raises(ConfigError, match="a training is to have 500 CPUs and 0 GPUs, this machine has"):
        run_on_ray(orders([run_folder]), RayCompute(ray="local", cpus=500), run_folder.store, Notes().watch)
    assert time.monotonic() - begun < 10


def test_ray_that_is_not_installed_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'effnet\[ray\]'"):
        connect(LOCAL, store)


@contextmanager
def listening(answer: bytes | None) -> Iterator[str]:
    """Listen somewhere, and answer whoever comes, or say nothing; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as thread:

        def serve() -> None:
            with suppress(OSError):
                there, _ = server.accept()
                with there:
                    if answer is not None:
                        there.sendall(answer)
                    there.recv(1)
                    asked.wait(10)

        asked = threading.Event()
        thread.submit(serve)
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            asked.set()
            server.shutdown(socket.SHUT_RDWR)


GREETING = b"\0\0\0\4\0\0\0\0\0"  # an empty SETTINGS frame


def test_an_address_that_no_head_listens_at_is_told_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda **_: pytest.fail("Ray was asked")))
    monkeypatch.setattr(ray_cluster, "CONNECT_SECONDS", 0.2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]  # taken, and not listened at
        with pytest.raises(ConfigError, match=rf"compute\.ray: no Ray cluster answers at 127\.0\.0\.1:{port} \("):
            connect(RayCompute(ray=f"127.0.0.1:{port}"), store)
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127\.0\.0\.1:99999"):
        connect(RayCompute(ray="127.0.0.1:99999"), store)
    with (
        listening(b"HTTP/1.1 400 Bad Request\r\n") as address,
        pytest.raises(ConfigError, match=f"no Ray cluster answers at {address} .what listens there is no Ray head"),
    ):
        connect(RayCompute(ray=address), store)
    with listening(None) as address, pytest.raises(ConfigError, match=f"answers at {address} .no answer in 0 s"):
        connect(RayCompute(ray=address), store)
    with listening(GREETING) as address:
        assert silence(address, 1) is None


def test_a_head_that_is_gone_for_a_while_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(ray_cluster, "HEAD_SECONDS", 0.1)
    with listening(GREETING) as address:
        cluster = Cluster(ModuleType("ray"), "auto", address)
        cluster.check_head()
    cluster.check_head()  # not at once
    time.sleep(0.2)
    with pytest.raises(AwayError, match=f"the head of the Ray cluster at {address} has not answered"):
        cluster.check_head()
    assert cluster.lost


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            RuntimeError(
                "Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\nThis process "
                "on node 127.0.0.2 was started with:\n    Ray: 2.59.0\n    Python: 3.12.1\n"
            ),
            "the Ray cluster at a:1 runs Ray 2.60.0 on Python 3.11.7, this process Ray 2.59.0 on Python 3.12.1; use",
        ),
        (ConnectionError("Failed to connect to Ray cluster at a:1"), "a:1 does not take this process; its token"),
        (RuntimeError("some\nthing else"), "no Ray cluster answers at a:1 (some thing else)"),
    ],
)
def test_why_a_cluster_refuses_is_one_line(error: Exception, told: str) -> None:
    assert told in refusal("a:1", error)
    assert "\n" not in refusal("a:1", error)


def test_a_ray_of_ours_is_private(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    context = SimpleNamespace(gcs_address="127.0.0.2:1")
    private = SimpleNamespace(worker=SimpleNamespace())
    fake = SimpleNamespace(
        _private=private, init=lambda **settings: asked.update(settings), get_runtime_context=lambda: context
    )
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED", "RAY_worker_niceness"):
        monkeypatch.setenv(name, "")

    def found(name: str) -> SimpleNamespace:
        assert name == "ray"
        return fake

    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setattr(ray_cluster, "_load", lambda: found("ray"))
    monkeypatch.setattr(ray_cluster, "_connected", [])
    connect(LOCAL, store)
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert asked["include_dashboard"] is False
    assert sys.platform != "linux" or asked["_node_ip_address"].startswith("127.")


class FakeRay:
    """A cluster whose hosts answer as told."""

    class exceptions:  # noqa: N801 - as Ray has it
        class RayError(Exception):
            pass

    def __init__(self, answers: list[Any], nodes: list[dict[str, float]]) -> None:
        self.answers, self._nodes, self.started, self.grows = answers, nodes, 0, False
        self.jobs: list[Any] = []
        self.full = False  # no actor finds room
        self.get_actor: Any = None

    util: Any = SimpleNamespace(list_named_actors=list)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": node} for node in self._nodes]

    def wait(self, refs: list[Any], timeout: float, num_returns: int = 1) -> tuple[list[Any], list[Any]]:
        assert timeout is not None
        assert num_returns == len(refs)
        return ([], refs) if self.full else (refs, [])

    def get(self, ref: Any, timeout: float = 0) -> Any:
        assert timeout is not None
        if isinstance(ref, list):
            return [self.get(each) for each in ref]
        answer = ref()
        answer = answer() if callable(answer) else answer
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def kill(self, actor: Any) -> None:
        assert actor

    def remote(self, host: Any) -> Any:
        assert host
        return self

    def options(self, **_resources: Any) -> Any:
        def make(_on_gpu: bool, _idle: float) -> Any:
            self.started += 1

            def begin(content: Any) -> Any:
                self.jobs.append(content)
                return lambda: self.answers.pop(0)

            do = SimpleNamespace(remote=begin)
            return SimpleNamespace(do=do, news=SimpleNamespace(remote=lambda: list))

        return SimpleNamespace(remote=make)


class FakeCluster(Cluster):
    def __init__(self, ray: Any, address: str) -> None:
        super().__init__(ray, address, "")

    def may_grow(self) -> bool:
        return bool(self.ray.grows)

    def check_head(self) -> None:
        pass


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay([], [{"CPU": 4.0}])
    monkeypatch.setattr(on_ray, "connect", lambda compute, _store: FakeCluster(fake, compute.ray))
    monkeypatch.setattr(on_ray, "BUSY_SECONDS", 0.01)
    monkeypatch.setattr(on_ray, "GONE_SECONDS", 0.001)
    return fake


@pytest.mark.parametrize(
    ("ended", "kind"),
    [
        (Ended(2, "no such folder"), ConfigError),
        (Ended(65, "a shard is broken"), DataError),
        (Ended(70, "diverged"), RunFailedError),
    ],
)
def test_an_error_of_the_training_is_passed_on(
    cluster: FakeRay, run_folder: RunFolder, ended: Ended, kind: type[Exception]
) -> None:
    cluster.answers = [ended]
    with pytest.raises(kind, match=f"train 0: {ended.line}"):
        run_on_ray(orders([run_folder]), LOCAL, run_folder.store, Notes().watch)


def test_what_is_no_fault_of_the_training_is_tried_again(cluster: FakeRay, run_folder: RunFolder) -> None:
    gone = cluster.exceptions.RayError("node died")

    def done() -> Ended:
        run_folder.result_path.write_text("{}")
        return Ended(0, "")

    cluster.answers = [gone, Ended(73, "held"), Ended(76, "its GPU is broken"), Ended(75, "asked to stop"), done]
    notes = Notes()
    run_on_ray(orders([run_folder]), LOCAL, run_folder.store, notes.watch)
    assert notes.done == ["train 0"]
    assert [line.split("; ")[0] for line in notes.warned] == [
        "train 0: its machine is gone",
        "train 0: its GPU is broken",
        "train 0: asked to stop",
    ]
    assert cluster.started == 2  # the first one's machine was gone


def test_an_idle_actor_takes_what_waits_for_room(cluster: FakeRay, run_folder: RunFolder) -> None:
    """One of two machines is gone: the actor on the other one, idle now, holds all the room that there is."""
    seat = ray_seats.One(FakeCluster(cluster, "auto"), LOCAL)
    cluster.answers, cluster.full = [Ended(0, "")], True
    job = PoolJob(place="/", shared=True, orders=tuple(orders([run_folder])))
    seat.begin(job)
    assert seat.ended() is None
    assert not seat.is_up()
    idle = cluster.options().remote(False, 0)
    seat._cluster.idle.append(idle)
    assert seat.ended() is None
    cluster.full = False
    assert seat._actor is idle
    assert seat.ended() == Ended(0, "")
    assert not seat._cluster.idle


def test_a_machine_that_was_given_up_publishes_nothing_more(
    cluster: FakeRay, run_folder: RunFolder, tmp_path: Path
) -> None:
    place = tmp_path / "exchange"
    place.mkdir()
    compute = RayCompute(ray="auto", exchange=str(place))
    cluster.answers = [cluster.exceptions.RayError("node died"), Ended(70, "diverged")]
    with pytest.raises(RunFailedError, match="diverged"):
        run_on_ray(orders([run_folder]), compute, run_folder.store, Notes().watch)
    first, second = cluster.jobs
    exchange = Exchange(str(place), run_folder.store)
    assert exchange.is_replaced(PoolJob.model_validate(first).sends_as)
    assert not exchange.is_replaced(PoolJob.model_validate(second).sends_as)


def test_machines_that_vanish_again_and_again_end_it(cluster: FakeRay, run_folder: RunFolder) -> None:
    cluster.answers = [cluster.exceptions.RayError("node died")] * 20
    with pytest.raises(RunFailedError, match="its machine is gone, 5 times; run"):
        run_on_ray(orders([run_folder]), LOCAL, run_folder.store, Notes().watch)
    assert cluster.started == 5


def test_a_cluster_that_grows_is_told_and_waited_for(cluster: FakeRay, run_folder: RunFolder) -> None:
    cluster.answers, cluster.grows = [Ended(2, "enough")], True
    notes = Notes()
    with pytest.raises(ConfigError, match="enough"):
        run_on_ray(orders([run_folder]), RayCompute(ray="10.0.0.1:6379", gpus=8), run_folder.store, notes.watch)
    assert notes.warned == [
        "no machine of the Ray cluster has 1 CPU and 8 GPUs (4 CPUs and 0 GPUs); waiting for one to join"
    ]


def test_a_cluster_that_has_no_room_and_does_not_grow_is_told(
    cluster: FakeRay, run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "ROOM_SECONDS", 0.2)
    told = "a training is to have 1 CPU and 8 GPUs, the Ray cluster is 1 machine with 4 CPUs and 0 GPUs, and none"
    with pytest.raises(ConfigError, match=told):
        run_on_ray(orders([run_folder]), RayCompute(ray="10.0.0.1:6379", gpus=8), run_folder.store, Notes().watch)
    assert cluster.started == 0


def test_a_host_that_nobody_asks_for_ends_itself(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, stopped, working = threading.Event(), threading.Event(), threading.Event()

    def leave(_code: int) -> None:
        ended.set()
        threading.Event().wait()  # as a process that is gone

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(ray_host, "_leave", lambda: leave(0))
    monkeypatch.setattr(ray_host, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(ray_host.interrupt, "ask", stopped.set)
    monkeypatch.setattr(Host, "_do", lambda *_: working.wait(10) and None)
    job = PoolJob(place="/", shared=True, orders=tuple(orders([run_folder]))).content()
    host = Host(False, 0.3)
    assert host.doing() == {}
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(host.do, job)
        time.sleep(0.6)  # nobody asks, but it works
        assert not ended.is_set()
        assert not stopped.is_set()
        assert host.doing() == job
        monkeypatch.setattr(ray_host, "FORGOTTEN_SECONDS", 0.1)
        assert stopped.wait(5)
        assert host.doing() == {}  # it will do no more
        working.set()
        assert done.result(5) == Ended(0, "")
    for _ in range(4):
        host.news()
        time.sleep(0.1)
        assert not ended.is_set()
    assert ended.wait(5)


def test_the_same_job_again_is_not_done_again(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    did: list[PoolJob] = []
    monkeypatch.setattr(Host, "_do", lambda _, job: did.append(job))
    host, job = Host(False, 0), PoolJob(place="/", shared=True, orders=tuple(orders([run_folder])))
    assert host.do(job.content()) == host.do(job.content()) == Ended(0, "")
    host.do(job.model_copy(update={"attempt": 2}).content())
    assert [each.attempt for each in did] == [1, 2]


@pytest.mark.parametrize(
    ("processors", "machines", "expected"),
    [
        ((4.0, 1.0), 1, 5),
        ((4.0, 1.0), 2, 1),  # the first one cannot hold two parts of one training
        ((2.0, 2.0, 2.0), 2, 3),
        ((1.0, 0.0), 2, 0),
        ((), 1, 0),
    ],
)
def test_how_many_trainings_find_room(processors: tuple[float, ...], machines: int, expected: int) -> None:
    nodes = [{"CPU": number} for number in processors]
    assert gangs(nodes, {"CPU": 1.0}, machines) == expected


def test_a_cause_comes_before_what_it_did_to_the_other_machines() -> None:
    lost, stopped, wrong, done = ray_seats.LOST, Ended(75, "lost the others"), Ended(65, "a shard"), Ended(0, "")
    assert cause([stopped, lost]) == lost
    assert cause([stopped, lost, wrong]) == wrong
    assert cause([done, stopped]) == stopped
    assert cause([stopped, Ended(76, "its GPU")]) == Ended(76, "its GPU")
    assert cause([done, done]) == done
    assert cause([]) == lost


def test_only_what_is_wanted_whole_and_not_our_own_is_found_again(cluster: FakeRay, run_folder: RunFolder) -> None:
    """Two machines of one training; one machine of another training's two; one training that is ours."""
    order = orders([run_folder])[0]
    wanted = [order.model_copy(update={"until": epochs}) for epochs in (1, 2, 3, 4)]
    pair = [PoolJob(place="/", shared=True, orders=(each.model_copy(update={"machines": 2}),)) for each in wanted[:2]]
    alone = [PoolJob(place="/", shared=True, orders=(each,)) for each in (*wanted[2:], order)]
    there = {
        "host-a-1": parts(pair[0], "a:1", "host-a", 2)[1],
        "host-a-0": parts(pair[0], "a:1", "host-a", 2)[0],
        "host-b-1": parts(pair[1], "a:1", "host-b", 2)[1],
        "host-c-0": alone[0],
        "host-d-0": alone[1],
        "host-e-0": alone[2],  # to the end of its recipe, which nobody wants here
        "host-f-0": None,  # has nothing to do
    }

    def actor(name: str) -> SimpleNamespace:
        job = there[name]
        return SimpleNamespace(name=name, doing=SimpleNamespace(remote=lambda: lambda: job.content() if job else {}))

    cluster.util = SimpleNamespace(list_named_actors=lambda: [*there, "somebody's"])
    cluster.get_actor = actor
    known = FakeCluster(cluster, "auto")
    known.ours.add("host-d-0")
    found = find(known, [key_of(each) for each in wanted])
    assert {key: [each.name for each in value.actors] for key, value in found.items()} == {
        key_of(wanted[0]): ["host-a-0", "host-a-1"],
        key_of(wanted[2]): ["host-c-0"],
    }
    assert [job.machine for job in found[key_of(wanted[0])].jobs] == [0, 1]
    assert find(known, [key_of(each) for each in wanted]) == {}  # they are ours now
    assert find(FakeCluster(cluster, "local"), [key_of(each) for each in wanted]) == {}


def test_machines_meet_at_the_first_one(run_folder: RunFolder) -> None:
    order = orders([run_folder])[0].model_copy(update={"machines": 2})
    job = PoolJob(place="/", shared=True, orders=(order,))
    found = parts(job, "10.0.0.1:99", "gang", 2)
    assert [each.machine for each in found] == [0, 1]
    meetings = [each.orders[0].rendezvous for each in found]
    assert meetings == [Rendezvous(address="10.0.0.1:99", machine=number) for number in range(2)]


def test_the_network_is_the_one_of_the_address_that_ray_knows() -> None:
    def of(address: str, netmask: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(family=socket.AF_INET, address=address, netmask=netmask)]

    there = {"lo": of("127.0.0.1", "255.0.0.0"), "eth1": of("10.0.0.7", "255.255.255.0")}
    assert interface_of("10.0.0.7", there) == "eth1"
    assert interface_of("127.0.0.4", there) == "lo"
    assert interface_of("192.168.0.1", there) is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"ray": "ray://10.0.0.1:10001"}, "ray"),
        ({"ray": "local", "gpus": 1.5}, "gpus must be whole above 1"),
        ({"ray": "local", "gpus": 1, "ranks": 2, "cpus": 2}, "ranks must be at most gpus, 1"),
        ({"ray": "local", "ranks": 2}, "ranks must be at most cpus, 1"),
        ({"ray": "local", "machines": 2}, "machines must be 1 where ray is local"),
    ],
)
def test_what_ray_cannot_give_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        RayCompute.parse(given, "compute")


def test_stopping_raises_what_the_flow_knows() -> None:
    assert on_ray._KINDS[75] is StoppedError
