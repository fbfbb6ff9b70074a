"""The dataset as a Prefect task: written here, written jointly by jobs of a work pool, or found to exist."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from effnet.config import DataConfig, FamilyConfig, PoolCompute
from effnet.data.shards.manifest import Manifest
from effnet.data.shards.parts import gather, split_work
from effnet.order import Order
from effnet.store import Store
from tasks.build import Build
from tasks.compute.outage import Patience
from tasks.compute.place import carry_out
from tasks.compute.watch import Watch
from tasks.terminal.screen import Screen
from tasks.terminal.sharding import shard


@task(task_run_name="shard dataset", cache_policy=NO_CACHE)
def shard_dataset(config: FamilyConfig, store: Store, base: Path, screen: Screen) -> Manifest:
    """Write the dataset, or find it.

    Args:
        config: the family.
        store: that it is written to.
        base: folder that relative paths in the config begin at.
        screen: shows the progress, and what a person should know about the dataset.
    """
    compute = config.compute
    if isinstance(compute, PoolCompute) and compute.shard_jobs > 1:
        try:
            _shard_on_pool(config.data, compute, store, base.absolute(), screen)
        finally:
            screen.settle()
    return shard(config.data, store, base, screen)


def shard_folds(build: Build) -> Build:
    """Return the build with the datasets of members.folds, which are written or found."""
    if build.config.members.folds == 1:
        return build
    others = [build.config.model_copy(update={"data": data}) for data in build.config.fold_data[1:]]
    manifests = [shard_dataset(config, build.store, build.base, build.screen) for config in others]
    return dataclasses.replace(build, folds=(build.manifest, *manifests))


def _shard_on_pool(data: DataConfig, compute: PoolCompute, store: Store, base: Path, screen: Screen) -> None:
    """Have jobs write the dataset's shards, unless it exists; without an exchange, its index remains to be written.

    Every job opens the source itself: it has to be on S3, or mounted at the same path everywhere.
    """
    datasets, number = store.datasets, compute.shard_jobs
    patient = Patience("exchange", screen.warn)
    orders = [
        Order(name=f"shards {part.part + 1}/{number}", action="shard", shards=part)
        for part in split_work(data, datasets, base, number, compute.exchange)
    ]
    if not orders:
        return
    finished = 0

    def done(_name: str) -> None:
        nonlocal finished
        finished += 1
        screen.progress("shard dataset", finished / number, ("jobs", "of"), [(str(finished), str(number))])

    carry_out(orders, compute, store, Watch(screen.warn, done=done))
    if to := compute.exchange:
        patient(lambda: gather(data, datasets, base, to, round(compute.cache_gb * 1e9)))
