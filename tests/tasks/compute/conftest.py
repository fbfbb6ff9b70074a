"""What both the tests of children and those of their places need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.compute.here import Job
from tests.tasks.compute.jobs import jobs_in


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Make jobs whose child runs a line of code."""
    return jobs_in(tmp_path, monkeypatch)
