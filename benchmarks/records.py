"""What MLflow costs a family's build: seconds spent in calls to it and in the report, next to those spent training.

    python benchmarks/records.py FOLDER [--config configs/digits.yaml]

Builds the family in FOLDER, which must be new, in this process, and times every call that talks to MLflow.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", type=Path, default=ROOT / "configs/digits.yaml")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)

    from click.testing import CliRunner

    from flows.cli.main import cli
    from tasks import report
    from tasks.records.breaker import Breaker
    from tasks.records.tracking import Tracker

    seconds: Counter[str] = Counter()

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                seconds[name] += time.perf_counter() - started

        return wrapper

    def on_this_thread(bounded: Callable[..., Any]) -> Callable[..., Any]:
        """Count the processor time of the calls, which have threads of their own."""

        def wrapper(breaker: Breaker, work: Callable[[], Any], allowance: float) -> Any:
            def counted() -> Any:
                started = time.thread_time()
                try:
                    return work()
                finally:
                    seconds["mlflow_cpu"] += time.thread_time() - started

            return bounded(breaker, counted, allowance)

        return wrapper

    Tracker.attempt = timed("mlflow", Tracker.attempt)  # type: ignore[method-assign]
    Breaker._bounded = on_this_thread(Breaker._bounded)  # type: ignore[method-assign]
    report._figures = timed("figures", lambda facts, draw=report._figures: list(draw(facts)))
    started = time.perf_counter()
    store = options.folder / "store"
    done = CliRunner().invoke(
        cli, ["family", str(options.config), "--store", str(store), "--json"], catch_exceptions=False
    )
    wall = time.perf_counter() - started
    found = json.loads(done.stdout[done.stdout.index("{") :])
    results = [json.loads(path.read_text()) for path in (store / "runs").glob("*/result.json")]
    trained = sum(result["seconds"] for result in results)
    print(
        json.dumps(
            {
                "members": len(found["members"]),
                "trainings": len(results),
                "seconds": wall,
                "seconds_in_mlflow": seconds["mlflow"],
                "processor_seconds_in_mlflow": seconds["mlflow_cpu"],
                "seconds_of_figures": seconds["figures"],
                "seconds_of_trainings": trained,
                "share_of_trainings": seconds["mlflow"] / trained,
            }
        )
    )


if __name__ == "__main__":
    main()
