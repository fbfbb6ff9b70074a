"""A copy of images that can only be read from front to end, so that they can be read in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from effnet.data.sources.base import Entry
from effnet.data.sources.files import Files
from effnet.store import hold, publish_folder

_IMAGES, _ENTRIES, _WHERE = "images.bin", "entries.parquet", "where"


class Spooled(NamedTuple):
    """One image on its way into the copy."""

    key: str
    label: int
    split: str
    image: bytes
    where: str  # what a person would look for


class Spool:
    """All images of a source one after the other in one file, and where each lies in a table beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = Files([folder / _IMAGES])

    def fill(self, samples: Callable[[], Iterator[Spooled]]) -> Sequence[Entry]:
        """Return all entries; copy the images first, unless an earlier call copied them all."""
        import pyarrow.parquet as pq

        with hold(self._folder.with_name(f".{self._folder.name}.lock")):  # parts of a dataset may read one source
            if not (self._folder / _ENTRIES).is_file():
                with publish_folder(self._folder) as folder:
                    _copy(samples(), folder)
        table = pq.read_table(self._folder / _ENTRIES, columns=list(Entry._fields))
        return [Entry(*row) for row in zip(*(table[name].to_pylist() for name in Entry._fields), strict=True)]

    def mark(self, entry: Entry) -> bytes:
        """Return the mark of one image's bytes."""
        return self._files.mark(entry)

    def describe(self, entry: Entry) -> str:
        """Return where an image came from."""
        import pyarrow.parquet as pq

        keys = [("key", "=", entry.key)]
        return str(pq.read_table(self._folder / _ENTRIES, columns=[_WHERE], filters=keys)[_WHERE][0])

    def read(self, entry: Entry) -> bytes:
        """Return one image's bytes."""
        return self._files.read(0, entry.offset, entry.length)

    def close(self) -> None:
        """Close the copy."""
        self._files.close()


def _copy(samples: Iterator[Spooled], folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {name: [] for name in (*Entry._fields, _WHERE)}
    with (folder / _IMAGES).open("wb") as file:
        for sample in samples:
            place = (0, file.tell(), len(sample.image))
            row = (sample.key, sample.label, sample.split, *place, sample.where)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            file.write(sample.image)
    pq.write_table(pa.table(columns), folder / _ENTRIES)
