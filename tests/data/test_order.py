"""The order of an epoch may be asked for in any part; it is the one that sorting all samples gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from effnet.data import order
from effnet.data.augment.draws import mix, permutation
from effnet.data.order import Mixed
from effnet.data.shards.index import Index


def index_of(shards: NDArray[np.int32], names: int) -> Index:
    starts = np.flatnonzero(np.diff(shards, prepend=-1))
    runs = np.stack([shards[starts], starts, np.append(starts[1:], len(shards))], 1).astype(np.int64)
    return cast(Index, SimpleNamespace(shard_names=["a"] * names, runs=runs))


@pytest.mark.parametrize("number", range(20))
def test_any_part_is_as_all_at_once(number: int) -> None:
    draw = np.random.default_rng(number)
    names, samples, mixed = int(draw.integers(1, 30)), int(draw.integers(1, 400)), int(draw.integers(1, 8))
    shards = draw.integers(0, names, samples).astype(np.int32)  # some without samples: of another split
    shards = np.sort(shards) if number % 2 else shards
    places = np.empty(names, np.int64)
    places[permutation(names, 3, number, 1)] = np.arange(names)
    expected = np.lexsort((mix(3, number, np.arange(samples)), places[shards] // mixed))
    found = Mixed(index_of(shards, names), mixed, 3, number)
    for _ in range(20):
        start, stop = sorted(draw.integers(0, samples + 20, 2).tolist())
        assert found[start:stop].tolist() == expected[start:stop].tolist()
    assert found[:].tolist() == expected.tolist()


def test_only_the_groups_that_are_asked_for_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(seed: int, epoch: int, samples: NDArray[np.int64]) -> NDArray[np.uint64]:
        made.append(len(samples))
        return mix(seed, epoch, samples)

    monkeypatch.setattr(order, "mix", counted)
    found = Mixed(index_of(np.repeat(np.arange(100, dtype=np.int32), 50), 100), 4, 0, 0)
    assert not made
    for start in range(3000, 3150, 10):
        assert len(found[start : start + 10]) == 10
    assert made == [200]
