"""`python -P -m effnet.child ORDER`: carry out one order (effnet.order), given as JSON or as the path of a JSON file.

Exit codes: 0 done, 75 stopped with a checkpoint (start it again), 2 bad configuration, 65 bad data, 73 another process
is training this run, 70 a bug of ours or a diverged training, 76 this machine is broken (start it again on another).
SIGTERM and SIGINT ask it to stop.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from effnet.errors import ConfigError, StoppedError
from effnet.files import read_regular, reason
from effnet.order import Order
from effnet.process import child_main, die_with_parent, keep_memory, process_started, say, stop_on_signals, warn
from effnet.store import Store

LAUNCHED = "TORCHELASTIC_RUN_ID"  # set for ranks, by `launch` and by torchrun; RANK alone may be the cluster's


def read_order(text: str) -> Order:
    """Return the order in a JSON text, or in the file that the text names; raise ConfigError if there is none."""
    where = "order" if text.startswith("{") else text
    try:
        data = json.loads(text if where == "order" else read_regular(Path(text)))
    except OSError as error:
        raise ConfigError(f"{text}: no order can be read: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON ({str(error)[:200]})") from error
    return Order.parse(data, where)


def carry_out(order: Order) -> None:
    """Carry out an order in this process; signals ask it to stop.

    Raises:
        EffnetError: see effnet.train.loop.train, effnet.evaluation.run and effnet.data.shards.parts.write_part.
    """
    if not order.store:
        raise ConfigError(f"order {order.name!r}: names no store; add `store`, the folder that the runs lie in")
    store = Store(Path(order.store))
    if order.shards is not None:
        from effnet.data.shards.parts import write_part

        stop_on_signals(lambda _reason: os._exit(StoppedError.exit_code))  # unfinished output is written again
        write_part(order.shards, store.datasets)
    elif order.action == "train":
        _train(order, store)
    else:
        _evaluate(order, store)


def _train(order: Order, store: Store) -> None:
    if LAUNCHED not in os.environ:
        if order.machines > 1 and order.rendezvous is None:
            raise ConfigError(
                f"order {order.name!r}: is of {order.machines} machines; add `rendezvous`, where they meet"
            )
        if order.ranks > 1 or order.rendezvous:
            from effnet.train.launch import launch

            launch(order)
            return
    if "RANK" in os.environ:
        die_with_parent()
    keep_memory()
    from effnet.runs import RunFolder
    from effnet.train.loop import Stop, train

    stop = Stop()
    stop_on_signals(stop.request)
    folder = RunFolder(store.runs / order.runs[0])
    result = train(folder, started=process_started(), stop=stop, warn=warn, until=order.until)
    if result:
        say(f"{order.name}: trained, {result.epochs} epochs, minival top-1 {result.top1:.1%}")


def _evaluate(order: Order, store: Store) -> None:
    """Score or time runs one after the other. Existing results stay, except a latency that other work disturbed."""
    from effnet.evaluation.run import evaluate_run, keep_run_hits, time_run
    from effnet.runs import Evaluation, Latency, RunFolder

    # By network: several trainings of one take the same time.
    evaluated: dict[tuple[str, int], Evaluation] = {}
    timed: dict[tuple[str, int], Latency] = {}

    def network_of(folder: RunFolder) -> tuple[str, int]:
        return folder.spec().architecture.key(), folder.spec().num_classes

    def evaluate(folder: RunFolder) -> None:
        network, here = network_of(folder), folder.evaluation() is None
        found = evaluate_run(folder, evaluated.get(network))
        if here:  # and not on another machine, earlier
            evaluated[network] = found

    def measure(folder: RunFolder) -> None:
        network = network_of(folder)
        timed[network] = time_run(folder, timed.get(network))

    act = {"latency": measure, "hits": keep_run_hits, "evaluate": evaluate}[order.action]
    keep_memory()
    reasons: list[str] = []
    stop_on_signals(reasons.append)
    for key in order.runs:
        if reasons:
            raise StoppedError(f"{order.name}: {reasons[0]}")
        act(RunFolder(store.runs / key))
        say(f"{order.name}: {key} done")


def main() -> None:
    """Carry out the order that the command line gives."""
    if len(sys.argv) != 2:
        raise ConfigError("usage: python -P -m effnet.child ORDER, which is JSON or a file of it")
    carry_out(read_order(sys.argv[1]))


if __name__ == "__main__":
    child_main(main)
