"""Files that several threads read by position, and their fingerprints."""

from __future__ import annotations

import glob
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effnet.data.sources.base import Entry, content_mark
from effnet.errors import ConfigError, DataError
from effnet.store import digest


class Files:
    """A list of files, opened on first use. Reads are positioned, so any number of threads may read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()

    def read(self, file: int, offset: int, length: int) -> bytes:
        """Return bytes of a file; raise DataError if they are not there."""
        try:
            data = os.pread(self.descriptor(file), length, offset)
        except OSError as error:
            raise DataError(f"{self.paths[file]}: {(error.strerror or str(error)).lower()}") from error
        if len(data) != length:
            raise DataError(f"{self.paths[file]}: ends at byte {offset + len(data)}, {length} bytes at {offset} wanted")
        return data

    def mark(self, entry: Entry) -> bytes:
        """Return the mark of the bytes of one of the files that are an entry's image."""
        return content_mark(lambda offset, length: self.read(entry.file, entry.offset + offset, length), entry.length)

    def close(self) -> None:
        """Close what is open."""
        with self._lock:
            for descriptor in self._open.values():
                os.close(descriptor)
            self._open.clear()

    def descriptor(self, file: int) -> int:
        """Return the open file's descriptor."""
        if file not in self._open:
            with self._lock:
                if file not in self._open:
                    self._open[file] = os.open(self.paths[file], os.O_RDONLY)
        return self._open[file]


def stamp(paths: Sequence[Path]) -> str:
    """Return a digest of the files' names below the folder that holds them all, sizes and times of change."""
    root = os.path.commonpath([path.parent for path in paths])
    rows: list[tuple[Any, ...]] = []
    for path in paths:
        status = existing(path).stat()
        rows.append((str(path.relative_to(root)), status.st_size, status.st_mtime_ns))
    return digest(rows)


def existing(path: Path) -> Path:
    """Return the path; raise ConfigError if nothing is there."""
    if not path.exists():
        raise ConfigError(f"{path}: no such file or directory; check data.source in the config")
    return path


def expand(pattern: Path, suffix: str) -> list[Path]:
    """Return the files of a pattern, sorted: a file, those in a folder that end in `suffix`, `*`, or `{000..099}`.

    Raises:
        ConfigError: if there are none, or a file of a braced pattern is missing.
    """
    import braceexpand

    text = str(pattern)
    if "{" in text:
        return [existing(Path(name)) for name in braceexpand.braceexpand(text)]
    if pattern.is_dir():
        inside = (path.relative_to(pattern).parts for path in pattern.rglob(f"*{suffix}"))
        found = [pattern.joinpath(*parts) for parts in inside if not any(part.startswith(".") for part in parts)]
        if not found:
            raise ConfigError(f"{pattern}: no {suffix} file in it; check data.source in the config")
    else:
        found = [Path(name) for name in glob.glob(text)]
    if not found:
        raise ConfigError(f"{pattern}: no such file or directory; check data.source in the config")
    return sorted(found)


def expand_splits(train: Path, val: Path | None, suffix: str) -> dict[str, list[Path]]:
    """Return the files of each split: of "train" and "val", or of "" if a share will be held out.

    Raises:
        ConfigError: as `expand` does, or if a file is of both splits.
    """
    if val is None:
        return {"": expand(train, suffix)}
    files = {"train": expand(train, suffix), "val": expand(val, suffix)}
    if both := sorted({path.resolve() for path in files["train"]} & {path.resolve() for path in files["val"]}):
        raise ConfigError(f"{both[0]}: both train: and val: name it; give val: files of its own")
    return files
