"""Where trainings and evaluations run: as child processes here, or as jobs of a work pool. The result is the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from effnet.config import LocalCompute, PoolCompute
from effnet.data.shards.parts import Part
from effnet.store import Store
from effnet.values import Value
from tasks.compute.here import Job, run_jobs


class Order(Value):
    """What one child process is to do with runs of the store, or with a part of a dataset."""

    name: str  # for people
    action: Literal["train", "evaluate", "hits", "latency", "shard"]
    runs: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")], ...] = ()  # keys
    shards: Annotated[Part | None, Field(description="of `shard`")] = None
    work: float = 1.0  # expected size, in any unit: the largest order starts first
    ranks: Annotated[int, Field(ge=1, le=256, description="processes of each machine that train together")] = 1
    machines: Annotated[int, Field(ge=1, le=256, description="that train it together")] = 1
    until: Annotated[int | None, Field(ge=1, description="epochs after which a training is left")] = None


class Meeting(Value):
    """Where the machines of one training find each other (effnet.train.launch.Meeting)."""

    address: str
    machine: int


def carry_out(
    orders: Sequence[Order],
    compute: LocalCompute | PoolCompute,
    store: Store,
    *,
    tick: Callable[[], None],
    done: Callable[[Order], None],
    warn: Callable[[str], None],
    meeting: Meeting | None = None,
) -> None:
    """Carry out all orders, largest first; see tasks.compute.here.run_jobs, which says what is raised.

    `meeting` is for orders of several machines, here on one of them.
    """
    if isinstance(compute, PoolCompute):
        from tasks.compute.pool import run_on_pool

        run_on_pool(orders, compute, store, tick=tick, done=done, warn=warn)
        return
    by_name = {order.name: order for order in orders}
    jobs = [_job(order, store, meeting) for order in orders]
    run_jobs(jobs, compute, tick=tick, done=lambda job: done(by_name[job.name]), warn=warn)


def _job(order: Order, store: Store, meeting: Meeting | None) -> Job:
    folders = tuple(str(store.runs / key) for key in order.runs)
    log = store.logs / f"{order.action}.log"
    if order.action == "shard" and order.shards:
        arguments = (order.shards.model_dump_json(), str(store.datasets))
        log = store.logs / f"shard-{order.shards.part}.log"
        return Job(order.name, "effnet.data.shards.parts", arguments, log, order.work)
    if order.action == "train":
        log = Path(folders[0]) / (f"output-{meeting.machine}.log" if meeting and meeting.machine else "output.log")
        ranks = ("--ranks", str(order.ranks)) if order.ranks > 1 else ()
        until = ("--until", str(order.until)) if order.until else ()
        together: tuple[str, ...] = ()
        if meeting:
            together = ("--machines", str(order.machines), "--machine", str(meeting.machine), "--meet", meeting.address)
        arguments = (*folders, *ranks, *together, *until)
        return Job(order.name, "effnet.train", arguments, log, order.work, alone=meeting is None, ranks=order.ranks)
    only = (f"--{order.action}",) if order.action in ("latency", "hits") else ()
    return Job(order.name, "effnet.evaluation", (*only, *folders), log, order.work)
