"""What a work pool costs: a training as a pool job against the same one run here, and how soon a killed job resumes.

    python benchmarks/dispatch.py FOLDER [--rounds 5] [--kills 10] [--trials 200]

Also what it costs to make every child a task run: children that do nothing, inside a flow run and outside one.

A Prefect server and one worker are started in FOLDER, which must be new. Both ways take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
POOL = "effnet-gpu"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--trials", type=int, default=200)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)

    from tasks.servers.local import PrefectApi
    from tasks.servers.prefect_setup import connected

    with PrefectApi(options.folder, None) as api:
        url = api.url()
        environment = os.environ | {"PREFECT_API_URL": url, "PREFECT_WORKER_QUERY_SECONDS": "5"}
        environment |= {"PREFECT_API_AUTH_STRING": str(api.login)}
        deploy = [sys.executable, "-m", "flows.cli", "deploy", "--store", str(options.folder / "store")]
        subprocess.run(deploy, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
        with (options.folder / "worker.log").open("wb") as log:
            process = subprocess.Popen(worker, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            with connected(url, login=api.login):
                found = _task_runs(options.folder, options.rounds, options.trials)
                time.sleep(15)  # the worker is up
                if options.kills:
                    found |= _overhead(options.folder, options.rounds) | _recovery(options.folder, options.kills)
                print(json.dumps(found))
        finally:
            process.kill()


def _task_runs(folder: Path, rounds: int, trials: int) -> dict[str, Any]:
    """Time children that do nothing; return seconds for each of them."""
    from prefect import flow

    from effnet.config import LocalCompute
    from tasks.compute.here import Job, run_jobs
    from tasks.compute.watch import Watch

    def run() -> float:
        started = time.perf_counter()
        jobs = [Job(f"trial {number:03}", "this", (), folder / "trials.log") for number in range(trials)]
        run_jobs(jobs, LocalCompute(), Watch(print))
        return (time.perf_counter() - started) / trials

    inside = flow(run, name="trials")
    run()  # the fork server has started
    plain, shown = zip(*((run(), inside()) for _ in range(rounds)), strict=True)
    return {"trials": trials, "seconds_each": plain, "seconds_each_as_task_run": shown}


def _overhead(folder: Path, rounds: int) -> dict[str, Any]:
    from effnet.config import LocalCompute, PoolCompute

    here, there = [], []
    for number in range(rounds):
        here.append(_seconds(folder, LocalCompute(), 2 * number, 8))
        there.append(_seconds(folder, PoolCompute(work_pool=POOL), 2 * number + 1, 8))
    return {
        "seconds_here": here,
        "seconds_on_the_pool": there,
        "overhead": statistics.median(there) - statistics.median(here),
    }


def _recovery(folder: Path, kills: int) -> dict[str, Any]:
    """Kill jobs while they train; measure the time until the next epoch is in the journal."""
    from effnet.config import PoolCompute

    seconds: list[float] = []

    def kill(seed: int) -> None:
        folder_of_run = _order(folder, seed, 40)[1]
        while not folder_of_run.metrics_path.exists():
            time.sleep(0.05)
        for each in psutil.process_iter(["environ"]):
            if (each.info["environ"] or {}).get("PREFECT__FLOW_RUN_ID") and "worker" not in " ".join(each.cmdline()):
                each.kill()
        killed, size = time.monotonic(), folder_of_run.metrics_path.stat().st_size
        while folder_of_run.metrics_path.stat().st_size <= size:
            time.sleep(0.05)
        seconds.append(time.monotonic() - killed)

    for number in range(kills):
        killer = threading.Thread(target=kill, args=(1000 + number,))
        killer.start()
        _seconds(folder, PoolCompute(work_pool=POOL), 1000 + number, 40)
        killer.join()
    ranked = sorted(seconds)
    p95 = ranked[min(len(ranked) - 1, round(0.95 * len(ranked)))] if ranked else None
    return {"seconds_until_trained_again": [round(each, 1) for each in ranked], "p95": p95}


def _seconds(folder: Path, compute: Any, seed: int, epochs: int) -> float:
    from effnet.store import Store
    from tasks.compute.place import carry_out
    from tasks.compute.watch import Watch

    order, _ = _order(folder, seed, epochs)
    started = time.perf_counter()
    carry_out([order], compute, Store(folder / "store"), Watch(print))
    return round(time.perf_counter() - started, 2)


def _order(folder: Path, seed: int, epochs: int) -> tuple[Any, Any]:
    from effnet.config import load_baseline, load_config
    from effnet.data.shards.write import write_shards
    from effnet.order import Order
    from effnet.runs import RunFolder, RunSpec
    from effnet.store import Store

    store = Store(folder / "store")
    path = ROOT / "configs" / "digits.yaml"
    config = load_config(path)
    manifest, _ = write_shards(config.data, store.datasets)
    recipe = config.recipe.model_copy(update={"epochs": epochs})
    spec = RunSpec(
        architecture=load_baseline(config, path.parent),
        dataset=manifest.digest,
        num_classes=len(manifest.classes),
        recipe=recipe,
        seed=seed,
    )
    run = RunFolder.create(store, spec)
    return Order(name=f"t{seed}", action="train", runs=(run.key,)), run


if __name__ == "__main__":
    main()
