"""Orders on a Ray cluster of several nodes: nodes, heads and drivers that vanish."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from effnet.runs import RunFolder
from effnet.store import Store
from tests.tasks.compute.ray_nodes import HEAD, Nodes, driver

pytestmark = pytest.mark.slow
ONE = "127.0.0.3"


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


def compute_of(nodes: Nodes, **given: object) -> str:
    return json.dumps({"ray": nodes.address, **given})


def test_who_is_not_of_the_cluster_is_told_in_a_line(nodes: Nodes, run_folder: RunFolder) -> None:
    nodes.start(ONE)
    words = (str(run_folder.store.root), compute_of(nodes), run_folder.key)
    stranger = driver(nodes, *words, RAY_AUTH_TOKEN="another" * 8)
    elsewhere = driver(nodes, str(run_folder.store.root), compute_of(nodes, gpus=1), run_folder.key)
    began = time.monotonic()
    code, told = finish(stranger)
    assert code == 2
    assert f"the Ray cluster at {nodes.address} does not take this process; its token" in told[-1]
    code, told = finish(elsewhere)
    assert code == 2
    assert "a training is to have 1 CPUs and 1 GPUs, the machines of the Ray cluster have " in told[-1]
    assert len(told) == 1
    assert time.monotonic() - began < 60


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
