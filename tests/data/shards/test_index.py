"""An index is read in memory or mapped, with the same content, whatever its table is cut into."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from effnet.data.shards import index
from effnet.data.shards.index import SCHEMA, Index
from effnet.errors import DataError

SPLITS = ("train", "minival", "val")


def write_index(path: Path, rows: int, row_group: int) -> list[dict[str, object]]:
    draw = np.random.default_rng(rows)
    written = []
    for row in range(rows):
        split = SPLITS[3 * row // rows]
        numbers = {name: int(draw.integers(1, 1000)) for name in ("offset", "length", "label", "width", "height")}
        shard = f"{split}-{7 * row // rows}.tar"
        written.append({"key": f"é{row}", "split": split, "shard": shard, **numbers, "sha256": draw.bytes(32)})
    columns = [pa.array([row[field.name] for row in written], field.type) for field in SCHEMA]
    pq.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), path, row_group_size=row_group)
    return written


def content(found: Index) -> list[tuple[object, ...]]:
    shards = [found.shard_names[shard] for shard in found.shards]
    numbers = (found.offsets, found.lengths, found.labels, found.widths, found.heights)
    hashes = [row.tobytes() for row in found.sha256]
    return list(zip(found.keys.to_pylist(), shards, *(each.tolist() for each in numbers), hashes, strict=True))


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(("rows", "row_group"), [(3, 10), (100, 9), (1000, 1000)])
def test_what_was_written_is_read(
    rows: int, row_group: int, mapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "MAPPED_ROWS", 0 if mapped else rows + 1)
    monkeypatch.setattr(index, "_BATCH", 64)
    written = write_index(tmp_path / "index.parquet", rows, row_group)
    names = ("key", "shard", "offset", "length", "label", "width", "height", "sha256")
    for split in SPLITS:
        for _ in range(2):  # written out, then found
            found = Index.read(tmp_path / "index.parquet", split)
            assert content(found) == [tuple(row[name] for name in names) for row in written if row["split"] == split]
            assert found.shard_names == list(dict.fromkeys(row["shard"] for row in written))
            assert [sample for _, start, end in found.runs for sample in range(start, end)] == list(range(len(found)))
            assert all((found.shards[start:end] == shard).all() for shard, start, end in found.runs)
    assert (tmp_path / ".index-val").exists() == mapped


def test_arrays_of_another_table_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MAPPED_ROWS", 0)
    path = tmp_path / "index.parquet"
    write_index(path, 100, 50)
    first = content(Index.read(path, "train"))
    write_index(path, 101, 50)
    assert content(Index.read(path, "train")) != first
    (tmp_path / ".index-train" / "labels").write_bytes(b"cut")  # short, by another program
    assert len(Index.read(path, "train")) == 34


def test_a_folder_that_cannot_be_written_to_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MAPPED_ROWS", 0)
    write_index(tmp_path / "index.parquet", 30, 30)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(index, "publish_folder", refuse)
    assert len(Index.read(tmp_path / "index.parquet", "val")) == 10


@pytest.mark.parametrize("mapped", [False, True])
def test_a_table_that_cannot_be_read_is_told(mapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MAPPED_ROWS", 0 if mapped else 1000)
    path = tmp_path / "index.parquet"
    with pytest.raises(DataError, match="missing; shard the dataset again"):
        Index.read(path, "train")
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="not a readable index"):
        Index.read(path, "train")
    pq.write_table(pa.table({"key": ["a"], "split": ["train"]}), path)
    with pytest.raises(DataError, match=r"not a readable index \(its columns are key, split, or of other types\)"):
        Index.read(path, "train")
