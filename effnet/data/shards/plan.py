"""Which sample goes into which split and shard: decided before any shard is written.

A split is a function of an image's bytes: they give a number between 0 and 1, and the shares of val and minival are
thresholds on it. So adding or removing images moves no others, and equal images are on the same side. Only a class that
would have no image in one of the splits gives that split its next image in the order of those numbers
(`Thresholds.bounds`); docs/data.md says what that means for images that are added.

If the config names a rule that groups images (`data.group`), groups are split in place of images
(effnet.data.shards.groups). With folds val is the same, and the rest is dealt out (effnet.data.shards.folds).
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from effnet.config import DataConfig
from effnet.data.shards.folds import check_folds, deal
from effnet.data.shards.groups import Shares, joined, split_groups
from effnet.data.sources import Entry, Source
from effnet.data.sources.groups import Grouped
from effnet.errors import DataError

SPLITS = ("train", "minival", "val")
_KEY_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_MAX_KEY = 90  # a ustar name has 100 bytes
_CHUNK = 256  # images whose marks one thread reads at a time


class ShardPlan(NamedTuple):
    """One shard to write."""

    name: str  # train-00000.tar
    split: str
    entries: tuple[Entry, ...]


class Thresholds(NamedTuple):
    """Shares of the images; the rest is train."""

    val: float
    minival: float

    def split(self, draw: float) -> str:
        """Return the split of an image by its own number, in [0, 1)."""
        return "val" if draw < self.val else "minival" if draw < self.val + self.minival else "train"

    def bounds(self, draws: Sequence[float], lacking: Collection[str]) -> tuple[int, int]:
        """Return where, among a class's rising numbers, minival begins, and where train begins.

        That is at the thresholds, but moved far enough that each of the `lacking` splits gets at least one image;
        minival takes its image from val if val has two, so that train loses none. If there are too few images for all
        splits, train comes first, then val.
        """
        wanted = [split for split in ("train", "val", "minival") if split in lacking][: len(draws)]
        train, val, minival = (split in wanted for split in ("train", "val", "minival"))
        begin = min(max(bisect_left(draws, self.val), val), len(draws) - train - minival)
        end = min(max(bisect_left(draws, self.val + self.minival), begin), len(draws) - train)
        if minival and begin == end:
            return (begin - 1, end) if begin > val else (begin, end + 1)
        return begin, end


def plan_shards(source: Source, config: DataConfig) -> list[ShardPlan]:
    """Return every shard, samples shuffled; the same images and config give the same plan.

    Raises:
        DataError: if a key repeats or cannot name a file in a shard, or a split stays empty.
    """
    entries = source.entries()
    _check_keys(entries)
    if (val := getattr(config.source, "val", None)) and not any(entry.split == "val" for entry in entries):
        raise DataError(f"val: {val}: contains no images; add some, or leave out val: to hold out a share of train:")
    found = marks(source, entries)
    if (names := group_names(source, config)) is not None:
        splits, found = split_by_group(entries, found, names, config)
    else:
        splits = split_entries(entries, found, config)
    if config.fold and all(splits.values()):
        units = {entry.key: unit for entry, unit in zip(entries, found, strict=True)}
        splits = _with_fold(splits, units, source.class_names, config)
    plans = []
    for split, members in splits.items():
        if not members:
            what = "groups without an image in common" if config.group else "different images"
            message = _empty(split, entries, found, source.classes, what)
            raise DataError(f"data.group '{config.group}': {message}" if config.group and entries else message)
        size = config.shard_samples
        plans += [
            ShardPlan(f"{split}-{number:05d}.tar", split, tuple(members[start : start + size]))
            for number, start in enumerate(range(0, len(members), size))
        ]
    return plans


def marks(source: Source, entries: Sequence[Entry]) -> list[bytes]:
    """Return every image's mark, which is read from its bytes."""
    chunks = [entries[start : start + _CHUNK] for start in range(0, len(entries), _CHUNK)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "mark") as pool:
        found = pool.map(lambda chunk: [source.mark(entry) for entry in chunk], chunks)
        return [mark for chunk in found for mark in chunk]


def split_entries(entries: Sequence[Entry], marks: Sequence[bytes], config: DataConfig) -> dict[str, list[Entry]]:
    """Return shuffled entries per split.

    Args:
        entries: images; if the source itself assigns some to val, val gets those and no others.
        marks: each image's mark, which images of the same bytes share.
        config: shares, and the seed.
    """
    seed = f"{config.seed}/".encode()
    own_val = any(entry.split == "val" for entry in entries)
    thresholds = Thresholds(0.0 if own_val else config.val, config.minival)
    free = [(entry, mark) for entry, mark in zip(entries, marks, strict=True) if entry.split != "val"]
    draws = {mark: _draw(seed + mark) for _, mark in free}
    by_class: dict[int, set[bytes]] = defaultdict(set)
    for entry, mark in free:
        by_class[entry.label].add(mark)
    chosen = _choose(by_class, draws, thresholds, SPLITS[: 2 if own_val else 3])
    return _shuffled(entries, {entry.key: chosen[mark] for entry, mark in free}, config)


def group_names(source: Source, config: DataConfig) -> list[str] | None:
    """Return the name of every image's group; None if the config groups no images.

    Raises:
        ConfigError: if the rule is none, or an image has no group.
    """
    if config.group is None:
        return None
    assert isinstance(source, Grouped)  # noqa: S101 - DataConfig allows no others
    return source.groups(config.group)


def wanted_shares(entries: Sequence[Entry], config: DataConfig) -> Shares:
    """Return the shares that are held out of the images: none for val, if the source has its own."""
    return Shares(0.0 if any(entry.split == "val" for entry in entries) else config.val, config.minival)


def split_by_group(
    entries: Sequence[Entry], marks: Sequence[bytes], names: Sequence[str], config: DataConfig
) -> tuple[dict[str, list[Entry]], list[bytes]]:
    """Return shuffled entries per split, and for each entry what is split in place of images: its group.

    Arguments as for `split_entries`; `names` are the groups of the images. Groups that share an image of the same bytes
    are one.
    """
    places = [place for place, entry in enumerate(entries) if entry.split != "val"]
    groups = joined([names[place] for place in places], [marks[place] for place in places])
    seed = f"{config.seed}/group/".encode()
    chosen = split_groups(
        [entries[place].label for place in places],
        groups,
        {name: _draw(seed + name.encode()) for name in {*groups}},
        wanted_shares(entries, config),
    )
    by_key = {entries[place].key: chosen[group] for place, group in zip(places, groups, strict=True)}
    whole = dict(enumerate(names)) | dict(zip(places, groups, strict=True))
    return _shuffled(entries, by_key, config), [whole[place].encode() for place in range(len(entries))]


def _with_fold(
    splits: Mapping[str, Sequence[Entry]], unit_of: Mapping[str, bytes], names: Sequence[str], config: DataConfig
) -> dict[str, list[Entry]]:
    """Return the splits with the config's fold as minival, and the other folds as train; val stays as it is.

    Args:
        splits: without folds.
        unit_of: what has to stay together with an image, by its key: copies of it, or its group.
        names: of the classes.
        config: with a fold.
    """
    assert config.fold is not None  # noqa: S101 - or it would not be called
    fold, folds = config.fold
    free = [entry for split in ("train", "minival") for entry in splits[split]]
    labels, units = [entry.label for entry in free], [unit_of[entry.key] for entry in free]
    seed = f"{config.seed}/fold/".encode()
    dealt = deal(labels, units, {unit: _draw(seed + unit) for unit in {*units}}, folds)
    what = "groups" if config.group else "different images"
    check_folds(labels, units, dealt, folds, what, names)
    chosen = ("minival" if dealt[unit] == fold - 1 else "train" for unit in units)
    by_key = dict(zip((entry.key for entry in free), chosen, strict=True))
    return _shuffled([*free, *splits["val"]], by_key, config)


def _shuffled(entries: Sequence[Entry], by_key: Mapping[str, str], config: DataConfig) -> dict[str, list[Entry]]:
    """Return the entries of each split, shuffled; those without a split by their key are in val."""
    seed = f"{config.seed}/".encode()
    splits: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    for entry in sorted(entries, key=lambda entry: hashlib.sha256(seed + entry.key.encode()).digest()):
        splits[by_key.get(entry.key, "val")].append(entry)
    return splits


def _choose(
    by_class: Mapping[int, set[bytes]], draws: Mapping[bytes, float], thresholds: Thresholds, splits: Sequence[str]
) -> dict[bytes, str]:
    """Return the split of every mark; each class is in every split, if it has enough images."""
    chosen = {mark: thresholds.split(draw) for mark, draw in draws.items()}
    seen: set[bytes] = set()
    shared: set[bytes] = set()  # in several classes: they stay where their number puts them
    for members in by_class.values():
        shared |= seen & members
        seen |= members
    for members in by_class.values():
        lacking = set(splits) - {chosen[mark] for mark in members & shared}
        own = sorted(members - shared, key=lambda mark: (draws[mark], mark))
        begin, end = thresholds.bounds([draws[mark] for mark in own], lacking)
        chosen |= dict.fromkeys(own[:begin], "val")
        chosen |= dict.fromkeys(own[begin:end], "minival")
        chosen |= dict.fromkeys(own[end:], "train")
    return chosen


def _draw(data: bytes) -> float:
    """Return a number in [0, 1) that depends on all of the bytes."""
    return int.from_bytes(hashlib.sha256(data).digest()[:6]) / (1 << 48)


def _empty(split: str, entries: Sequence[Entry], marks: Sequence[bytes], classes: Sequence[str], what: str) -> str:
    if not entries:
        return "the source has no images"
    different: dict[int, set[bytes]] = defaultdict(set)
    for entry, mark in zip(entries, marks, strict=True):
        if entry.split != "val":
            different[entry.label].add(mark)
    label = max(different, key=lambda label: (len(different[label]), -label))
    needed = 3 - any(entry.split == "val" for entry in entries)
    return (
        f"the {split} split is empty: a class needs {needed} {what} to be in all splits, and the largest, "
        f"'{classes[label]}', has {len(different[label]):,}"
    )


def _check_keys(entries: Sequence[Entry]) -> None:
    seen = set()
    for entry in entries:
        if entry.key in seen:
            raise DataError(f"image {entry.key!r}: the key occurs twice in the source")
        if not 0 < len(entry.key) <= _MAX_KEY or not _KEY_CHARACTERS.issuperset(entry.key):
            raise DataError(f"image {entry.key!r}: a key has up to {_MAX_KEY} letters, digits, '_' and '-'")
        seen.add(entry.key)


def missing(rows: Iterable[tuple[int, str]], classes: Sequence[str]) -> Iterator[tuple[str, int, list[str]]]:
    """Yield (class, its images, the splits that have none of them) of every class that is not in all splits.

    Args:
        rows: label and split of every image.
        classes: names of the labels.
    """
    counts: dict[int, dict[str, int]] = defaultdict(lambda: dict.fromkeys(SPLITS, 0))
    for label, split in rows:
        counts[label][split] += 1
    for label, name in enumerate(classes):
        if lacks := [split for split in SPLITS if not counts[label][split]]:
            yield name, sum(counts[label].values()), lacks
