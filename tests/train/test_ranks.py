"""Several ranks train what one trains; the fall of one is the fall of all, and costs only time."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import safetensors.torch
import torch
from torch import nn

from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig, Recipe
from effnet.data.shards.manifest import Manifest
from effnet.runs import RunFolder, RunSpec, read_journal
from effnet.store import Store, sha256_file
from effnet.train import checkpoint
from tests import forked
from tests.tiny import child_of, order_of, store_beside

THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def make_folder(root: Path, store: Store, arch: Architecture, manifest: Manifest, recipe: Recipe) -> RunFolder:
    spec = RunSpec(architecture=arch, dataset=manifest.digest, num_classes=10, recipe=recipe)
    return RunFolder.create(store_beside(store, root), spec)


def start(folder: RunFolder, ranks: int) -> subprocess.Popen[str]:
    return subprocess.Popen(child_of(folder, ranks), env=os.environ | THREADS, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    return told


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder.weights_path)


def assert_close(one: RunFolder, other: RunFolder) -> None:
    first, second = weights(one), weights(other)
    for name, value in first.items():
        assert torch.allclose(value.float(), second[name].float(), rtol=2e-2, atol=2e-3), name
    pairs = zip(read_journal(one.metrics_path)[0], read_journal(other.metrics_path)[0], strict=True)
    for mine, theirs in pairs:
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3)
        assert abs(mine["minival_top1"] - theirs["minival_top1"]) < 0.02


@pytest.fixture(scope="module")
def alone(tmp_path_factory, dataset_store: Store, baseline, config: FamilyConfig, manifest: Manifest) -> RunFolder:
    root = tmp_path_factory.mktemp("alone") / "store"
    recipe = config.recipe.model_copy(update={"batch_size": 33, "epochs": 2})  # ranks get unequal shares
    folder = make_folder(root, dataset_store, baseline, manifest, recipe)
    finish(start(folder, 1))
    return folder


@pytest.fixture
def folder(tmp_path: Path, alone: RunFolder, dataset_store: Store, manifest: Manifest) -> RunFolder:
    """The same run in a store of its own."""
    spec = alone.spec()
    return make_folder(tmp_path / "store", dataset_store, spec.architecture, manifest, spec.recipe)


def test_two_ranks_train_what_one_trains(alone: RunFolder, folder: RunFolder) -> None:
    finish(start(folder, 2))
    assert_close(alone, folder)
    result = folder.result()
    assert result is not None
    assert result.environment["ranks"] == "2"
    assert result.steps == alone.result().steps  # type: ignore[union-attr]


@pytest.mark.slow
def test_torchrun_starts_it_too(alone: RunFolder, folder: RunFolder) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    path = folder.path / "order.json"
    path.write_text(order_of(folder))
    command += ["-m", "effnet.child", str(path)]
    done = subprocess.run(command, env=os.environ | THREADS, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert_close(alone, folder)


def test_sigterm_stops_all_ranks_with_one_checkpoint(folder: RunFolder) -> None:
    process = start(folder, 2)
    wait_for_checkpoint(folder, process)
    asked = time.monotonic()
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75, told
    assert time.monotonic() - asked < 20
    assert "Traceback" not in told
    assert folder.result() is None
    step = int(told.rpartition("stopped at step ")[2].split(";")[0])
    assert checkpoint.steps(folder.checkpoints)[0] == step  # from which they go on: see the tests below


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_others_and_the_training_goes_on(
    folder: RunFolder, alone: RunFolder, victim: int
) -> None:
    process = start(folder, 2)
    wait_for_checkpoint(folder, process)
    ranks = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.environ().get("RANK") == str(victim)
    ]
    assert len(ranks) == 1
    ranks[0].kill()
    _, told = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, told  # so whoever started it starts it again
    assert f"rank {victim} was killed by SIGKILL" in told.splitlines()[-1]
    assert not ranks[0].is_running()
    finish(start(folder, 2))
    assert_close(alone, folder)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
@pytest.mark.slow
def test_the_number_of_ranks_may_change(folder: RunFolder, alone: RunFolder, before: int, after: int) -> None:
    process = start(folder, before)
    wait_for_checkpoint(folder, process)
    process.terminate()
    assert process.wait(60) == 75
    told = finish(start(folder, after))
    assert f"ranks {before} -> {after}" in told
    assert "not be the same to the bit" in told
    assert_close(alone, folder)


@pytest.mark.slow
def test_two_ranks_go_on_to_the_bit(
    tmp_path: Path, folder: RunFolder, dataset_store: Store, manifest: Manifest
) -> None:
    spec = folder.spec()
    straight = make_folder(tmp_path / "straight", dataset_store, spec.architecture, manifest, spec.recipe)
    finish(start(straight, 2))
    process = start(folder, 2)
    wait_for_checkpoint(folder, process)
    process.terminate()
    assert process.wait(60) == 75
    finish(start(folder, 2))
    assert sha256_file(folder.weights_path) == sha256_file(straight.weights_path)


def wait_for_checkpoint(folder: RunFolder, process: subprocess.Popen[str]) -> None:
    while not checkpoint.steps(folder.checkpoints):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


NORM = """
import json, sys, torch
from effnet.train.distributed import World, synchronize_norms
world = World()
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 2, 1))
synchronize_norms(net, world, int(sys.argv[2]))
data = torch.randn(7, 3, 4, 4)
out = net(data[world.rank :: world.size])
(out**2).sum().backward()
for param in net.parameters():
    world.sum_(param.grad)
if world.is_leader:
    found = [p.grad.flatten().tolist() for p in net.parameters()] + [b.flatten().tolist() for b in net.buffers()]
    json.dump({"out": out.flatten().tolist(), "rest": found}, open(sys.argv[1], "w"))
world.close()
"""


@pytest.mark.parametrize(("ranks", "neighbours"), [(2, 2), (4, 2)])
def test_batch_norm_over_ranks_is_batch_norm_over_the_batch(tmp_path: Path, ranks: int, neighbours: int) -> None:
    (tmp_path / "norm.py").write_text(NORM)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = os.environ | THREADS | {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}

    def run(rank: int) -> tuple[int, str, str]:
        return forked.run("norm", ["out", str(neighbours)], str(tmp_path), world | {"RANK": str(rank)}, timeout=120)

    with ThreadPoolExecutor(ranks) as pool:
        assert [code for code, _, _ in pool.map(run, range(ranks))] == [0] * ranks
    found = json.loads((tmp_path / "out").read_text())
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))
    data = torch.randn(7, 3, 4, 4)
    if neighbours < ranks:  # the first two of four: the other two are in no statistics of theirs
        both = net(torch.cat([data[::4], data[1::4]]))
        assert found["out"] == pytest.approx(both[: len(data[::4])].flatten().tolist(), rel=1e-4, abs=1e-5)
        return
    out = net(data)
    (out**2).sum().backward()
    assert found["out"] == pytest.approx(out[::2].flatten().tolist(), rel=1e-4, abs=1e-5)
    wanted = [p.grad.flatten().tolist() for p in net.parameters() if p.grad is not None]
    wanted += [b.flatten().tolist() for b in net.buffers()]
    for mine, theirs in zip(found["rest"], wanted, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-4)
