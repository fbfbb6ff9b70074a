"""Files that several threads read by position, and their fingerprints."""

from __future__ import annotations

import glob
import itertools
import math
import os
import re
import resource
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet.data.sources.base import Entry, content_mark
from effnet.errors import ConfigError, DataError
from effnet.files import reason
from effnet.machine import TOO_MANY_OPEN, raise_if_broken
from effnet.store import digest

MOST_OPEN = 256  # files of one list; a training reads two lists, and a process may usually open 1,024
MAX_FILES = 100_000  # that a pattern with braces may name
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?\d+)?\}")


class Files:
    """A list of files, opened on first use. Reads are positioned, so any number of threads may read.

    A limited number stays open: those that were read last. ImageNet has 1,025 shards of 1,250 images, and a process may
    usually open 1,024 files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(1, MOST_OPEN if soft == resource.RLIM_INFINITY else min(MOST_OPEN, soft // 4))
        self._open: OrderedDict[int, OpenFile] = OrderedDict()  # the one that was read last at the end
        self._lock = threading.Lock()

    def read(self, file: int, offset: int, length: int) -> bytes:
        """Return bytes of a file; raise DataError if they are not there, MachineError if the machine is at fault."""
        try:
            with self.opened(file) as descriptor:
                data = os.pread(descriptor, length, offset)
        except OSError as error:
            raise_if_broken(error)
            raise DataError(f"{self.paths[file]}: {reason(error)}") from error
        if len(data) != length:
            raise DataError(
                f"{self.paths[file]}: ends at byte {offset + len(data)}; expected {length} bytes at {offset}"
            )
        return data

    def mark(self, entry: Entry) -> bytes:
        """Return the mark of an entry's image, from its bytes in one of the files."""
        return content_mark(lambda offset, length: self.read(entry.file, entry.offset + offset, length), entry.length)

    def close(self) -> None:
        """Close what is open."""
        with self._lock:
            for opened in self._open.values():
                os.close(opened.descriptor)
            self._open.clear()

    @contextmanager
    def opened(self, file: int) -> Iterator[int]:
        """Yield the file's descriptor, which stays open during the block; raise OSError if it cannot be opened."""
        opened = self._take(file)
        try:
            yield opened.descriptor
        finally:
            with self._lock:
                opened.users -= 1

    def _take(self, file: int) -> OpenFile:
        with self._lock:
            opened = self._open.get(file)
            if opened is None:
                self._close_idle(self._most - 1)
                opened = self._open[file] = OpenFile(self._open_file(file))
            self._open.move_to_end(file)
            opened.users += 1
            return opened

    def _open_file(self, file: int) -> int:
        try:
            return os.open(self.paths[file], os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in TOO_MANY_OPEN or not self._close_idle(0):
                raise
        return os.open(self.paths[file], os.O_RDONLY | os.O_CLOEXEC)  # others of the process need many, too

    def _close_idle(self, most: int) -> int:
        """Close files that nobody reads, the ones read longest ago first, down to `most` open; return how many."""
        idle = (file for file, opened in self._open.items() if not opened.users)
        closed = list(itertools.islice(idle, max(0, len(self._open) - most)))
        for file in closed:
            os.close(self._open.pop(file).descriptor)
        return len(closed)

    def _close_one(self, file: int) -> None:
        """Close a file that nobody reads, if it is open."""
        with self._lock:
            if file in self._open and not self._open[file].users:
                os.close(self._open.pop(file).descriptor)


@dataclass
class OpenFile:
    """An open file, and how many threads read it at this moment."""

    descriptor: int
    users: int = 0


def stamp(paths: Sequence[Path]) -> str:
    """Return a digest of the files' names below the folder that holds them all, sizes and modification times."""
    root = os.path.commonpath([path.parent for path in paths])
    rows: list[tuple[Any, ...]] = []
    for path in paths:
        status = existing(path).stat()
        rows.append((str(path.relative_to(root)), status.st_size, status.st_mtime_ns))
    return digest(rows)


def existing(path: Path) -> Path:
    """Return the path; raise ConfigError if nothing is there, or its name is not UTF-8."""
    try:
        os.stat(path)
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise ConfigError(f"{shown}: its name is not UTF-8; rename it") from error
    except FileNotFoundError as error:
        raise ConfigError(f"{str(path)[:200]}: no such file or directory; check data.source in the config") from error
    except (OSError, ValueError) as error:
        told = reason(error) if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{str(path)[:200]}: {told}; check data.source in the config") from error
    return path


def existing_file(path: Path) -> Path:
    """Return the path of a regular file; raise ConfigError for anything else: reading a pipe would wait for ever."""
    if not stat.S_ISREG(existing(path).stat().st_mode):
        raise ConfigError(f"{path}: a folder, a pipe or a device, where a file is expected")
    return path


def existing_folder(path: Path) -> Path:
    """Return the path of a folder; raise ConfigError for anything else."""
    if not existing(path).is_dir():
        raise ConfigError(f"{path}: not a folder; check data.source in the config")
    return path


def _braced(text: str) -> Iterator[Path]:
    """Yield the names that braces stand for; raise ConfigError if they are too many, or do not close."""
    import braceexpand

    too_many = f"{text[:200]}: its braces name more than {MAX_FILES:,} files; check data.source in the config"
    if _most(text) > MAX_FILES:
        raise ConfigError(too_many)
    try:
        for number, name in enumerate(braceexpand.braceexpand(text)):
            if number == MAX_FILES:
                raise ConfigError(too_many)
            yield Path(name)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{text[:200]}: its braces do not close, or hold no range; write {{000..099}}") from error


def _most(text: str) -> float:
    """Return how many names the ranges in braces come to."""
    return math.prod(
        abs(int(last) - int(first)) + 1 if max(len(first), len(last)) < 19 else math.inf
        for first, last in _RANGE.findall(text)
    )


def expand(pattern: Path, suffix: str) -> list[Path]:
    """Return the files of a pattern, sorted: a file, those in a folder that end in `suffix`, `*`, or `{000..099}`.

    Raises:
        ConfigError: if there are none, a file of a braced pattern is missing, or something is not a file.
    """
    text = str(pattern)
    if os.path.isfile(pattern):  # taken literally, even if its name has brackets as in a pattern
        return [existing_file(pattern)]
    if "{" in text:
        return [existing_file(path) for path in _braced(text)]
    if os.path.isdir(pattern):
        # Spark and Dask give the folder that holds a table's files the name of a file.
        inside = (path.relative_to(pattern).parts for path in pattern.rglob(f"*{suffix}") if not path.is_dir())
        found = [pattern.joinpath(*parts) for parts in inside if not any(part.startswith(".") for part in parts)]
        if not found:
            raise ConfigError(f"{pattern}: no {suffix} file in it; check data.source in the config")
    else:
        found = [Path(name) for name in glob.glob(text)]
    if not found:
        raise ConfigError(f"{text[:200]}: no such file or directory; check data.source in the config")
    return sorted(map(existing_file, found))


def expand_splits(train: Path, val: Path | None, suffix: str) -> dict[str, list[Path]]:
    """Return the files of each split: of "train" and "val", or of "" if a share will be held out.

    Raises:
        ConfigError: as `expand` does, or if a file is in both splits.
    """
    if val is None:
        return {"": expand(train, suffix)}
    files = {"train": expand(train, suffix), "val": expand(val, suffix)}
    if both := sorted({path.resolve() for path in files["train"]} & {path.resolve() for path in files["val"]}):
        raise ConfigError(f"{both[0]}: both train: and val: name it; give val: files of its own")
    return files
