"""Orders under Ray: the same bits as here, whatever dies; what cannot be done is said in a line."""

from __future__ import annotations

import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from effnet.config import LocalCompute, RayCompute
from effnet.errors import ConfigError, DataError, RunFailedError, StoppedError
from effnet.order import Order
from effnet.process import note_stopping
from effnet.runs import RunFolder
from effnet.store import Store, digest, sha256_file
from tasks.compute import interrupt, on_ray
from tasks.compute.here import run_here
from tasks.compute.on_ray import connect, run_on_ray
from tasks.compute.ray_host import Ended
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
    on_ray._leave_at_exit()


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


def test_an_address_that_nobody_listens_at_is_told_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda **_: pytest.fail("Ray was asked")))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]  # taken, and not listened at
        with pytest.raises(ConfigError, match=rf"compute\.ray: no Ray cluster answers at 127\.0\.0\.1:{port} \("):
            connect(RayCompute(ray=f"127.0.0.1:{port}"), store)
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127\.0\.0\.1:99999"):
        connect(RayCompute(ray="127.0.0.1:99999"), store)


class FakeRay:
    """A cluster whose hosts answer as told."""

    class exceptions:  # noqa: N801 - as Ray has it
        class RayError(Exception):
            pass

    def __init__(self, answers: list[Any], nodes: list[dict[str, float]]) -> None:
        self.answers, self._nodes, self.started = answers, nodes, 0

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": node} for node in self._nodes]

    def wait(self, refs: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        assert timeout is not None
        return refs, []

    def get(self, ref: Any, timeout: float = 0) -> Any:
        assert timeout is not None
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
        def make(_on_gpu: bool) -> Any:
            self.started += 1
            do = SimpleNamespace(remote=lambda _content: lambda: self.answers.pop(0))
            return SimpleNamespace(do=do, news=SimpleNamespace(remote=lambda: list))

        return SimpleNamespace(remote=make)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay([], [{"CPU": 4.0}])
    monkeypatch.setattr(on_ray, "connect", lambda *_: fake)
    monkeypatch.setattr(on_ray, "_idle", [])
    monkeypatch.setattr(on_ray, "BUSY_SECONDS", 0.01)
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


def test_machines_that_vanish_again_and_again_end_it(cluster: FakeRay, run_folder: RunFolder) -> None:
    cluster.answers = [cluster.exceptions.RayError("node died")] * 20
    with pytest.raises(RunFailedError, match="its machine is gone, 5 times; run"):
        run_on_ray(orders([run_folder]), LOCAL, run_folder.store, Notes().watch)
    assert cluster.started == 5


def test_a_cluster_without_room_is_told_and_waited_for(cluster: FakeRay, run_folder: RunFolder) -> None:
    cluster.answers = [Ended(2, "enough")]
    notes = Notes()
    with pytest.raises(ConfigError, match="enough"):
        run_on_ray(orders([run_folder]), RayCompute(ray="10.0.0.1:6379", gpus=8), run_folder.store, notes.watch)
    assert notes.warned == [
        "no machine of the Ray cluster has 1 CPUs and 8 GPUs (4 CPUs and 0 GPUs); waiting for one to join"
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"ray": "ray://10.0.0.1:10001"}, "ray"),
        ({"ray": "local", "gpus": 1.5}, "gpus must be whole above 1"),
        ({"ray": "local", "gpus": 1, "ranks": 2, "cpus": 2}, "ranks must be at most gpus, 1"),
        ({"ray": "local", "ranks": 2}, "ranks must be at most cpus, 1"),
    ],
)
def test_what_ray_cannot_give_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        RayCompute.parse(given, "compute")


def test_stopping_raises_what_the_flow_knows() -> None:
    assert on_ray._KINDS[75] is StoppedError
