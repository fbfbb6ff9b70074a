"""The dataset as a Prefect task: written here, or by the jobs of a work pool together, or found."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from effnet.config import PoolCompute
from effnet.data.shards.manifest import Manifest
from effnet.data.shards.parts import gather, split_work
from effnet.data.shards.remarks import remarks
from effnet.data.shards.write import write_shards
from tasks.compute.outage import Patience
from tasks.compute.place import Order, carry_out
from tasks.trainings import Work


@task(task_run_name="shard dataset", cache_policy=NO_CACHE)
def shard_dataset(work: Work) -> Manifest:
    """Write the dataset, or find it."""

    def progress(done: int, total: int) -> None:
        work.screen.progress("shard dataset", done / total, ("images", "of"), [(str(done), str(total))])

    compute = work.config.compute
    try:
        if isinstance(compute, PoolCompute) and compute.shard_jobs > 1:
            _shard_on_pool(work, compute)
        manifest, reused = write_shards(work.config.data, work.store.datasets, progress, base=work.base)
    finally:
        work.screen.settle()
    counts = ", ".join(f"{split} {num:,}" for split, num in manifest.samples.items())
    work.screen.say(f"dataset {manifest.digest}: {counts} images{' (reused)' if reused else ''}")
    for line in remarks(work.store.datasets / manifest.digest, manifest):
        work.screen.say(f"  {line}")
    return manifest


def _shard_on_pool(work: Work, compute: PoolCompute) -> None:
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
