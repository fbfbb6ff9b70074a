"""benchmarks/elsewhere.py: trainings of a store on a machine that has effnet's library alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from effnet.runs import RunFolder
from effnet.store import Store

ROOT = Path(__file__).parents[1]
# What a bare machine lacks must not be needed.
BARE = """
import sys, runpy
for name in ("prefect", "mlflow", "boto3"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_store_s_trainings_are_done_and_what_is_stopped_goes_on(run_folder: RunFolder, store: Store) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", BARE, str(ROOT / "benchmarks/elsewhere.py"), str(store.root), *options]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    stopped = run("--seconds", "0.2")
    assert stopped.returncode == 75, stopped.stderr
    assert stopped.stdout.endswith("stopped; run it again to go on\n")
    assert run_folder.result() is None
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert run_folder.result() is not None
    assert run_folder.path.joinpath("hits.json").exists()
