"""The order of an epoch's samples: a pure function of seed and epoch."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from effnet.data.augment.draws import mix, permutation
from effnet.data.shards.index import Index

_KEPT = 4  # groups: more than the samples that are looked ahead at lie in


class Order(Protocol):
    """Positions of samples in a split's index, in the order in which an epoch has them."""

    def __getitem__(self, wanted: slice, /) -> NDArray[np.int64]:
        """Return those at some places of the epoch."""
        ...


class Mixed:
    """An order in which the samples of some shards at a time are mixed, in an order of shards that is drawn anew.

    Only the groups that are asked for are made, so that an epoch may begin anywhere at once, whatever the dataset's
    size.

    Args:
        index: of the split.
        shards: that are mixed at a time.
        seed, epoch: what the order is drawn by.
    """

    def __init__(self, index: Index, shards: int, seed: int, epoch: int) -> None:
        places = np.empty(len(index.shard_names), np.int64)
        places[permutation(len(places), seed, epoch, 1)] = np.arange(len(places))
        groups = places[index.runs[:, 0]] // shards
        by_group = np.argsort(groups, kind="stable")
        self._runs = index.runs[by_group]
        self._firsts = np.flatnonzero(np.diff(groups[by_group], prepend=-1))  # of each group's runs
        sizes = np.add.reduceat(self._runs[:, 2] - self._runs[:, 1], self._firsts)
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._group = lru_cache(_KEPT)(lambda group: self._made(seed, epoch, group))

    def __getitem__(self, wanted: slice) -> NDArray[np.int64]:
        """Return the samples at some places of the epoch, which have to follow each other."""
        start, stop, _ = wanted.indices(int(self._starts[-1]))
        found = [np.empty(0, np.int64)]
        for group in range(int(np.searchsorted(self._starts, start, "right")) - 1, len(self._firsts)):
            first = int(self._starts[group])
            if first >= stop:
                break
            found.append(self._group(group)[max(start - first, 0) : stop - first])
        return np.concatenate(found)

    def _made(self, seed: int, epoch: int, group: int) -> NDArray[np.int64]:
        last = self._firsts[group + 1] if group + 1 < len(self._firsts) else len(self._runs)
        runs = self._runs[self._firsts[group] : last]
        samples = np.concatenate([np.arange(start, end) for _, start, end in runs.tolist()])
        return samples[np.argsort(mix(seed, epoch, samples), kind="stable")]
