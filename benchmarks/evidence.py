"""The trainings behind docs/results/cifar10-plan.md: resumes after any stop, and writes whatever results there are.

    nice -n 19 python benchmarks/evidence.py DATA STORE

DATA is a folder with CIFAR-10's train.parquet and test.parquet, STORE any folder outside the clone. Every piece is an
effnet command, whose run folders hold the state. A piece's findings are copied to docs/results/ once it is done. Every
finished training is listed with its scores in docs/results/cifar10-runs.json, and kept without its weights in
docs/results/cifar10-runs/, from where it is put back into a store that lacks it: the work goes on on another machine.
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

from effnet.evaluation.run import keep_run_hits
from effnet.runs import RunFolder
from effnet.store import publish

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/results"
KEPT = RESULTS / "cifar10-runs"
# The last one says that the training is done.
FILES = ("config.json", "about.json", "metrics.jsonl", "hits.json", "evaluation.json", "result.json")
PIECES = {"P0b": ("study", "benchmarks/cifar10/P0b.yaml", "study.json")}
EVERY_SECONDS = 60.0  # between looks for trainings that are done


def main() -> None:
    """Do piece after piece."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("store", type=Path)
    options = parser.parse_args()
    options.store.mkdir(parents=True, exist_ok=True)
    _put_back(options.store)
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


def _put_back(store: Path) -> None:
    """Write the trainings that are kept into a store that lacks them."""
    for kept in sorted(KEPT.glob("*.json")):
        folder = store / "store/runs" / kept.stem
        if not (folder / "result.json").exists():
            for name, text in json.loads(kept.read_bytes()).items():
                publish(folder / name, text.encode())


def _list(store: Path) -> None:
    """Keep every training that is done, and list it; those that an earlier machine listed stay."""
    target = RESULTS / "cifar10-runs.json"
    listed = {each["run"]: each for each in json.loads(target.read_bytes())["runs"]} if target.exists() else {}
    for path in sorted((store / "store/runs").glob("*/result.json")):
        folder = RunFolder(path.parent)
        _keep(folder)
        result, about = json.loads(path.read_bytes()), json.loads((path.parent / "about.json").read_bytes())
        kept = ("top1", "loss", "epochs", "steps", "params", "macs", "seconds")
        listed[folder.key] = {"run": folder.key, "name": about["name"], **{name: result[name] for name in kept}}
    runs: list[dict[str, Any]] = sorted(listed.values(), key=lambda each: each["name"])
    _write(target, {"machine": platform.processor() or platform.machine(), "runs": runs})


def _keep(folder: RunFolder) -> None:
    if folder.weights_path.exists():  # not one that was put back
        keep_run_hits(folder)
    files = {name: (folder.path / name).read_text() for name in FILES if (folder.path / name).exists()}
    _write(KEPT / f"{folder.key}.json", files)


def _write(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=1) + "\n"
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
