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
_KEY_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_MAX_KEY = 90  # a ustar name has 100 bytes


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
    """Return shuffled entries per split.

    Each class gives its share to minival, rounded, and to val too unless the source has a val split of its own.
    """
    # A hash of the key, not of the position: images added later move no other image to another split's rank.
    seed = f"{config.seed}/".encode()
    ranked = sorted(entries, key=lambda entry: hashlib.sha256(seed + entry.key.encode()).digest())
    splits: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    by_class: dict[int, list[Entry]] = defaultdict(list)
    for entry in ranked:
        if entry.split == "val":
            splits["val"].append(entry)
        else:
            by_class[entry.label].append(entry)
    own_val = bool(splits["val"])
    chosen: dict[str, str] = {}
    for members in by_class.values():
        num_val = 0 if own_val else round(len(members) * config.val)
        num_minival = round(len(members) * config.minival)
        chosen |= dict.fromkeys((entry.key for entry in members[:num_val]), "val")
        chosen |= dict.fromkeys((entry.key for entry in members[num_val : num_val + num_minival]), "minival")
    for entry in ranked:
        if entry.split != "val":
            splits[chosen.get(entry.key, "train")].append(entry)
    return splits


def _check_keys(entries: Sequence[Entry]) -> None:
    seen = set()
    for entry in entries:
        if entry.key in seen:
            raise DataError(f"image {entry.key!r}: the key occurs twice in the source")
        if not 0 < len(entry.key) <= _MAX_KEY or not _KEY_CHARACTERS.issuperset(entry.key):
            raise DataError(f"image {entry.key!r}: a key has up to {_MAX_KEY} letters, digits, '_' and '-'")
        seen.add(entry.key)
