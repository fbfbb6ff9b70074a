"""`python -m effnet.train RUN_FOLDER [--ranks N] [--until EPOCHS]`: the one entry of a training.

With --ranks, N processes of this machine train together, with --meet those of other machines too, each started with its
own --machine; torchrun may start `python -m effnet.train RUN_FOLDER` itself.

Exit codes: 0 done, 75 stopped with a checkpoint (start it again), 2 bad configuration, 65 bad data, 73 another process
trains this run, 70 our bug or a diverged training, 76 this machine is broken (start it again on another). SIGTERM and
SIGINT ask it to stop.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from effnet.process import child_main, die_with_parent, keep_memory, process_started, stop_on_signals, warn


def main() -> None:
    """Train the run folder named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m effnet.train", description="Train a run folder to its end.")
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--ranks", type=int, default=1, help="processes of this machine that train together")
    parser.add_argument("--machines", type=int, default=1, help="machines that train it together, each so started")
    parser.add_argument("--machine", type=int, default=0, help="which of them this one is, counted from 0")
    parser.add_argument("--meet", default="", help="HOST:PORT of machine 0, a port that is free there")
    parser.add_argument("--until", type=int, help="epochs after which to leave it, to be gone on with later")
    options = parser.parse_args()
    if options.ranks > 1 or options.machines > 1:
        from effnet.train.launch import Meeting, launch

        meeting = Meeting(options.meet, options.machine, options.machines) if options.machines > 1 else None
        launch(options.run_folder, options.ranks, meeting, options.until)
        return
    if "RANK" in os.environ:
        die_with_parent()
    keep_memory()
    from effnet.runs import RunFolder
    from effnet.train.loop import Stop, train

    stop = Stop()
    stop_on_signals(stop.request)
    train(RunFolder(options.run_folder), started=process_started(), stop=stop, warn=warn, until=options.until)


if __name__ == "__main__":
    child_main(main)
