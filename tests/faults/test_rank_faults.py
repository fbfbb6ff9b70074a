"""Ranks that are killed while others train with them, and other numbers of ranks afterwards."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from effnet.data.shards.manifest import Manifest
from effnet.runs import RunFolder
from effnet.store import Store
from tests.faults.counts import show, wanted
from tests.train.test_ranks import alone, assert_close, finish, make_folder, start

__all__ = ["alone"]


def ranks_of(pid: int) -> list[psutil.Process]:
    try:
        children = psutil.Process(pid).children(recursive=True)
        return [child for child in children if "RANK" in child.environ()]
    except psutil.Error:
        return []


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_killed_ranks_and_other_numbers_of_them(
    tmp_path: Path, alone: RunFolder, dataset_store: Store, manifest: Manifest
) -> None:
    """K5, K6: a random rank, or the launcher, dies at a random moment; then 1, 2 or 3 ranks go on."""
    fired: Counter[str] = Counter()
    finished = 0
    spec = alone.spec()
    while sum(fired.values()) < wanted(3, 54):
        recipe = spec.recipe
        folder = make_folder(tmp_path / f"{finished}", dataset_store, spec.architecture, manifest, recipe)
        for _ in range(3):
            number = random.choice([1, 2, 2, 3])
            process = start(folder, number)
            deadline = time.monotonic() + random.uniform(2.0, 6.0)
            while time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.01)
            victims = [*ranks_of(process.pid), psutil.Process(process.pid)] if process.poll() is None else []
            if not victims:
                process.communicate()
                break
            victim = random.choice(victims)
            fired["the launcher, or the only process" if victim.pid == process.pid else f"a rank of {number}"] += 1
            rest = [other for other in victims if other.pid != victim.pid]
            victim.kill()
            process.communicate(timeout=90)
            _, alive = psutil.wait_procs(rest, timeout=60)
            assert alive == []
        finish(start(folder, 1))
        assert_close(alone, folder)
        finished += 1
    show("ranks killed", fired, {"all ended, and another number went on": finished})
