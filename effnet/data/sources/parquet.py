"""Parquet files of encoded images and labels, as on the Hugging Face hub, and as pandas and polars write them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from effnet.config import ParquetSource
from effnet.data.sources.base import Entry, Remarks
from effnet.data.sources.files import expand_splits, stamp
from effnet.data.sources.groups import check_named
from effnet.data.sources.labels import classes_of
from effnet.data.sources.spool import Spool, Spooled
from effnet.errors import ConfigError, DataError
from effnet.store import digest

_BATCH = 256  # rows that are in memory at a time


class ParquetImages:
    """A column of encoded images (bytes, or a struct with a field `bytes`) and one of labels (integers or text)."""

    def __init__(self, config: ParquetSource, base: Path, scratch: Path) -> None:
        self._config = config
        self._files = expand_splits(base / config.train, base / config.val if config.val else None, ".parquet")
        self._labels = {path: self._column(path) for paths in self._files.values() for path in paths}
        for split, paths in self._files.items():
            if not any(len(self._labels[path]) for path in paths):
                raise DataError(
                    f"{paths[0]}: no rows in it{', nor in the others' if len(paths) > 1 else ''}{_of(split)}"
                )
        found = {value for labels in self._labels.values() for value in labels.unique().to_pylist()}
        first = next(iter(self._labels))
        self._found = classes_of(found, str(first), _names(first, config.label))
        self.classes = self.class_names = self._found.names
        self._spool = Spool(scratch / f"parquet-{digest(dict(self.fingerprint()))[:16]}")

    def fingerprint(self) -> Mapping[str, Any]:
        """Return a digest of the files' names, sizes and times."""
        files = {split: stamp(paths) for split, paths in self._files.items()}
        return {"source": "parquet", "files": files, "columns": [self._config.image, self._config.label]}

    def entries(self) -> Sequence[Entry]:
        """Return every row's image, in the files' order; copies the images to the scratch folder."""
        return self._spool.fill(self._samples)

    def remarks(self) -> Remarks:
        """Return how the labels were understood."""
        return Remarks(notes=self._found.notes)

    def mark(self, entry: Entry) -> bytes:
        """Return the mark of one image's bytes."""
        return self._spool.mark(entry)

    def read(self, entry: Entry) -> bytes:
        """Return one image's bytes."""
        return self._spool.read(entry)

    def groups(self, rule: str) -> list[str]:
        """Return the values of the column of that name, as text."""
        names, places = list[str | None](), list[str]()
        for paths in self._files.values():
            for path in paths:
                found = _texts(path, rule)
                names += found
                places += [f"{path}: row {row}" for row in range(len(found))]
        check_named(names, places, f"column '{rule}' is empty")
        return [name or "" for name in names]

    def describe(self, entry: Entry) -> str:
        """Return the file and the row."""
        return self._spool.describe(entry)

    def close(self) -> None:
        """Close the copy."""
        self._spool.close()

    def _column(self, path: Path) -> pa.ChunkedArray:
        """Return a file's labels as integers or text, checked."""
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
        if labels.null_count:
            others = f", nor have {labels.null_count - 1:,} others" if labels.null_count > 1 else ""
            raise DataError(f"{path}: row {pc.index(labels.is_null(), True).as_py()} has no label{others}")
        return _plain(labels, f"{path}: column '{self._config.label}'")

    def _samples(self) -> Iterator[Spooled]:
        for split, paths in self._files.items():
            for number, path in enumerate(paths):
                labels = self._labels[path].to_pylist()
                for row, image in enumerate(self._images(path)):
                    key = f"{split or 'image'}-{number:05d}-{row:08d}"
                    yield Spooled(key, self._found.numbers[labels[row]], split, image, f"{path}: row {row}")

    def _images(self, path: Path) -> Iterator[bytes]:
        """Yield the images of a file; DataError names the file if a part of it is damaged."""
        row = 0
        try:
            for batch in pq.ParquetFile(path).iter_batches(_BATCH, columns=[self._config.image]):
                for value in batch.column(0).to_pylist():
                    yield _bytes(value, f"{path}: row {row}: column '{self._config.image}'")
                    row += 1
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{path}: damaged after row {row} ({str(error).splitlines()[0]}); get this file again"
            ) from error


def _texts(path: Path, column: str) -> list[str | None]:
    """Return a column's values as text."""
    try:
        names = pq.read_schema(path).names
        if column not in names:
            raise ConfigError(f"{path}: no column '{column}' (it has {', '.join(names)}); set data.group")
        return pq.read_table(path, columns=[column])[column].cast(pa.large_string()).to_pylist()  # type: ignore[no-any-return]
    except pa.ArrowNotImplementedError:
        raise ConfigError(f"{path}: column '{column}' holds neither text nor numbers; set data.group") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: column '{column}' cannot be read ({str(error).splitlines()[0]})") from error


def _of(split: str) -> str:
    return f" (data.source.{split})" if split else ""


def _plain(labels: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Return labels as integers or text, whatever pandas, polars or datasets stored them as."""
    kind = labels.type
    if pa.types.is_dictionary(kind):
        labels, kind = labels.cast(kind.value_type), kind.value_type
    if any(is_text(kind) for is_text in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
        try:
            labels.validate(full=True)
        except pa.ArrowInvalid:
            raise DataError(f"{where} holds text that is not UTF-8") from None
        return labels.cast(pa.large_string())
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return labels
    if pa.types.is_boolean(kind):
        return labels.cast(pa.string())
    if pa.types.is_floating(kind):  # what pandas turned integers into if a value was missing
        try:
            return labels.cast(pa.int64())
        except pa.ArrowInvalid:
            raise DataError(f"{where} holds numbers with fractions, not integers or text") from None
    raise DataError(f"{where} holds {kind}, not integers or text")


def _names(path: Path, label: str) -> tuple[str, ...]:
    """Return the names in the Hugging Face metadata, if there are any."""
    try:
        features = json.loads((pq.read_schema(path).metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[label]["names"]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()


def _bytes(value: Any, where: str) -> bytes:
    """Return an image's bytes from a column's value."""
    image = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(image, bytes):
        return image
    if isinstance(value, dict) and value.get("path"):
        raise DataError(f"{where} holds the path '{value['path']}', not the image's bytes; write them into the file")
    raise DataError(f"{where} holds no bytes")
