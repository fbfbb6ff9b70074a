"""A dataset that the jobs of a work pool write together."""

from __future__ import annotations

from effnet.config import PoolCompute
from effnet.data.parts import Part, gather, is_written
from tasks.placement import Order, carry_out
from tasks.training import Work


def shard_on_pool(work: Work, compute: PoolCompute) -> None:
    """Have the dataset's shards written by jobs, unless it is there; without an exchange its index is still to write.

    Every job opens the source itself: it has to be on S3, or mounted at the same path everywhere.
    """
    data, datasets, base = work.config.data, work.store.datasets, work.base.absolute()
    if is_written(data, datasets, base):
        return
    number = compute.shard_jobs
    orders = [
        Order(
            name=f"shards {part + 1}/{number}",
            action="shard",
            shards=Part(data=data, base=str(base), part=part, parts=number, to=compute.exchange),
        )
        for part in range(number)
    ]
    finished = 0

    def done(_order: Order) -> None:
        nonlocal finished
        finished += 1
        work.screen.progress("shard dataset", finished / number, ("jobs", "of"), [(str(finished), str(number))])

    carry_out(orders, compute, work.store, tick=lambda: None, done=done, warn=work.screen.warn)
    if compute.exchange:
        gather(data, datasets, base, compute.exchange, round(compute.cache_gb * 1e9))
