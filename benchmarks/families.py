"""How many families one stack carries at once: PostgreSQL, Prefect and MLflow as infra/compose.yaml starts them.

    python benchmarks/families.py FOLDER [--numbers 1 2 4 8]

For each number, that many families on scikit-learn's digits, each with its own store, start at the same moment and
train on this machine. An error is an exit code that is not 0, or a record that did not reach MLflow.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.operations.stack import Stack, running_stack  # noqa: E402 - found beside this folder
from tests.tiny import CONFIG, clean_environment, write_tiny  # noqa: E402


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--numbers", type=int, nargs="+", default=[1, 2, 4, 8])
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    with running_stack(options.folder / "stack") as stack:
        for number in options.numbers:
            print(json.dumps(_together(stack, options.folder / str(number), number)), flush=True)


def _together(stack: Stack, folder: Path, number: int) -> dict[str, Any]:
    began = time.monotonic()
    processes = [_start(stack, folder / str(place), f"f{number}-{place}") for place in range(number)]
    told = [process.communicate() for process in processes]
    seconds = time.monotonic() - began
    errors = [err.splitlines()[-1] for process, (_, err) in zip(processes, told, strict=True) if process.returncode]
    warned = [line for _, err in told for line in err.splitlines() if "MLflow at" in line or "away" in line]
    members = [member for out, _ in told if out.strip() for member in json.loads(out)["members"]]
    unrecorded = sum(not member["mlflow_run_id"] for member in members)
    return {
        "families": number,
        "seconds": round(seconds, 1),
        "errors": errors + warned,
        "members": len(members),
        "unrecorded": unrecorded,
        "runs_finished_in_mlflow": int(stack.sql("mlflow", "select count(*) from runs where status = 'FINISHED'")),
    }


def _start(stack: Stack, folder: Path, family: str) -> subprocess.Popen[str]:
    config = write_tiny(folder, CONFIG.replace("family: tiny", f"family: {family}"))
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "family", str(config), "--json"],
        cwd=folder,
        env=clean_environment() | stack.environment | {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


if __name__ == "__main__":
    main()
