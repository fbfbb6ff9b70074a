"""How pytest-xdist spreads the tests: what shares a costly fixture stays in one process, the longest first."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from xdist.scheduler import LoadScopeScheduling

# Fixtures that take many seconds to make and that every process of xdist would make anew, and the files that use them.
_SHARED = {
    "a family with every stage": ("test_explore", "test_runs", "test_stage_faults", "test_pages"),
    "a Prefect server with pools": ("test_pool", "test_task_runs", "test_templates", "test_nightly", "test_s3_faults"),
    "a real S3 server": ("test_storage", "test_remote", "test_roles", "test_parts"),
}
_GROUPS = {file: name for name, files in _SHARED.items() for file in files}
# Those that take minutes: begun first, so that no process is left with one of them at the end.
_LONG = (
    "test_operation_faults",
    *_SHARED,
    "test_printed",
    "test_family",
    "test_ranks",
    "test_stack",
    "test_training_faults",
)


def group(nodeid: str) -> str:
    """Return the name of the tests that a test has to stay with: its file's, or those of files that share a fixture."""
    file = PurePosixPath(nodeid.split("::")[0]).stem
    return _GROUPS.get(file, file)


def order(items: list[pytest.Item]) -> None:
    """Put groups together, the long ones first, each in its own order."""
    places = {name: place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: places.get(group(item.nodeid), len(places)))


class Scheduler(LoadScopeScheduling):
    """Hands out groups. (xdist's own loadgroup does not work with pytest 9.2, whose node ids cannot be set.)"""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)
