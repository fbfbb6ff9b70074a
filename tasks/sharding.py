"""A dataset that the jobs of a work pool write together."""

from __future__ import annotations

from effnet.config import PoolCompute
from effnet.data.parts import gather, split_work
from tasks.patience import Patience
from tasks.placement import Order, carry_out
from tasks.training import Work


def shard_on_pool(work: Work, compute: PoolCompute) -> None:
    """Have the dataset's shards written by jobs, unless it is there; without an exchange its index is still to write.

    Every job opens the source itself: it has to be on S3, or mounted at the same path everywhere.
    """
    data, datasets, base = work.config.data, work.store.datasets, work.base.absolute()
    number = compute.shard_jobs
    patient = Patience("exchange", work.screen.warn)
    orders = [
        Order(name=f"shards {part.part + 1}/{number}", action="shard", shards=part)
        for part in split_work(data, datasets, base, number, compute.exchange)
    ]
    if not orders:
        return
    finished = 0

    def done(_order: Order) -> None:
        nonlocal finished
        finished += 1
        work.screen.progress("shard dataset", finished / number, ("jobs", "of"), [(str(finished), str(number))])

    carry_out(orders, compute, work.store, tick=lambda: None, done=done, warn=work.screen.warn)
    if to := compute.exchange:
        patient(lambda: gather(data, datasets, base, to, round(compute.cache_gb * 1e9)))
