"""What a person should know about a dataset beyond its counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from effnet.config import DataConfig
from effnet.data.shards.groups import told
from effnet.data.shards.manifest import MANIFEST, QUARANTINE, Manifest, load_manifest
from effnet.data.shards.plan import ShardPlan, group_names, missing, wanted_shares
from effnet.data.shards.quarantine import listed, summary
from effnet.data.sources import Entry, Source
from effnet.errors import DataError

_SHOWN = 5


def remarks(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield what a person should know about a dataset beyond its counts, a line each."""
    if manifest.quarantined:
        rows = listed(folder)  # a mirror's are where its shards are
        yield f"left out: {manifest.quarantined:,}" + (f", listed in {folder / QUARANTINE}" if rows else "")
        yield from (f"  {line}" for line in summary(rows))
    if manifest.passed_over:
        counts = ", ".join(f"{number:,} {name}" for name, number in manifest.passed_over.items())
        yield f"passed over: {counts}"
    yield from manifest.notes
    for old in sorted(folder.parent.glob(f"*/{MANIFEST}")):
        try:
            other = load_manifest(old.parent)
        except DataError:  # another dataset's problem: whoever uses that one is told
            continue
        if other and other.format < manifest.format and other.settings.source == manifest.settings.source:
            rule = f"split by an older rule (format {other.format})"
            yield f"{other.digest}: from the same source, but {rule}; it is not used"


def told_of(folder: Path, manifest: Manifest, *, reused: bool) -> Iterator[str]:
    """Yield what a person is told of a dataset that was written, or found: its splits, then its remarks.

    Other folds than the first have their splits told alone: they are of the same images.
    """
    counts = ", ".join(f"{split} {num:,}" for split, num in manifest.samples.items())
    fold = manifest.settings.fold
    of_fold = f"fold {fold[0]} of {fold[1]}, " if fold else ""
    yield f"{of_fold}dataset {manifest.digest}: {counts} images{' (reused)' if reused else ''}"
    if fold is None or fold[0] == 1:
        for line in remarks(folder, manifest):
            yield f"  {line}"


def notes(
    source: Source, config: DataConfig, plans: Sequence[ShardPlan], rows: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Yield a line each: how the source was understood, groups, classes that a split lacks, images in two splits.

    Args:
        source: of the images.
        config: by which they were split.
        plans: shards as they were planned, with the images' places.
        rows: of the index.
    """
    yield from source.remarks().notes
    yield from _groups(source, config, plans, rows)
    yield from _lacking(rows, source.classes)
    yield from _across_splits(source, plans, rows)


def _groups(
    source: Source, config: DataConfig, plans: Sequence[ShardPlan], rows: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    if (names := group_names(source, config)) is not None:
        entries = source.entries()
        splits = {entry.key: plan.split for plan in plans for entry in plan.entries}
        bytes_of = {row["key"]: row["sha256"] for row in rows}  # an image that was left out is like no other
        marks = [bytes_of.get(entry.key, entry.key.encode()) for entry in entries]
        shares = wanted_shares(entries, config)
        if config.fold:
            shares = shares._replace(minival=(1 - shares.val) / config.fold[1])
        yield from told(entries, names, marks, splits, shares)


def _lacking(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> Iterator[str]:
    found = list(missing(((row["label"], row["split"]) for row in rows), classes))
    for name, images, splits in found[:_SHOWN]:
        yield f"class '{name}' is not in {', '.join(splits)}: it has {images:,} image{'' if images == 1 else 's'}"
    if more := found[_SHOWN:]:
        names = ", ".join(f"'{name}'" for name, _, _ in more[:_SHOWN])
        yield f"{len(more):,} more classes are not in all splits: {names}{', …' if len(more) > _SHOWN else ''}"


def _across_splits(source: Source, plans: Sequence[ShardPlan], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Report equal images in several splits: a copy in the training split makes the scores on the others too good."""
    splits: dict[bytes, str] = {}
    both: dict[bytes, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if splits.setdefault(row["sha256"], row["split"]) != row["split"]:
            both[row["sha256"]] = []
    if not both:
        return
    for row in rows:
        if row["sha256"] in both:
            both[row["sha256"]].append(row)
    groups = [_splits_first(group) for group in list(both.values())[:_SHOWN]]
    wanted = {row["key"] for group in groups for row in group[:_SHOWN]}
    entries: dict[str, Entry] = {entry.key: entry for plan in plans for entry in plan.entries if entry.key in wanted}
    yield f"images that are in more than one split: {len(both):,}; this inflates the scores"
    for group in groups:
        places = " = ".join(f"{row['split']} {source.describe(entries[row['key']])}" for row in group[:_SHOWN])
        yield f"the same: {places}{f' = {len(group) - _SHOWN:,} more' if len(group) > _SHOWN else ''}"
    if len(both) > _SHOWN:
        yield f"and {len(both) - _SHOWN:,} more; effnet data report lists duplicates"


def _splits_first(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows with one of each split at the beginning: of a thousand copies the first few are shown."""
    first = {row["split"]: row for row in reversed(rows)}
    return [*first.values(), *(row for row in rows if first[row["split"]] is not row)]
