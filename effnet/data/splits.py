"""Which sample goes into which split and shard: decided from keys and labels alone, before any image is read."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from effnet.config import DataConfig
from effnet.data.sources import Entry
from effnet.errors import DataError

SPLITS = ("train", "minival", "val")


class ShardPlan(NamedTuple):
    """One shard to write."""

    name: str  # train-00000.tar
    split: str
    entries: tuple[Entry, ...]


def plan_shards(entries: Sequence[Entry], config: DataConfig) -> list[ShardPlan]:
    """Return every shard: splits drawn per class, samples shuffled; the same entries and config give the same plan.

    Raises:
        DataError: if a key repeats or cannot name a file in a shard, or a split stays empty.
    """
    _check_keys(entries)
    plans = []
    for split, members in split_entries(entries, config).items():
        if not members:
            raise DataError(f"the {split} split is empty: {len(entries)} images are too few for the shares asked for")
        size = config.shard_samples
        plans += [
            ShardPlan(f"{split}-{number:05d}.tar", split, tuple(members[start : start + size]))
            for number, start in enumerate(range(0, len(members), size))
        ]
    return plans


def split_entries(entries: Iterable[Entry], config: DataConfig) -> dict[str, list[Entry]]:
    """Return shuffled entries per split; each class gives its share to minival and val, rounded."""
    by_class: dict[int, list[Entry]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: _rank(entry, config.seed)):
        by_class[entry.label].append(entry)
    splits: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    for members in by_class.values():
        num_val, num_minival = round(len(members) * config.val), round(len(members) * config.minival)
        splits["val"] += members[:num_val]
        splits["minival"] += members[num_val : num_val + num_minival]
        splits["train"] += members[num_val + num_minival :]
    return {split: sorted(members, key=lambda entry: _rank(entry, config.seed)) for split, members in splits.items()}


def _rank(entry: Entry, seed: int) -> bytes:
    # A hash of the key, not of the position: images added later move no other image to another split's rank.
    return hashlib.sha256(f"{seed}/{entry.key}".encode()).digest()


def _check_keys(entries: Sequence[Entry]) -> None:
    seen = set()
    for entry in entries:
        if entry.key in seen:
            raise DataError(f"image {entry.key!r}: the key occurs twice in the source")
        if not entry.key or set(entry.key) & set("./\\\0"):
            raise DataError(f"image {entry.key!r}: a key may hold neither dot nor slash")
        seen.add(entry.key)
