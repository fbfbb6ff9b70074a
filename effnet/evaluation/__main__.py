"""`python -m effnet.evaluation [--latency | --hits] RUN_FOLDER...`: score finished runs on the validation split, once.

With --latency it only times the runs' networks, trained or not; with --hits it only keeps which images of minival they
are right about. What a run has it keeps, but for a latency that other work disturbed. Exit codes as for a training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from effnet.process import child_main, keep_memory, stop_on_signals


def main() -> None:
    """Evaluate the run folders named on the command line, one after the other."""
    from effnet.errors import StoppedError
    from effnet.evaluation.run import evaluate_run, keep_run_hits, time_run
    from effnet.runs import RunFolder

    parser = argparse.ArgumentParser(prog="python -m effnet.evaluation", description="Score finished runs.")
    parser.add_argument("run_folders", type=Path, nargs="+")
    parser.add_argument("--latency", action="store_true", help="only time the networks, trained or not")
    parser.add_argument("--hits", action="store_true", help="only keep the hits on minival, of finished runs")
    options = parser.parse_args()
    act = time_run if options.latency else keep_run_hits if options.hits else evaluate_run
    keep_memory()
    reasons: list[str] = []
    stop_on_signals(reasons.append)
    for path in options.run_folders:
        if reasons:
            raise StoppedError(f"evaluation: {reasons[0]}")
        act(RunFolder(path))


if __name__ == "__main__":
    child_main(main)
