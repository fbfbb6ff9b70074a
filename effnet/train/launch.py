"""Several ranks of one training as processes of this machine, alone or together with those of other machines."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from typing import TYPE_CHECKING, Any

from effnet.errors import StoppedError
from effnet.order import Order
from effnet.process import warn

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

RENDEZVOUS_SECONDS = 600  # for the other machines to join


def launch(order: Order) -> None:
    """Train a run with several processes; see effnet.child for what is raised.

    torch's elastic launcher starts them, passes signals on, and ends all of them when one is gone. It does not
    restart them: whoever started this process decides that, and the training resumes from its last checkpoint.

    Args:
        order: of one run; with a rendezvous its other machines train it as well, each with the same number of ranks.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    arguments = ("-P", "-m", "effnet.child", order.model_dump_json())
    run = f"run {order.runs[0]}"
    try:
        elastic_launch(_config(order), sys.executable)(*arguments)
    except (DistError, RendezvousError) as error:
        raise StoppedError(
            f"{run}: its processes did not find each other ({type(error).__name__}: {str(error)[:120]}); start it again"
        ) from error
    except SignalException as error:
        raise StoppedError(f"{run}: stopped by {signal.Signals(error.sigval).name}") from error
    except ChildFailedError as error:
        # A rank that was killed may be noticed after those that lost their connection to it, or were told to end.
        killed = [(r, f) for r, f in error.failures.items() if f.exitcode < 0 and f.exitcode != -signal.SIGTERM]
        # One that failed by itself may be noticed together with those that lost it and ended with StoppedError.
        failed = [(r, f) for r, f in error.failures.items() if f.exitcode > 0 and f.exitcode != StoppedError.exit_code]
        rank, failure = next(iter([*killed, *failed]), error.get_first_failure())
        if failure.exitcode > 0:
            sys.exit(failure.exitcode)  # the rank has said why
        how = signal.Signals(-failure.exitcode)
        warn(f"{run}: rank {rank} was killed by {how.name}, the others ended")
        if how is not signal.SIGKILL:
            signal.signal(how, signal.SIG_DFL)
        os.kill(os.getpid(), how)  # as one process alone would have ended


def _config(order: Order) -> LaunchConfig:
    from torch.distributed.launcher.api import LaunchConfig

    common: dict[str, Any] = {
        "nproc_per_node": order.ranks,
        "run_id": uuid.uuid4().hex,
        "max_restarts": 0,
        "monitor_interval": 0.2,
    }
    if order.rendezvous is None:
        return LaunchConfig(1, 1, rdzv_backend="c10d", rdzv_endpoint="localhost:0", **common)
    return LaunchConfig(
        order.machines,
        order.machines,
        rdzv_backend="static",  # ranks in the order of the machines: the first one leads and sends what it writes
        rdzv_endpoint=order.rendezvous.address,
        rdzv_configs={"rank": order.rendezvous.machine, "timeout": RENDEZVOUS_SECONDS},
        **(common | {"run_id": order.rendezvous.address}),
    )
