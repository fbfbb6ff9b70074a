"""`python -m effnet.train RUN_FOLDER`: the one entry of a training.

Exit codes: 0 done, 75 stopped with a checkpoint (start it again), 2 bad configuration, 65 bad data, 73 another process
trains this run, 70 our bug or a diverged training. SIGTERM and SIGINT ask it to stop.
"""

from __future__ import annotations

import sys

from effnet.process import child_main, process_started, stop_on_signals, warn


def main() -> None:
    """Train the run folder named on the command line."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m effnet.train RUN_FOLDER")
    from pathlib import Path

    from effnet.runs import RunFolder
    from effnet.train.loop import Stop, train

    stop = Stop()
    stop_on_signals(stop.request)
    train(RunFolder(Path(sys.argv[1])), started=process_started(), stop=stop, warn=warn)


if __name__ == "__main__":
    child_main(main)
