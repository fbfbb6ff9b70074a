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
        self._paths: list[Path] = []
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
            return self._paths[entry.file].read_bytes()
        except OSError as error:
            raise DataError(f"{self._paths[entry.file]}: {(error.strerror or str(error)).lower()}") from error

    def describe(self, entry: Entry) -> str:
        """Return the file's path."""
        return str(self._paths[entry.file])

    def close(self) -> None:
        """Nothing stays open."""

    def _scan(self, split: str, root: Path) -> None:
        for label, name in enumerate(self.classes):
            before = len(self._entries)
            for path, status in _images(root / name) if (root / name).is_dir() else ():
                relative = path.relative_to(root)
                key = make_key(str(Path(split) / relative.with_suffix("") if split else relative.with_suffix("")))
                self._entries.append(Entry(key, label, split, len(self._paths), 0, status.st_size))
                self._paths.append(path)
                self._rows.append((str(Path(split) / relative), status.st_size, status.st_mtime_ns))
            if len(self._entries) == before and split != "val":
                raise DataError(f"{root / name}: no JPEG or PNG file in it; fill the class or remove its folder")


def _folders(root: Path) -> Iterator[Path]:
    return (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield every image below a folder, sorted; raise DataError for a file that is none."""
    for item in sorted(os.scandir(folder), key=lambda item: item.name):
        path = Path(item.path)
        if item.name.startswith("."):
            continue
        if item.is_dir(follow_symlinks=False):
            yield from _images(path)
        elif path.suffix.lower() in EXTENSIONS:
            yield path, item.stat()
        else:
            raise DataError(f"{path}: neither .jpg, .jpeg nor .png; remove it, nothing is left out silently")
