"""The index of a dataset: where each sample lies, as one Parquet table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from effnet.errors import DataError
from effnet.machine import raise_if_broken

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
    try:
        table = pq.read_table(path, schema=SCHEMA)
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing; shard the dataset again") from error
    except (OSError, pa.ArrowException) as error:
        raise_if_broken(error)
        raise DataError(f"{path}: not a readable index ({str(error).splitlines()[0]})") from error
    return table


@dataclass(frozen=True, eq=False)
class Index:
    """One split's samples as columns, in the order in which they lie in the shards."""

    shard_names: list[str]
    shards: NDArray[np.int32]  # positions in shard_names
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    labels: NDArray[np.int64]
    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    sha256: NDArray[np.uint8]  # (n, 32)
    keys: pa.ChunkedArray  # of strings; stays in Arrow's memory, as millions of keys would be heavy in Python's

    def __len__(self) -> int:
        return len(self.offsets)

    @classmethod
    def read(cls, path: Path, split: str) -> Index:
        """Read the samples of one split: "train", "minival" or "val"."""
        table = read_table(path)
        table = table.filter(pc.equal(table["split"].cast(pa.string()), split))
        shards = table["shard"].unify_dictionaries().combine_chunks()
        shards = shards.chunk(0) if isinstance(shards, pa.ChunkedArray) else shards
        hashes = b"".join(table["sha256"].to_pylist())
        return cls(
            shard_names=shards.dictionary.to_pylist(),
            shards=shards.indices.to_numpy(zero_copy_only=False).astype(np.int32),
            offsets=table["offset"].to_numpy(),
            lengths=table["length"].to_numpy(),
            labels=table["label"].to_numpy().astype(np.int64),
            widths=table["width"].to_numpy(),
            heights=table["height"].to_numpy(),
            sha256=np.frombuffer(hashes, np.uint8).reshape(-1, 32),
            keys=table["key"],
        )

    def take(self, samples: Sequence[int] | NDArray[np.int64]) -> Index:
        """Return the index of some samples alone, in the order given."""
        chosen = np.asarray(samples, np.int64)
        columns = ("shards", "offsets", "lengths", "labels", "widths", "heights", "sha256")
        rows = {name: getattr(self, name)[chosen] for name in columns}
        return dataclasses.replace(self, **rows, keys=self.keys.take(pa.array(chosen)))

    def describe(self, sample: int) -> str:
        """Return the shard and the key of a sample, for messages."""
        return f"{self.shard_names[self.shards[sample]]}: image '{self.keys[sample].as_py()}'"
