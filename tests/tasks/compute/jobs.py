"""Jobs whose children run a line of code."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.compute.here import Job

MODULE = "effnet_test_child"


def jobs_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Make jobs whose child runs a line of code with `sys`, `os`, `time`, `signal` and `Path` at hand."""
    code = "import os, signal, sys, time\nfrom pathlib import Path\nexec(sys.argv[1])\n"
    (folder / f"{MODULE}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)

    def make(name: str, line: str, work: float = 1.0) -> Job:
        return Job(name, MODULE, (line,), folder / "logs" / f"{name}.log", work)

    return make
