"""What the tests of flows share: Prefect's empty database, and a family with every stage."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.servers import PrefectApi
from tests.flows.explored import config, finished
from tests.tiny import clean_environment, run_effnet, write_tiny


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect's empty database, made once: that takes longer than anything else here. Copy it to STORE/prefect."""
    root = tmp_path_factory.mktemp("prefect")
    with PrefectApi(root, None) as api:
        api.url()
    return root / "prefect"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, prefect_home: Path) -> Path:
    """A folder in which a family was built with all of it, after its search was killed once."""
    home = tmp_path_factory.mktemp("explore")
    shutil.copytree(prefect_home, home / "store" / "prefect")
    write_tiny(home, config(search=True))
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "search", "tiny.yaml"],
        cwd=home,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not finished(home) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = finished(home)
    assert len(before) == 1
    done = run_effnet("family", "tiny.yaml", "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    assert before.items() <= finished(home).items()  # no finished trial was repeated
    (home / "family.json").write_text(done.stdout)
    return home
