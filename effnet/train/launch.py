"""Several ranks of one training as processes of this machine."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from pathlib import Path

from effnet.errors import StoppedError
from effnet.process import warn


def launch(run_folder: Path, ranks: int) -> None:
    """Train a run folder with `ranks` processes; see effnet.train for what is raised.

    torch's elastic launcher starts them, passes signals on, and ends all of them when one is gone. It does not start
    them again: whoever started this process decides that, and the training goes on from its last checkpoint.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "effnet.train", str(run_folder))
    except SignalException as error:
        raise StoppedError(f"run {run_folder.name}: stopped by {signal.Signals(error.sigval).name}") from error
    except ChildFailedError as error:
        # A rank that was killed may be noticed after those that lost their connection to it, or were told to end.
        killed = [(r, f) for r, f in error.failures.items() if f.exitcode < 0 and f.exitcode != -signal.SIGTERM]
        rank, failure = killed[0] if killed else error.get_first_failure()
        if failure.exitcode > 0:
            sys.exit(failure.exitcode)  # the rank has said why
        how = signal.Signals(-failure.exitcode)
        warn(f"run {run_folder.name}: rank {rank} was killed by {how.name}, the others ended")
        if how is not signal.SIGKILL:
            signal.signal(how, signal.SIG_DFL)
        os.kill(os.getpid(), how)  # as one process alone would have ended
