"""How pytest-xdist spreads the tests: those that share a costly fixture stay together, the longest groups first."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import PurePosixPath

import pytest
from xdist.scheduler import LoadScopeScheduling

# Fixtures that take many seconds to set up, once per xdist worker, and the files that use them.
_SHARED = {
    "a family with every stage": ("test_explore", "test_runs", "test_stage_faults", "test_pages"),
    "a Prefect server with pools": (
        "test_pool",
        "test_task_runs",
        "test_templates",
        "test_nightly",
        "test_s3_faults",
        "test_approval",
    ),
    "a real S3 server": ("test_storage", "test_remote", "test_roles", "test_parts"),
}
_GROUPS = {file: name for name, files in _SHARED.items() for file in files}
# Groups that take long, the longest first: begun before the others, so that none is left running alone at the end.
_LONG = (
    "test_operation_faults",
    "test_ray_nodes",
    *_SHARED,
    "test_printed",
    "test_family",
    "test_training",
    "test_stack",
    "test_export",
    "test_ranks",
    "test_local",
    "test_loop",
    "test_training_faults",
    "test_outage_faults",
    "test_data_faults",
    "test_finetune",
    "test_templates",
    "test_kernels",
    "test_registry",
    "test_golden",
    "test_tracking",
    "test_taught",
    "test_rate",
    "test_input_faults",
    "test_weights",
)


def group(nodeid: str) -> str:
    """Return the group that a test has to stay in: its file, or the files that share a costly fixture."""
    file = PurePosixPath(nodeid.split("::")[0])
    return _GROUPS.get(file.stem, str(file))


def order(items: list[pytest.Item]) -> None:
    """Put groups together, the long ones first, each in its own order."""
    places = {name: place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: places.get(PurePosixPath(group(item.nodeid)).stem, len(places)))


def keep_sample(config: pytest.Config, items: list[pytest.Item], count: int) -> None:
    """Deselect all but `count` tests (with all their parameters): others for each commit, the same in each process."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, cwd=config.rootpath, check=True).stdout

    def test(item: pytest.Item) -> str:
        return item.nodeid.partition("[")[0]

    def draw(name: str) -> bytes:
        return hashlib.sha256(commit + name.encode()).digest()

    kept = set(sorted({test(item) for item in items}, key=draw)[:count])
    config.hook.pytest_deselected(items=[item for item in items if test(item) not in kept])
    items[:] = [item for item in items if test(item) in kept]


class Scheduler(LoadScopeScheduling):
    """Hands out groups. (xdist's own loadgroup does not work with pytest 9.2, whose node ids cannot be set.)"""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)
