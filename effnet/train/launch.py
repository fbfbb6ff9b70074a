"""Several ranks of one training as processes of this machine, alone or together with those of other machines."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from effnet.errors import StoppedError
from effnet.process import warn

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

MEETING_SECONDS = 600  # for the other machines to come


class Meeting(NamedTuple):
    """Where the machines of one training find each other."""

    address: str  # HOST:PORT of machine 0, which all of them reach
    machine: int  # this one, counted from 0; the first one's first rank leads
    machines: int


def launch(run_folder: Path, ranks: int, meeting: Meeting | None = None, until: int | None = None) -> None:
    """Train a run folder with `ranks` processes; see effnet.train for what is raised.

    torch's elastic launcher starts them, passes signals on, and ends all of them when one is gone. It does not start
    them again: whoever started this process decides that, and the training goes on from its last checkpoint.

    Args:
        run_folder: the run.
        ranks: processes on this machine.
        meeting: with the other machines that train this run, each with as many ranks.
        until: epochs after which to leave it.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    arguments = ("-P", "-m", "effnet.train", str(run_folder), *(("--until", str(until)) if until else ()))
    try:
        elastic_launch(_config(ranks, meeting), sys.executable)(*arguments)
    except (DistError, RendezvousError) as error:
        raise StoppedError(
            f"run {run_folder.name}: its processes did not meet ({type(error).__name__}: {str(error)[:120]}); "
            "start it again"
        ) from error
    except SignalException as error:
        raise StoppedError(f"run {run_folder.name}: stopped by {signal.Signals(error.sigval).name}") from error
    except ChildFailedError as error:
        # A rank that was killed may be noticed after those that lost their connection to it, or were told to end.
        killed = [(r, f) for r, f in error.failures.items() if f.exitcode < 0 and f.exitcode != -signal.SIGTERM]
        # One that failed by itself may be noticed together with those that lost it, and ended with StoppedError.
        failed = [(r, f) for r, f in error.failures.items() if f.exitcode > 0 and f.exitcode != StoppedError.exit_code]
        rank, failure = next(iter([*killed, *failed]), error.get_first_failure())
        if failure.exitcode > 0:
            sys.exit(failure.exitcode)  # the rank has said why
        how = signal.Signals(-failure.exitcode)
        warn(f"run {run_folder.name}: rank {rank} was killed by {how.name}, the others ended")
        if how is not signal.SIGKILL:
            signal.signal(how, signal.SIG_DFL)
        os.kill(os.getpid(), how)  # as one process alone would have ended


def _config(ranks: int, meeting: Meeting | None) -> LaunchConfig:
    from torch.distributed.launcher.api import LaunchConfig

    common: dict[str, Any] = {
        "nproc_per_node": ranks,
        "run_id": uuid.uuid4().hex,
        "max_restarts": 0,
        "monitor_interval": 0.2,
    }
    if meeting is None:
        return LaunchConfig(1, 1, rdzv_backend="c10d", rdzv_endpoint="localhost:0", **common)
    return LaunchConfig(
        meeting.machines,
        meeting.machines,
        rdzv_backend="static",  # ranks in the order of the machines: the first one leads and sends what it writes
        rdzv_endpoint=meeting.address,
        rdzv_configs={"rank": meeting.machine, "timeout": MEETING_SECONDS},
        **(common | {"run_id": meeting.address}),
    )
