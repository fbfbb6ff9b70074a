"""`python -m effnet.evaluation RUN_FOLDER...`: score finished runs on the validation split, each once.

A run that has its evaluation.json keeps it. Exit codes as for a training.
"""

from __future__ import annotations

import sys

from effnet.process import child_main, keep_memory, stop_on_signals


def main() -> None:
    """Evaluate the run folders named on the command line, one after the other."""
    from pathlib import Path

    from effnet.errors import StoppedError
    from effnet.evaluation.run import evaluate_run
    from effnet.runs import RunFolder

    keep_memory()
    reasons: list[str] = []
    stop_on_signals(reasons.append)
    for name in sys.argv[1:]:
        if reasons:
            raise StoppedError(f"evaluation: {reasons[0]}")
        evaluate_run(RunFolder(Path(name)))


if __name__ == "__main__":
    child_main(main)
