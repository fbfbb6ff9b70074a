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

from effnet.store import hold
from tasks.servers.local import PrefectApi
from tests.flows.explored import config, finished
from tests.tiny import clean_environment, run_effnet, write_tiny


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect's empty database, made once for all processes of xdist: that takes longest. Copy it to STORE/prefect."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "prefect-database"
    with hold(root.with_suffix(".lock")):
        if not (root / "made").exists():
            with PrefectApi(root, None) as api:
                api.url()
            (root / "made").touch()
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
