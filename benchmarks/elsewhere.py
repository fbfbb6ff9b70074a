"""Train what a store lacks, on a machine with torch and effnet's library alone: no Prefect, no MLflow, no network.

    python benchmarks/elsewhere.py STORE [--per-gpu N] [--seconds S]

A stage writes the configs of all its trainings before the first of them starts. So stop it then, bring the store's
`datasets` and `runs` here, run this, and bring `runs` back: the stage goes on from their results. What does not end
within the seconds is stopped with a checkpoint.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from pathlib import Path

from effnet.arch.cost import count
from effnet.config import LocalCompute
from effnet.errors import EffnetError, StoppedError
from effnet.order import Order
from effnet.runs import RunFolder
from effnet.store import Store
from tasks.compute import interrupt
from tasks.compute.here import run_here
from tasks.compute.watch import Watch


def main() -> None:
    """Train, then note which images of minival each network gets right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--per-gpu", type=int, default=1, help="trainings at a time on a GPU")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after which to stop")
    options = parser.parse_args()
    store, compute = Store(options.store.absolute()), LocalCompute(per_gpu=options.per_gpu)
    interrupt.install()
    if options.seconds < float("inf"):
        timer = threading.Timer(options.seconds, signal.raise_signal, (signal.SIGTERM,))
        timer.daemon = True
        timer.start()
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {line}", flush=True)

    watch = Watch(say, done=lambda name: say(f"{name} done"), say=say)
    folders = [RunFolder(path.parent) for path in sorted(store.runs.glob("*/config.json"))]
    try:
        left = [each for each in folders if each.result() is None]
        teachers = {spec.teacher.run for each in left if (spec := each.spec()).teacher}
        for first in (True, False):  # what others learn from comes first
            run_here([_training(each) for each in left if (each.key in teachers) == first], compute, store, watch)
        run_here([Order(name="hits", action="hits", runs=tuple(each.key for each in folders))], compute, store, watch)
    except KeyboardInterrupt:
        say("stopped; run it again to go on")
        sys.exit(StoppedError.exit_code)
    except EffnetError as error:
        say(str(error))
        sys.exit(error.exit_code)


def _training(folder: RunFolder) -> Order:
    spec = folder.spec()
    size = float(count(spec.architecture, spec.num_classes).macs * spec.recipe.epochs)
    return Order(name=folder.key, action="train", runs=(folder.key,), size=size)


if __name__ == "__main__":
    main()
