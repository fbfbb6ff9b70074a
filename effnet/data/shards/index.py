"""The index of a dataset: where each sample lies, as one Parquet table.

A split that is large is written out as plain arrays once, beside the table: whoever opens it from then on maps them, in
milliseconds, and all processes of a machine share the memory.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from effnet.errors import DataError
from effnet.machine import raise_if_broken
from effnet.store import publish_folder

MAPPED_ROWS = 200_000  # of a split, from which on it is mapped
_BATCH = 1 << 17  # rows read at a time
_NOTE = "arrays.json"
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.dictionary(pa.int8(), pa.string())),
        ("shard", pa.dictionary(pa.int32(), pa.string())),
        ("offset", pa.int64()),  # first byte of the encoded image in the shard
        ("length", pa.int64()),  # bytes of the encoded image
        ("label", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.binary(32)),  # of the encoded image
    ]
)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of SCHEMA's columns as Parquet."""
    columns = [[row[name] for row in rows] for name in SCHEMA.names]
    pq.write_table(
        pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA),
        path,
        compression="zstd",
    )


def read_table(path: Path) -> pa.Table:
    """Read an index; raise DataError if it is missing, broken or has other columns."""
    with _told(path):
        return pq.read_table(path, schema=SCHEMA)


class Run(NamedTuple):
    """Samples that follow each other in one shard."""

    shard: int  # position in shard_names
    start: int  # position of the first one in the split
    end: int  # after the last one


@dataclass(frozen=True, eq=False)
class Index:
    """One split's samples as columns, in the order in which they lie in the shards."""

    shard_names: list[str]  # of all splits
    runs: NDArray[np.int64]  # of Run
    shards: NDArray[np.int32]  # positions in shard_names
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    labels: NDArray[np.int64]
    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    sha256: NDArray[np.uint8]  # (n, 32)
    keys: pa.LargeStringArray  # stays in Arrow's memory, as millions of keys would be heavy in Python's

    def __len__(self) -> int:
        return len(self.offsets)

    @classmethod
    def read(cls, path: Path, split: str) -> Index:
        """Read the samples of one split: "train", "minival" or "val".

        Raises:
            DataError: if the index is missing, broken or has other columns.
        """
        kept = path.parent / f".{path.stem}-{split}"
        with _told(path):
            stamp = [path.stat().st_size, path.stat().st_mtime_ns]
            with pq.ParquetFile(path) as file:
                rows, found = file.metadata.num_rows, file.schema_arrow
            if not found.equals(SCHEMA):
                raise pa.ArrowInvalid(f"its columns are {', '.join(found.names)}, or of other types")
        if rows < MAPPED_ROWS:
            return _in_memory(path, split)
        with suppress(OSError, ValueError, KeyError):  # not written out, or of another table
            return _mapped(kept, stamp)
        with suppress(OSError), publish_folder(kept, replace=True) as folder:
            _write_out(folder, path, split, stamp)
        with suppress(OSError, ValueError, KeyError):
            return _mapped(kept, stamp)
        return _in_memory(path, split)  # the dataset's folder cannot be written to

    def take(self, samples: Sequence[int] | NDArray[np.int64]) -> Index:
        """Return the index of some samples alone, in the order given."""
        chosen = np.asarray(samples, np.int64)
        columns = ("shards", "offsets", "lengths", "labels", "widths", "heights", "sha256")
        rows = {name: getattr(self, name)[chosen] for name in columns}
        runs = np.stack([rows["shards"], np.arange(len(chosen)), np.arange(1, len(chosen) + 1)], axis=1)
        return dataclasses.replace(self, **rows, runs=runs, keys=self.keys.take(pa.array(chosen)))

    def describe(self, sample: int) -> str:
        """Return the shard and the key of a sample, for messages."""
        return f"{self.shard_names[self.shards[sample]]}: image '{self.keys[sample].as_py()}'"


# What is kept of a split, one after the other in a file each, and the shape of an entry.
_COLUMNS: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "runs": (np.int64, (3,)),
    "shards": (np.int32, ()),
    "offsets": (np.int64, ()),
    "lengths": (np.int64, ()),
    "labels": (np.int64, ()),
    "widths": (np.int32, ()),
    "heights": (np.int32, ()),
    "sha256": (np.uint8, (32,)),
    "key_ends": (np.int64, ()),  # the first is 0
    "key_bytes": (np.uint8, ()),
}


def _in_memory(path: Path, split: str) -> Index:
    shard_names: list[str] = []
    parts = list(_parts(path, split, shard_names))
    return _index(shard_names, {name: np.concatenate([part[name] for part in parts]) for name in _COLUMNS})


def _write_out(folder: Path, path: Path, split: str, stamp: list[int]) -> None:
    shard_names: list[str] = []
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("wb")) for name in _COLUMNS}
        for part in _parts(path, split, shard_names):
            for name, file in files.items():
                part[name].tofile(file)
    (folder / _NOTE).write_text(json.dumps({"of": stamp, "shard_names": shard_names}))


def _mapped(folder: Path, stamp: list[int]) -> Index:
    """Return what `_write_out` wrote; raise ValueError if that was of another table."""
    note = json.loads((folder / _NOTE).read_text())
    if note["of"] != stamp:
        raise ValueError(folder)
    columns = {}
    for name, (kind, shape) in _COLUMNS.items():
        there = (folder / name).stat().st_size > 0  # no file without bytes can be mapped
        flat = np.memmap(folder / name, kind, "r").view(np.ndarray) if there else np.empty(0, kind)
        columns[name] = flat.reshape(-1, *shape)
    return _index(note["shard_names"], columns)


def _index(shard_names: list[str], columns: dict[str, NDArray[Any]]) -> Index:
    ends, characters = columns.pop("key_ends"), columns.pop("key_bytes")
    keys = pa.LargeStringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(characters))
    return Index(shard_names=shard_names, **columns, keys=keys)


def _parts(path: Path, split: str, shard_names: list[str]) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield a split's columns bit by bit; the names of shards are added in the order in which they come."""
    places: dict[str, int] = {}
    samples = characters = 0
    yield {name: np.zeros((int(name == "key_ends"), *shape), kind) for name, (kind, shape) in _COLUMNS.items()}
    # Without buffering ahead, which would keep all that was read until the end.
    with _told(path), pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=_BATCH):
            for name in batch["shard"].dictionary.to_pylist():
                if name not in places:
                    places[name] = len(places)
                    shard_names.append(name)
            part = _columns(batch.filter(pc.equal(batch["split"].cast(pa.string()), split)), places)
            part["runs"] += [0, samples, samples]
            part["key_ends"] += characters
            samples, characters = samples + len(part["shards"]), characters + len(part["key_bytes"])
            yield part


def _columns(batch: pa.RecordBatch, places: dict[str, int]) -> dict[str, NDArray[Any]]:
    """Return a batch's columns, as if it were all."""
    names = np.array([places[name] for name in batch["shard"].dictionary.to_pylist()] or [0], np.int32)
    shards = names[batch["shard"].indices.to_numpy(zero_copy_only=False).astype(np.int64)]
    starts = np.flatnonzero(np.diff(shards, prepend=-1))
    runs = np.stack([shards[starts], starts, np.append(starts[1:], len(shards))[: len(starts)]], axis=1)
    numbers = {"offsets": "offset", "lengths": "length", "labels": "label", "widths": "width", "heights": "height"}
    keys = batch["key"].cast(pa.large_string())
    _, ends, characters = (np.frombuffer(buffer or b"", np.uint8) for buffer in keys.buffers())
    bounds = ends.view(np.int64)[keys.offset : keys.offset + len(keys) + 1]
    first, last = (int(bounds[0]), int(bounds[-1])) if len(bounds) else (0, 0)
    _, hashes = batch["sha256"].buffers()
    start = batch["sha256"].offset
    return {ours: batch[name].to_numpy().astype(_COLUMNS[ours][0]) for ours, name in numbers.items()} | {
        "runs": runs.astype(np.int64),
        "shards": shards,
        "sha256": np.frombuffer(hashes or b"", np.uint8).reshape(-1, 32)[start : start + len(batch)],
        "key_ends": bounds[1:] - first,
        "key_bytes": characters[first:last],
    }


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say what is wrong with an index."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing; shard the dataset again") from error
    except (OSError, pa.ArrowException) as error:
        raise_if_broken(error)
        raise DataError(f"{path}: not a readable index ({str(error).splitlines()[0]})") from error
