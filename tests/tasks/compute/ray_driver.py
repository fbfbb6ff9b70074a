"""`python -m tests.tasks.compute.ray_driver STORE COMPUTE RUN…`: train runs of a store on Ray, as a flow does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from effnet.config import RayCompute
from effnet.order import Order
from effnet.process import child_main, say, warn
from effnet.store import Store
from tasks.compute import interrupt
from tasks.compute.on_ray import run_on_ray
from tasks.compute.watch import Watch


def main() -> None:
    """Train the runs; say which are done."""
    interrupt.install()
    compute = RayCompute.parse(json.loads(sys.argv[2]), "compute")
    orders = [
        Order(
            name=f"train {number}",
            action="train",
            runs=(key,),
            ranks=compute.ranks,
            machines=compute.machines,
        )
        for number, key in enumerate(sys.argv[3:])
    ]
    try:
        run_on_ray(
            orders, compute, Store(Path(sys.argv[1])), Watch(warn, done=lambda name: say(f"{name}: done"), say=say)
        )
    except KeyboardInterrupt:
        interrupt.done()
        sys.exit(75)


if __name__ == "__main__":
    child_main(main)
