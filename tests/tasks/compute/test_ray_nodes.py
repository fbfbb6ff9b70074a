"""Orders on a Ray cluster of several nodes: nodes, heads and drivers that vanish."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from effnet.config import LocalCompute
from effnet.runs import RunFolder
from effnet.store import Store, digest, sha256_file
from tasks.compute.here import run_here
from tests.tasks.compute.ray_nodes import HEAD, Nodes, driver
from tests.tasks.compute.test_on_ray import Notes, orders
from tests.tiny import store_beside

pytestmark = pytest.mark.slow
ONE, TWO, THREE = "127.0.0.3", "127.0.0.4", "127.0.0.5"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    found = Nodes()
    yield found
    found.close()


def runs(run_folder: RunFolder, store: Store, number: int, epochs: int = 3) -> list[RunFolder]:
    spec = run_folder.spec()
    recipe = spec.recipe.model_copy(update={"epochs": epochs})
    return [RunFolder.create(store, spec.model_copy(update={"seed": 10 + n, "recipe": recipe})) for n in range(number)]


def finish(process: subprocess.Popen[str], seconds: float = 120) -> tuple[int, list[str]]:
    _, told = process.communicate(timeout=seconds)
    assert "Traceback" not in told
    return process.returncode, told.splitlines()


def until(true: Callable[[], object], process: subprocess.Popen[str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def no_host_is_left(nodes: Nodes) -> None:
    deadline = time.monotonic() + 20
    while nodes.hosts():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def compute_of(nodes: Nodes, **given: object) -> str:
    return json.dumps({"ray": nodes.address, **given})


def test_who_is_not_of_the_cluster_is_told_in_a_line(nodes: Nodes, run_folder: RunFolder) -> None:
    nodes.start(ONE)
    words = (str(run_folder.store.root), compute_of(nodes), run_folder.key)
    stranger = driver(nodes, *words, RAY_AUTH_TOKEN="another" * 8)
    elsewhere = driver(nodes, str(run_folder.store.root), compute_of(nodes, gpus=1), run_folder.key)
    few = driver(nodes, str(run_folder.store.root), compute_of(nodes, machines=9), run_folder.key)
    began = time.monotonic()
    code, told = finish(stranger)
    assert code == 2
    assert f"the Ray cluster at {nodes.address} does not take this process; its token" in told[-1]
    code, told = finish(elsewhere)
    assert code == 2
    assert "a training is to have 1 CPU and 1 GPU, the Ray cluster is " in told[-1]
    assert len(told) == 1
    code, told = finish(few)
    assert code == 2
    assert "each of 9 machines for a training is to have 1 CPU and 0 GPUs, the Ray cluster is " in told[-1]
    assert len(told) == 1
    assert time.monotonic() - began < 60


def test_weights_are_those_of_here_when_a_node_is_lost(nodes: Nodes, run_folder: RunFolder, tmp_path: Path) -> None:
    """Through the exchange; what was on the node's disk is lost with it."""
    here = Store(tmp_path / "here")
    store_beside(run_folder.store, here.root)
    expected = runs(run_folder, here, 2, epochs=16)
    run_here(orders(expected), LocalCompute(), here, Notes().watch)
    nodes.start(ONE, TWO)
    place = tmp_path / "exchange"
    place.mkdir()
    folders = runs(run_folder, run_folder.store, 2, epochs=16)
    words = compute_of(nodes, exchange=str(place)), *(folder.key for folder in folders)
    process = driver(nodes, str(run_folder.store.root), *words)

    def sent() -> RunFolder | None:
        """Return a run that the first node trains, with a checkpoint at the exchange."""
        scratch = nodes.scratch(ONE) / digest(str(place))[:16] / "runs"
        begun = [folder for folder in folders if (scratch / folder.key / "metrics.jsonl").exists()]
        open_ones = [folder for folder in begun if not (scratch / folder.key / "result.json").exists()]
        return next((f for f in open_ones if any((place / "checkpoints" / f.key).rglob("MANIFEST.json"))), None)

    until(sent, process)
    lost = sent()
    nodes.kill(ONE)
    code, told = finish(process)
    assert code == 0, told
    assert lost is not None
    name = f"train {folders.index(lost)}"
    assert f"warning: {name}: its machine is gone; restarted from its last checkpoint" in told
    assert sorted(line for line in told if line.endswith(": done")) == [f"train {number}: done" for number in range(2)]
    assert [sha256_file(folder.weights_path) for folder in folders] == [
        sha256_file(folder.weights_path) for folder in expected
    ]


def test_trainings_outlive_their_driver_and_are_found_again(
    nodes: Nodes, run_folder: RunFolder, tmp_path: Path
) -> None:
    here = Store(tmp_path / "here")
    store_beside(run_folder.store, here.root)
    (expected,) = runs(run_folder, here, 1, epochs=40)
    run_here(orders([expected]), LocalCompute(), here, Notes().watch)
    nodes.start(ONE)
    (folder,) = runs(run_folder, run_folder.store, 1, epochs=40)
    words = str(run_folder.store.root), compute_of(nodes), folder.key
    process = driver(nodes, *words)
    until(folder.metrics_path.exists, process)
    hosts = nodes.hosts()
    process.kill()
    process.wait()
    process = driver(nodes, *words)
    assert process.stderr is not None
    assert process.stderr.readline() == "train 0: found on the Ray cluster, where it was left\n"
    assert nodes.hosts() == hosts
    process.terminate()  # a cancelled flow, which stops also what it did not start
    code, told = finish(process)
    assert code == 75
    assert told == []
    assert "stopped at step" in (folder.path / "output.log").read_text().splitlines()[-1]
    assert folder.result() is None
    no_host_is_left(nodes)
    code, told = finish(driver(nodes, *words))
    assert (code, told) == (0, ["train 0: done"])
    no_host_is_left(nodes)
    assert sha256_file(folder.weights_path) == sha256_file(expected.weights_path)
    assert len(folder.metrics_path.read_text().splitlines()) == 40


def test_a_gang_trains_what_ranks_train_here_when_a_node_is_lost(
    nodes: Nodes, run_folder: RunFolder, tmp_path: Path
) -> None:
    """Two machines train one network; the second one is lost, and a third one takes its place."""
    here = Store(tmp_path / "here")
    store_beside(run_folder.store, here.root)
    (expected,) = runs(run_folder, here, 1, epochs=12)
    run_here([orders([expected])[0].model_copy(update={"ranks": 2})], LocalCompute(), here, Notes().watch)
    nodes.start(ONE, TWO, THREE)
    place = tmp_path / "exchange"
    place.mkdir()
    (folder,) = runs(run_folder, run_folder.store, 1, epochs=12)
    words = str(run_folder.store.root), compute_of(nodes, exchange=str(place), machines=2), folder.key
    process = driver(nodes, *words)
    until(lambda: any((place / "checkpoints" / folder.key).rglob("MANIFEST.json")), process, 90)
    scratch = f"{digest(str(place))[:16]}-1"
    (second,) = (node for node in (ONE, TWO, THREE) if (nodes.scratch(node) / scratch).exists())
    nodes.kill(second)
    code, told = finish(process, 180)
    assert code == 0, told
    assert told[-1] == "train 0: done"
    assert any("its machine is gone; restarted from its last checkpoint" in line for line in told)
    assert sha256_file(folder.weights_path) == sha256_file(expected.weights_path)
    assert len(folder.metrics_path.read_text().splitlines()) == 12


def test_a_lost_head_is_told_and_costs_no_step(nodes: Nodes, run_folder: RunFolder) -> None:
    nodes.start(ONE)
    (folder,) = runs(run_folder, run_folder.store, 1, epochs=500)
    process = driver(nodes, str(run_folder.store.root), compute_of(nodes), folder.key)
    until(folder.metrics_path.exists, process)
    began = time.monotonic()
    nodes.kill(HEAD, "gcs_server")
    code, told = finish(process)
    assert time.monotonic() - began < 60
    assert code == 75
    assert f"the head of the Ray cluster at {nodes.address} has not answered for 20 s" in told[-1]
    assert "stopped at step" in (folder.path / "output.log").read_text().splitlines()[-1]
