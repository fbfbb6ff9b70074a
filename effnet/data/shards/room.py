"""Whether the disk for fetched shards holds what an epoch needs at a time: functions of a dataset's manifest.

A dataset that lies elsewhere is fetched shard by shard, and shards make room for others when the cache is full. If the
cache does not hold all of them, an order that mixes all images fetches a shard for nearly every image. So images are
mixed within groups of shards then, of which two fit: the one that is read, and the next one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from effnet.config import DatasetSource, FamilyConfig, PoolCompute, RayCompute
from effnet.data.shards.manifest import Manifest, shards_in
from effnet.data.shards.mirror import ORIGIN, Origin
from effnet.errors import ConfigError, MachineError
from effnet.files import gigabytes
from effnet.machine import name
from effnet.runs import read_value

_GROUPS = 2  # of shards that are here at a time


class Cache(NamedTuple):
    """The disk that a training's machine has for fetched shards."""

    bytes: int
    setting: str  # the config's name for it
    trainings: int  # that share it; 0: nobody knows how many


class Order(NamedTuple):
    """How an epoch's images are mixed."""

    shuffle_shards: int  # as in a recipe
    note: str = ""  # what a person should know, if it is not what the config says


def cache_of(config: FamilyConfig) -> Cache | None:
    """Return the cache that the config gives a training's machine; None where shards are not fetched."""
    compute = config.compute
    if isinstance(compute, PoolCompute):
        trainings = min(compute.batch, compute.parallel or compute.batch)
    elif isinstance(compute, RayCompute):
        trainings = 0  # on a machine: as many as Ray puts there
    else:
        trainings = compute.parallel
    if isinstance(compute, PoolCompute | RayCompute) and compute.exchange:
        return Cache(round(compute.cache_gb * 1e9), "compute.cache_gb", trainings)
    if isinstance(config.data.source, DatasetSource):
        return Cache(config.data.source.cache_bytes, "data.source.cache_bytes", trainings)
    return None


def order_that_fits(config: FamilyConfig, manifest: Manifest) -> Order:
    """Return the order of the config's recipe, or one for which the cache is large enough.

    It is a function of config and dataset, not of a machine: it is part of a run's key.

    Raises:
        ConfigError: if the config asks for groups of shards that are too large for the cache, if the cache holds fewer
            than two shards for each training, or if nobody knows how many trainings share it.
    """
    wanted, cache = config.recipe.shuffle_shards, cache_of(config)
    if cache is None or whole_bytes(manifest) <= cache.bytes:
        return Order(wanted)
    lacking = (
        f"{cache.setting} is {gigabytes(cache.bytes)}, less than the {gigabytes(whole_bytes(manifest))} of the "
        f"dataset's train and minival shards"
    )
    if not cache.trainings:
        raise ConfigError(f"{lacking}, and trainings share it: say how many at a time in compute.parallel")
    most = largest_groups(manifest, cache.bytes // cache.trainings)
    if not most:
        least = cache.trainings * wanted_bytes(manifest, 1)
        raise ConfigError(f"{lacking}, and too little for any order: give it {gigabytes(least)} at least")
    if wanted > most:
        enough = min(whole_bytes(manifest), cache.trainings * wanted_bytes(manifest, wanted))
        raise ConfigError(
            f"recipe.shuffle_shards: {wanted} is too many: {lacking}; set it to {most} or less, or {cache.setting} to "
            f"{gigabytes(enough)}"
        )
    if wanted:
        return Order(wanted)
    return Order(
        most,
        f"{lacking}: images are mixed within {most} shards at a time (recipe.shuffle_shards: {most}), so that each "
        "shard is fetched once per epoch; a cache that holds all would mix all images",
    )


def check_room(folder: Path, manifest: Manifest, shuffle_shards: int) -> None:
    """Do nothing if a training on the dataset in `folder` fetches each shard once per epoch; a whole dataset has all.

    Raises:
        ConfigError: if the cache is too small for the order of the images.
        MachineError: if the disk is too small for the cache.
    """
    origin = read_value(Origin, folder / ORIGIN)
    if origin is None:
        return
    cache, wanted = origin.cache_bytes, wanted_bytes(manifest, shuffle_shards)
    if cache < wanted:
        most = largest_groups(manifest, cache)
        lower = f", or recipe.shuffle_shards to {most} or less (0 mixes all)" if most else ""
        raise ConfigError(
            f"{folder}: its cache of {gigabytes(cache)} is too small for recipe.shuffle_shards: {shuffle_shards}, an "
            f"epoch would fetch shards many times; set compute.cache_gb (or data.source.cache_bytes) to "
            f"{gigabytes(wanted)} at least{lower}"
        )
    here = sum(status.st_size for _, status in shards_in(folder))
    free = shutil.disk_usage(folder).free
    if here + free < (most := min(cache, all_bytes(manifest))):
        raise MachineError(
            f"{folder}: fetched shards may take {gigabytes(most)}, but the disk of machine {name()} has room for "
            f"{gigabytes(here + free)}; make room there, lower compute.cache_gb (or data.source.cache_bytes), or start "
            "it again on another machine"
        )


def wanted_bytes(manifest: Manifest, shuffle_shards: int) -> int:
    """Return the cache with which a training fetches each shard once per epoch."""
    whole = whole_bytes(manifest)
    return min(whole, round(_GROUPS * shuffle_shards * _mean_bytes(manifest))) if shuffle_shards else whole


def largest_groups(manifest: Manifest, cache_bytes: int) -> int:
    """Return the largest `shuffle_shards` for a cache that does not hold all; 0 if there is none."""
    return int(cache_bytes / (_GROUPS * _mean_bytes(manifest)))


def whole_bytes(manifest: Manifest) -> int:
    """Return the bytes of the shards that a training reads in every epoch: train and minival."""
    return sum(shard.bytes for shard in manifest.shards if shard.split != "val")


def all_bytes(manifest: Manifest) -> int:
    """Return the bytes of all shards."""
    return sum(shard.bytes for shard in manifest.shards)


def _mean_bytes(manifest: Manifest) -> float:
    sizes = [shard.bytes for shard in manifest.shards if shard.split == "train"]
    return sum(sizes) / len(sizes)
