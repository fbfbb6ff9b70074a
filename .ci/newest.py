"""Try effnet with what pip installs today, without constraints: run by the Python of such an environment.

A tiny family, `effnet deploy` on a real server, and a scheduled run within a minute. Exit code 1 with the packages'
versions if something fails: then pyproject.toml needs a bound, with its reason, and tests/test_bounds.py a line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distributions, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the tests' tiny family alone: the commands use what is installed
from tests.tiny import write_tiny  # noqa: E402

BINARIES = Path(sys.executable).parent
SECONDS = 600  # for one command


def main() -> int:
    """Run the commands; say what was tried."""
    print("newest:", ", ".join(f"{name} {version(name)}" for name in ("prefect", "sqlalchemy", "mlflow", "torch")))
    with tempfile.TemporaryDirectory() as folder:
        for name in ("configs", "infra", "prefect.yaml"):
            source, there = ROOT / name, Path(folder, name)
            shutil.copytree(source, there) if source.is_dir() else shutil.copy(source, there)
        try:
            _try(folder, "effnet", "up")
            _try(folder, "effnet", "deploy")
            _wait_for_schedule(folder)
            _try(folder, "effnet", "family", str(write_tiny(Path(folder, "tiny"))), "--store", ".effnet", "--json")
        except subprocess.SubprocessError as error:
            print(f"FAILED: {error}")
            print("\n".join(sorted(f"{each.name}=={each.version}" for each in distributions())))
            return 1
        finally:
            subprocess.run([BINARIES / "effnet", "down"], cwd=folder, check=False)
    print("newest: all of it works")
    return 0


def _try(folder: str, *command: str) -> str:
    started = time.monotonic()
    done = subprocess.run(
        [BINARIES / command[0], *command[1:]],
        cwd=folder,
        env=os.environ | {"PATH": f"{BINARIES}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        print(done.stdout + done.stderr)
        raise subprocess.CalledProcessError(done.returncode, " ".join(command))
    print(f"{time.monotonic() - started:5.0f} s  {' '.join(command)}")
    return done.stdout


def _wait_for_schedule(folder: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            _try(folder, "effnet", "doctor")
            return
        except subprocess.CalledProcessError:
            if time.monotonic() > deadline:
                raise
        time.sleep(5)


if __name__ == "__main__":
    sys.exit(main())
