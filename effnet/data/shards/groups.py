"""Which split a group of images goes into (`data.group`): all of it into one.

A group's name gives a number between 0 and 1, as an image's bytes do without groups, and the shares are thresholds on
it: groups that are added move no others. But a few groups, or uneven ones, would miss the shares by far. So where a
class's images in val or minival differ from the share by more than a quarter of it, that class's groups are dealt out
anew in the order of their numbers: each goes where it brings the share closer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from effnet.data.sources import Entry

TOLERANCE = 0.25  # of a share; closer ones are left as the numbers say
_SHOWN = 3  # groups that a remark names
_EVERYWHERE = -1  # stands for a class in the list of those whose groups have images of several classes


class Shares(NamedTuple):
    """Wanted shares of a class's images; the rest is train. A source's own val leaves 0 for val."""

    val: float
    minival: float


def joined(names: Sequence[str], marks: Sequence[bytes]) -> list[str]:
    """Return each image's group, where groups that share an image of the same bytes are one, by its first name.

    Args:
        names: each image's group.
        marks: each image's mark, which images of the same bytes share.
    """
    parent = {name: name for name in names}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    first: dict[bytes, str] = {}
    for name, mark in zip(names, marks, strict=True):
        one, other = sorted((root(first.setdefault(mark, name)), root(name)))
        parent[other] = one
    return [root(name) for name in names]


def split_groups(
    labels: Sequence[int], names: Sequence[str], draws: Mapping[str, float], shares: Shares
) -> dict[str, str]:
    """Return the split of every group: "train", "minival" or "val".

    Classes with enough groups are in all splits: three, or two if val has no share.

    Args:
        labels: each image's.
        names: each image's group.
        draws: each group's number, in [0, 1).
        shares: of each class's images.
    """
    sizes = Counter(names)
    classes: dict[str, set[int]] = defaultdict(set)
    for label, name in zip(labels, names, strict=True):
        classes[name].add(label)
    members: dict[int, list[str]] = defaultdict(list)
    for name in sorted(sizes, key=lambda name: (draws[name], name)):
        members[next(iter(classes[name])) if len(classes[name]) == 1 else _EVERYWHERE].append(name)
    splits = ("train", "val", "minival") if shares.val else ("train", "minival")
    chosen: dict[str, str] = {}
    covered: dict[int, set[str]] = defaultdict(set)
    for label in sorted(members):  # groups of several classes come first: their classes have less to ask for
        found = _deal(members[label], sizes, draws, shares, [each for each in splits if each not in covered[label]])
        for name, split in found.items():
            for each in classes[name]:
                covered[each].add(split)
        chosen |= found
    return chosen


def _deal(
    names: Sequence[str], sizes: Mapping[str, int], draws: Mapping[str, float], shares: Shares, lacking: Sequence[str]
) -> dict[str, str]:
    """Return the split of each group of a class, given in the order of their numbers."""
    images = sum(sizes[name] for name in names)
    numbers = {name: draws[name] for name in names}
    natural = {
        "val": [name for name in names if numbers[name] < shares.val],
        "minival": [name for name in names if shares.val <= numbers[name] < shares.val + shares.minival],
    }
    wanted = {"val": shares.val * images, "minival": shares.minival * images}
    if all(abs(sum(sizes[n] for n in natural[s]) - wanted[s]) <= TOLERANCE * wanted[s] for s in wanted):
        found = natural
    else:
        found, left = {}, list(names)
        for split in wanted:
            found[split] = _fill(left, sizes, wanted[split])
            left = [name for name in left if name not in set(found[split])]
    return _with_all(names, sizes, found, lacking)


def _fill(names: Sequence[str], sizes: Mapping[str, int], wanted: float) -> list[str]:
    """Return groups that come to about `wanted` images: each, in order, that brings their number closer to it."""
    chosen, filled = [], 0
    for name in names:
        if sizes[name] < 2 * (wanted - filled):
            chosen.append(name)
            filled += sizes[name]
    return chosen


def _with_all(
    names: Sequence[str], sizes: Mapping[str, int], found: Mapping[str, Sequence[str]], lacking: Sequence[str]
) -> dict[str, str]:
    """Return the splits of a class's groups; of those `lacking` none is empty while an earlier one can spare a group.

    The smallest group moves. If there are too few groups for all, train comes first, then val.
    """
    splits = dict.fromkeys(names, "train") | {name: split for split, some in found.items() for name in some}
    for place, split in enumerate(lacking):
        counts = Counter(splits.values())
        spare = [name for name in names if counts[splits[name]] > (splits[name] in lacking[:place])]
        if not counts[split] and spare:
            splits[min(spare, key=lambda name: sizes[name])] = split
    return splits


def told(
    entries: Sequence[Entry], names: Sequence[str], marks: Sequence[bytes], splits: Mapping[str, str], shares: Shares
) -> Iterator[str]:
    """Yield a line each: the groups, how close the shares were met; groups that are joined, too large, or in val too.

    Args:
        entries: all images of the source.
        names: each image's group.
        marks: each image's mark, which images of the same bytes share.
        splits: of each image, by key.
        shares: that were wanted.
    """
    sizes = Counter(names)
    by_split: dict[str, Counter[str]] = {split: Counter() for split in ("train", "minival", "val")}
    for entry, name in zip(entries, names, strict=True):
        by_split[splits[entry.key]][name] += 1
    free = [place for place, entry in enumerate(entries) if entry.split != "val"]
    counts = ", ".join(f"{split} {len(found):,}" for split, found in by_split.items())
    met = [
        f"{split} is {by_split[split].total() / len(free):.1%} of the images, {share:.0%} wanted"
        for split, share in (("minival", shares.minival), ("val", shares.val))
        if share
    ]
    range_of = f"{min(sizes.values()):,} to {max(sizes.values()):,} images"
    yield f"{len(sizes):,} groups of {range_of}: {counts}; {', '.join(met)}"
    mine = [names[place] for place in free]
    whole = joined(mine, [marks[place] for place in free])
    if apart := len({*mine}) - len({*whole}):
        yield f"{apart:,} groups share images of the same bytes with another, and are in the same split as that one"
    yield from _too_large(whole, min(share for share in shares if share))
    yield from _in_both(by_split)


def _too_large(names: Sequence[str], share: float) -> Iterator[str]:
    limit = share * len(names)
    large = [f"'{name}' ({number:,})" for name, number in Counter(names).most_common() if number > limit]
    if large:
        images = f"{share:.0%} ({limit:,.0f} of {len(names):,} images)"
        yield f"groups larger than a share of {images}: {_some(large)}; shares may be missed by half of such a group"


def _in_both(by_split: Mapping[str, Counter[str]]) -> Iterator[str]:
    """Report groups of a source's own val that training has images of."""
    learnt = by_split["train"].keys() | by_split["minival"].keys()
    both = sorted(by_split["val"].keys() & learnt)
    if both:
        images, shown = sum(by_split["val"][name] for name in both), _some([f"'{name}'" for name in both])
        yield (
            f"groups that are in train or minival and in val: {len(both):,}, with {images:,} of the "
            f"{by_split['val'].total():,} images of val ({shown}); this inflates the scores"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")
