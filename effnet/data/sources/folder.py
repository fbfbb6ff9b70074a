"""Images in folders, one folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from effnet.data.sources.base import Entry, make_key
from effnet.data.sources.files import existing
from effnet.errors import ConfigError, DataError
from effnet.store import digest

EXTENSIONS = frozenset((".jpg", ".jpeg", ".png"))


class ImageFolder:
    """`train/CLASS/**/*.jpg`, and perhaps `val/CLASS/**`. Hidden files are passed over; other files are an error."""

    def __init__(self, train: Path, val: Path | None) -> None:
        self._roots = {"train" if val else "": existing(train)} | ({"val": existing(val)} if val else {})
        self.classes: Sequence[str] = tuple(sorted(path.name for path in _folders(train)))
        if not self.classes:
            raise ConfigError(f"{train}: no folders in it; one folder per class is expected")
        if val and (strangers := sorted({path.name for path in _folders(val)} - set(self.classes))):
            raise DataError(f"{val / strangers[0]}: a class that {train} does not have")
        self.class_names = self.classes
        self._paths: list[str] = []  # plain text: millions of Path objects are slow to make
        self._entries: list[Entry] = []
        self._rows: list[tuple[str, int, int]] = []
        for split, root in self._roots.items():
            self._scan(split, root)

    def fingerprint(self) -> Mapping[str, Any]:
        """Return a digest of all files' names, sizes and times."""
        return {"source": "folder", "images": len(self._rows), "files": digest(self._rows)}

    def entries(self) -> Sequence[Entry]:
        """Return every image, by split, class and path."""
        return self._entries

    def read(self, entry: Entry) -> bytes:
        """Return a file's bytes."""
        try:
            descriptor = os.open(self._paths[entry.file], os.O_RDONLY)
            try:
                data = os.read(descriptor, entry.length + 1)
                while len(data) <= entry.length and (more := os.read(descriptor, entry.length + 1)):
                    data += more
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DataError(f"{self._paths[entry.file]}: {(error.strerror or str(error)).lower()}") from error
        if len(data) != entry.length:
            raise DataError(f"{self._paths[entry.file]}: changed while it was read; run the command again")
        return data

    def describe(self, entry: Entry) -> str:
        """Return the file's path."""
        return self._paths[entry.file]

    def close(self) -> None:
        """Nothing stays open."""

    def _scan(self, split: str, root: Path) -> None:
        for label, name in enumerate(self.classes):
            before = len(self._entries)
            for path, size, changed in _images(root / name) if (root / name).is_dir() else ():
                relative = os.path.join(split, path[len(str(root)) + 1 :])
                key = make_key(os.path.splitext(relative)[0])
                self._entries.append(Entry(key, label, split, len(self._paths), 0, size))
                self._paths.append(path)
                self._rows.append((relative, size, changed))
            if len(self._entries) == before and split != "val":
                raise DataError(f"{root / name}: no JPEG or PNG file in it; fill the class or remove its folder")


def _folders(root: Path) -> Iterator[Path]:
    return (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: str | Path) -> Iterator[tuple[str, int, int]]:
    """Yield path, size and time of change of every image below a folder, sorted; DataError for a file that is none."""
    with os.scandir(folder) as items:
        found = sorted(items, key=lambda item: item.name)
    for item in found:
        if item.name.startswith("."):
            continue
        if item.is_dir(follow_symlinks=False):
            yield from _images(item.path)
        elif os.path.splitext(item.name)[1].lower() in EXTENSIONS:
            status = item.stat()
            yield item.path, status.st_size, status.st_mtime_ns
        else:
            raise DataError(f"{item.path}: neither .jpg, .jpeg nor .png; remove it, nothing is left out silently")
