"""The trainings behind docs/results/cifar10-plan.md: resumes after any stop, and writes whatever results there are.

    nice -n 19 python benchmarks/evidence.py DATA STORE

DATA is a folder with CIFAR-10's train.parquet and test.parquet, STORE any folder outside the clone. Every piece is an
effnet command, whose run folders hold the state. A piece's findings are copied to docs/results/ once it is done. Every
finished training is listed with its scores in docs/results/cifar10-runs.json, which is updated whenever one ends.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/results"
PIECES = {"P0": ("study", "benchmarks/cifar10_balance.yaml", "study.json")}
EVERY_SECONDS = 60.0  # between looks for trainings that are done


def main() -> None:
    """Do piece after piece."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("store", type=Path)
    options = parser.parse_args()
    options.store.mkdir(parents=True, exist_ok=True)
    for piece, (stage, config, found) in PIECES.items():
        path = _config(ROOT / config, options.data.absolute(), options.store.absolute())
        command = [sys.executable, "-P", "-m", "flows.cli", stage, str(path)]
        with (options.store / f"{piece}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=ROOT, text=True)
            while process.poll() is None:
                time.sleep(EVERY_SECONDS)
                _list(options.store)
        if process.returncode:
            sys.exit(f"{piece}: exit code {process.returncode}; {options.store / piece}.log says why")
        _list(options.store)
        folder = Path(process.stdout.read().strip().splitlines()[-1])  # type: ignore[union-attr]
        (RESULTS / f"cifar10-{piece}.json").write_bytes((folder / found).read_bytes() + b"\n")


def _config(path: Path, data: Path, store: Path) -> Path:
    """Write a config for the data and the store, with absolute paths to its architecture files."""
    config = yaml.safe_load(path.read_text())
    config["store"] = str(store / "store")
    config["data"]["source"] |= {"train": str(data / "train.parquet"), "val": str(data / "test.parquet")}
    config["baseline"] = str(path.parent / config["baseline"])
    config["study"]["baselines"] = [str(path.parent / name) for name in config["study"]["baselines"]]
    written = store / path.name
    written.write_text(yaml.safe_dump(config))
    return written


def _list(store: Path) -> None:
    """Write every training that is done."""
    done: list[dict[str, Any]] = []
    for path in sorted((store / "store/runs").glob("*/result.json")):
        result = json.loads(path.read_bytes())
        about = json.loads((path.parent / "about.json").read_bytes())
        kept = ("top1", "loss", "epochs", "steps", "params", "macs", "seconds")
        done.append({"run": path.parent.name, "name": about["name"], **{name: result[name] for name in kept}})
    text = json.dumps({"machine": platform.processor() or platform.machine(), "runs": done}, indent=1) + "\n"
    target = RESULTS / "cifar10-runs.json"
    if done and (not target.exists() or target.read_text() != text):
        target.write_text(text)


if __name__ == "__main__":
    main()
