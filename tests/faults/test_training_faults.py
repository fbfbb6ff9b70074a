"""Trainings that are killed, stopped, damaged and starved: the weights at the end are those of an undisturbed one."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig
from effnet.data.shards.manifest import Manifest
from effnet.errors import DataError
from effnet.runs import RunFolder, RunSpec, read_journal
from effnet.store import Store, sha256_file
from effnet.train import checkpoint
from tests.faults.counts import show, wanted
from tests.tiny import child_of, store_beside
from tests.train.test_loop import UNCLOCKED, environment, train

SAVES = """
import os, signal, sys
left = int(sys.argv[2])
def dying(real, before):
    def call(*arguments, **options):
        global left
        left -= 1
        if left == 0 and before:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return real(*arguments, **options)
        finally:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    return call
from pathlib import Path
import torch
from effnet.train import checkpoint
{mutation}
folder = Path(sys.argv[1])
tensor = torch.arange(5000.0)
real_write = Path.write_bytes
def write(self, data):
    if left == 1:
        real_write(self, bytes(data)[: len(data) // 2])  # what a kill in the middle of a write leaves
    return dying(real_write, True)(self, data)
Path.write_bytes = write
for module, names in ((os, ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir")),):
    for name in names:
        setattr(module, name, dying(getattr(os, name), sys.argv[3] == "before"))
checkpoint.save(folder, 2, {{"weight": tensor + 2}}, {{"step": 2, "tensor": tensor}})
checkpoint.prune(folder, None, keep=1)
print("done", left)
"""


@pytest.fixture(scope="module")
def make(tmp_path_factory, dataset_store: Store, baseline: Architecture, config: FamilyConfig, manifest: Manifest):
    """Make the tiny run, in a store of its own."""

    def make() -> RunFolder:
        store = store_beside(dataset_store, tmp_path_factory.mktemp("store"))
        spec = RunSpec(architecture=baseline, dataset=manifest.digest, num_classes=10, recipe=config.recipe)
        return RunFolder.create(store, spec)

    return make


@pytest.fixture(scope="module")
def undisturbed(trained: RunFolder) -> RunFolder:
    torch.set_num_threads(1)
    return trained


def start(folder: RunFolder) -> subprocess.Popen[str]:
    return subprocess.Popen(child_of(folder), env=environment(), stderr=subprocess.PIPE, text=True)


def check_same(folder: RunFolder, undisturbed: RunFolder) -> None:
    assert sha256_file(folder.weights_path) == sha256_file(undisturbed.weights_path)
    lines = [
        [{name: value for name, value in line.items() if name not in UNCLOCKED} for line in read_journal(path)[0]]
        for path in (folder.metrics_path, undisturbed.metrics_path)
    ]
    assert lines[0] == lines[1]


def newest_step(folder: RunFolder) -> int:
    return next(iter(checkpoint.steps(folder.checkpoints)), 0)


@pytest.mark.slow
def test_kills_at_any_moment_change_no_bit(make: Callable[[], RunFolder], undisturbed: RunFolder) -> None:
    """K1 and K3: kill -9 at a random moment of a training, or of its start; again and again until it is done."""
    random.seed(time.time_ns())
    fired: Counter[str] = Counter()
    finished = 0
    while sum(fired.values()) < wanted(8, 360) or not finished:
        folder, longest = make(), 3.0
        while folder.result() is None:
            before = newest_step(folder)
            process = start(folder)
            # A start takes one to two seconds, the whole training less than one more; on a busy machine much longer.
            try:
                process.wait(random.uniform(0.7, longest))
                assert process.returncode == 0, process.communicate()[1]
                continue
            except subprocess.TimeoutExpired:
                process.kill()
            process.communicate()
            if process.returncode == -signal.SIGKILL:
                moved = newest_step(folder) > before
                longest += 0.0 if moved else 0.5
                fired["while it trained" if moved else "while it began or went on again"] += 1
        check_same(folder, undisturbed)
        finished += 1
    show("trainings killed", fired, {"finished, the same to the bit": finished})


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_lose_no_step(make: Callable[[], RunFolder], undisturbed: RunFolder, number: signal.Signals) -> None:
    """S1: asked to stop at a random moment: exit 75 within 20 s, and the next process goes on at that very step."""
    fired: Counter[str] = Counter()
    while sum(fired.values()) < wanted(3, 30):
        folder = make()
        process = start(folder)
        while not checkpoint.steps(folder.checkpoints) and process.poll() is None:
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.3))
        asked = time.monotonic()
        process.send_signal(number)
        told = process.communicate(timeout=60)[1]
        if process.returncode == 0:
            continue  # it was done already
        assert process.returncode == 75, told
        assert time.monotonic() - asked < 20
        place = re.search(r"stopped at step (\d+)", told.splitlines()[-1])
        assert place, told
        assert newest_step(folder) == int(place[1])  # nothing but the step in progress is to be done again
        train(folder)
        check_same(folder, undisturbed)
        fired[number.name] += 1
    show(f"trainings stopped by {number.name}", fired, {"went on at the same step": sum(fired.values())})


def killed_saves(tmp_path: Path, limit: int, mutation: str = "") -> tuple[Counter[str], list[str]]:
    """Kill a save at each of its calls to the system; return how many fired, and what was wrong afterwards."""
    fired: Counter[str] = Counter()
    wrong: list[str] = []
    for side in ("before", "after"):
        for k in range(1, limit):
            folder = tmp_path / f"{side}-{k}"
            checkpoint.save(folder, 1, {"weight": torch.arange(5000.0) + 1}, {"step": 1})
            done = subprocess.run(
                [sys.executable, "-c", SAVES.format(mutation=mutation), str(folder), str(k), side],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode != -signal.SIGKILL:
                assert done.stdout.startswith("done"), done.stderr
                break
            fired[f"{side} a call"] += 1
            told: list[str] = []
            found = checkpoint.newest(folder, told.append)
            if told:
                wrong.append(f"{side} {k}: a name was to be seen before its content was whole: {told[0]}")
            if found is None:
                wrong.append(f"{side} {k}: no checkpoint left")
                continue
            weights, kept = checkpoint.load(found)
            if not torch.equal(weights["weight"], torch.arange(5000.0) + kept["step"]):
                wrong.append(f"{side} {k}: wrong weights")
            checkpoint.save(folder, 2, {"weight": torch.arange(5000.0) + 2}, {"step": 2})
            assert checkpoint.newest(folder, told.append) == folder / "step-2"
    return fired, wrong


@pytest.mark.slow
def test_a_save_killed_at_any_call_leaves_whole_checkpoints(tmp_path: Path) -> None:
    """K2: every call that a save makes to the system, one after the other."""
    fired, wrong = killed_saves(tmp_path, wanted(8, 100))
    assert wrong == []
    show("saves killed", fired, {"the newest checkpoint was whole": sum(fired.values())})


@pytest.mark.slow
def test_the_campaign_sees_a_save_that_renames_nothing(tmp_path: Path) -> None:
    mutation = """
import contextlib, shutil
@contextlib.contextmanager
def in_place(target, replace):
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    yield target
checkpoint.publish_folder = in_place
"""
    _, wrong = killed_saves(tmp_path, 4, mutation)
    assert any("before its content was whole" in line for line in wrong)


def damaged_checkpoints(tmp_path: Path, trials: int) -> tuple[Counter[str], int]:
    """Damage the newest of two checkpoints at random; return how often, and how often that was not noticed."""
    source = random.Random(time.time_ns())
    fired: Counter[str] = Counter()
    silent = 0
    for number in range(trials):
        folder = tmp_path / str(number)
        for step in (1, 2):
            checkpoint.save(folder, step, {"weight": torch.arange(500.0) + step}, {"step": step})
        victim = source.choice(sorted((folder / "step-2").iterdir()))
        data = bytearray(victim.read_bytes())
        kind = source.choice(["flipped bit", "cut", "zeros", "removed", "emptied", "bytes appended"])
        place = source.randrange(len(data))
        if kind == "flipped bit":
            data[place] ^= 1 << source.randrange(8)
        elif kind == "cut":
            del data[place:]
        elif kind == "zeros":
            data[place : place + 512] = bytes(len(data[place : place + 512]))
        elif kind == "bytes appended":
            data += b"\0" * source.randrange(1, 100)
        if kind == "removed":
            victim.unlink()
        elif kind == "emptied":
            victim.write_bytes(b"")
        elif bytes(data) == victim.read_bytes():
            continue  # zeros were there already
        else:
            victim.write_bytes(data)
        fired[kind] += 1
        told: list[str] = []
        try:
            weights, kept = checkpoint.load(checkpoint.newest(folder, told.append) or folder)
            sound = torch.equal(weights["weight"], torch.arange(500.0) + kept["step"])
        except DataError:
            sound = False
        # A manifest with other bytes but the same sums (a space appended) is sound, and need not be told.
        silent += not (sound and (told or kept["step"] == 2))
        shutil.rmtree(folder)
    return fired, silent


def test_damaged_checkpoints_are_never_used(tmp_path: Path) -> None:
    """C1: whatever happens to the newest checkpoint, it is told, and the one before is used."""
    fired, silent = damaged_checkpoints(tmp_path, wanted(60, 1000))
    assert silent == 0
    show("checkpoints damaged", fired, {"told, the one before used": sum(fired.values())})


def test_the_campaign_sees_checkpoints_without_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "problem", lambda folder: None if folder.is_dir() else "missing")
    _, silent = damaged_checkpoints(tmp_path, 60)
    assert silent > 0


def test_the_campaign_sees_noise_that_is_not_restored(
    make: Callable[[], RunFolder], undisturbed: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from effnet.train import step

    salt = time.time_ns()
    real = step.uniform
    monkeypatch.setattr(step, "uniform", lambda *parts: real(salt, *parts))  # as a generator that is seeded by the time
    folder = make()
    train(folder)
    with pytest.raises(AssertionError):
        check_same(folder, undisturbed)


def test_a_full_disk_is_named_and_costs_no_checkpoint(make: Callable[[], RunFolder], undisturbed: RunFolder) -> None:
    """D1: the k-th flush of a file finds the disk full, for every k of a training's first half."""
    fired: Counter[str] = Counter()
    for k in range(1, wanted(4, 40)):
        folder = make()
        left = [k]
        real = os.fsync

        def full(descriptor: int, left: list[int] = left, real: Callable[[int], None] = real) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(DataError, match="no space left on device; what is saved is whole"):
                train(folder)
        fired["flush"] += 1
        told: list[str] = []
        checkpoint.newest(folder.checkpoints, told.append)
        assert told == []
        train(folder)
        check_same(folder, undisturbed)
    show("flushes on a full disk", fired, {"named, and gone on to the same bits": sum(fired.values())})


def test_one_of_two_trainers_of_a_run_wins(make: Callable[[], RunFolder], undisturbed: RunFolder) -> None:
    """W2: the other says that the run is held, or finds it done; nothing is trained twice."""
    outcomes: Counter[str] = Counter()
    trials = wanted(1, 80)
    for _ in range(trials):
        folder = make()
        both = [start(folder) for _ in range(2)]
        told = [process.communicate(timeout=120)[1] for process in both]
        codes = sorted(process.returncode for process in both)
        assert codes in ([0, 73], [0, 0]), told
        assert codes == [0, 0] or any("another process is training this run" in text for text in told)
        check_same(folder, undisturbed)
        outcomes["one won, the other said so" if codes == [0, 73] else "one after the other"] += 1
    show("two trainers of one run", Counter({"two trainers at once": trials}), outcomes)
