"""Parquet files as on the Hugging Face hub: encoded images and labels in columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from effnet.config import ParquetSource
from effnet.data.sources.base import Entry
from effnet.data.sources.files import expand, stamp
from effnet.data.sources.spool import Spool, Spooled
from effnet.errors import ConfigError, DataError
from effnet.store import digest

_BATCH = 256  # rows that are in memory at a time


class ParquetImages:
    """A column of encoded images (bytes, or a struct with a field `bytes`) and one of labels (integers or text)."""

    def __init__(self, config: ParquetSource, base: Path, scratch: Path) -> None:
        self._config = config
        self._files = {"train" if config.val else "": expand(base / config.train)}
        if config.val:
            self._files["val"] = expand(base / config.val)
        self._labels = {path: self._column(path) for paths in self._files.values() for path in paths}
        self.classes = self.class_names = self._classes()
        self._numbers = {name: number for number, name in enumerate(self.classes)}
        self._spool = Spool(scratch / f"parquet-{digest(dict(self.fingerprint()))[:16]}")

    def fingerprint(self) -> Mapping[str, Any]:
        """Return a digest of the files' names, sizes and times."""
        files = {split: stamp(paths, paths[0].parent) for split, paths in self._files.items()}
        return {"source": "parquet", "files": files, "columns": [self._config.image, self._config.label]}

    def entries(self) -> Sequence[Entry]:
        """Return every row's image, in the files' order; copies the images to the scratch folder."""
        return self._spool.fill(self._samples)

    def read(self, entry: Entry) -> bytes:
        """Return one image's bytes."""
        return self._spool.read(entry)

    def describe(self, entry: Entry) -> str:
        """Return the file and the row, as the key has them."""
        split, file, row = entry.key.rsplit("-", 2)
        paths = self._files[{"train": "train", "val": "val"}.get(split, "")]
        return f"{paths[int(file)]}: row {int(row)}"

    def close(self) -> None:
        """Close the copy."""
        self._spool.close()

    def _column(self, path: Path) -> pa.ChunkedArray:
        """Return a file's labels, checked."""
        try:
            schema = pq.read_schema(path)
            for role, name in (("image", self._config.image), ("label", self._config.label)):
                if name not in schema.names:
                    raise ConfigError(
                        f"{path}: no column '{name}' (it has {', '.join(schema.names)}); set data.source.{role}"
                    )
            labels = pq.read_table(path, columns=[self._config.label])[self._config.label]
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from error
        if not (pa.types.is_integer(labels.type) or pa.types.is_string(labels.type)):
            raise DataError(f"{path}: column '{self._config.label}' holds {labels.type}, not integers or text")
        if labels.null_count:
            raise DataError(f"{path}: row {labels.is_null().index(True).as_py()} has no label")
        return labels

    def _classes(self) -> tuple[str, ...]:
        """Return the names in the Hugging Face metadata, else what the labels say."""
        first = next(iter(self._labels))
        metadata = pq.read_schema(first).metadata or {}
        try:
            features = json.loads(metadata[b"huggingface"])["info"]["features"]
            named = tuple(map(str, features[self._config.label]["names"]))
        except (KeyError, TypeError, ValueError):
            named = ()
        values = {value for labels in self._labels.values() for value in labels.unique().to_pylist()}
        if all(isinstance(value, int) for value in values):
            low, high = min(values), max(values)
            if low < 0 or (named and high >= len(named)):
                raise DataError(f"{first}: labels from {low} to {high}, but classes from 0 to {len(named) - 1}")
            return named or tuple(map(str, range(high + 1)))
        return tuple(sorted(map(str, values)))

    def _samples(self) -> Iterator[Spooled]:
        for split, paths in self._files.items():
            for number, path in enumerate(paths):
                labels, row = self._labels[path].to_pylist(), 0
                for batch in pq.ParquetFile(path).iter_batches(_BATCH, columns=[self._config.image]):
                    for value in batch.column(0).to_pylist():
                        image = value.get("bytes") if isinstance(value, dict) else value
                        if not isinstance(image, bytes):
                            raise DataError(f"{path}: row {row}: column '{self._config.image}' holds no bytes")
                        label = labels[row]
                        label = label if isinstance(label, int) else self._numbers[label]
                        yield Spooled(f"{split or 'image'}-{number:05d}-{row:08d}", label, split, image)
                        row += 1
