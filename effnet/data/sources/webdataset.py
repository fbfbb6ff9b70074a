"""Existing WebDataset shards, read by the library `webdataset`; images and labels alone, never a pickle."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from effnet.config import WebDatasetSource
from effnet.data.sources.base import Entry, make_key
from effnet.data.sources.files import expand, stamp
from effnet.data.sources.spool import Spool, Spooled
from effnet.data.sources.tars import walk
from effnet.errors import DataError
from effnet.store import digest

_IMAGES, _LABEL = ("jpg", "jpeg", "png"), "cls"


class WebDatasetShards:
    """Samples of an image (jpg, jpeg, png) and a class (cls: a number, or a name)."""

    def __init__(self, config: WebDatasetSource, base: Path, scratch: Path) -> None:
        self._files = {"train" if config.val else "": expand(base / config.train)}
        if config.val:
            self._files["val"] = expand(base / config.val)
        self._spool = Spool(scratch / f"webdataset-{digest(dict(self.fingerprint()))[:16]}")
        self._labels: tuple[str, ...] | None = None

    @property
    def classes(self) -> Sequence[str]:
        """Return the classes: numbers up to the largest, or the sorted names. Reads all labels, once."""
        if self._labels is None:
            found = {label for _, _, label, _ in self._raw()}
            numeric = all(label.isdecimal() for label in found)
            self._labels = tuple(map(str, range(max(map(int, found)) + 1)) if numeric else sorted(found))
        return self._labels

    @property
    def class_names(self) -> Sequence[str]:
        """Return the classes: shards carry no other names."""
        return self.classes

    def fingerprint(self) -> Mapping[str, Any]:
        """Return a digest of the shards' names, sizes and times."""
        return {
            "source": "webdataset",
            "files": {split: stamp(paths, paths[0].parent) for split, paths in self._files.items()},
        }

    def entries(self) -> Sequence[Entry]:
        """Return every sample; copies the images to the scratch folder."""
        return self._spool.fill(self._samples)

    def read(self, entry: Entry) -> bytes:
        """Return one image's bytes."""
        return self._spool.read(entry)

    def describe(self, entry: Entry) -> str:
        """Return the sample's key."""
        return f"{next(iter(self._files.values()))[0].parent}: sample '{entry.key}'"

    def close(self) -> None:
        """Close the copy."""
        self._spool.close()

    def _samples(self) -> Iterator[Spooled]:
        numbers = {name: number for number, name in enumerate(self.classes)}
        for split, key, label, image in self._raw():
            yield Spooled(make_key(f"{split}/{key}" if split else key), numbers[str(label)], split, image)

    def _raw(self) -> Iterator[tuple[str, str, str, bytes]]:
        """Yield (split, key, label, image) of every sample; every member of every shard is accounted for."""
        from webdataset import WebDataset

        for split, paths in self._files.items():
            for path in paths:
                members = {member.name for member in _members(path)}
                seen = 0
                # A path, not a URL: nothing is piped through a shell.
                for sample in WebDataset([str(path)], shardshuffle=False, empty_check=False):
                    fields = {name: value for name, value in sample.items() if not name.startswith("__")}
                    seen += len(fields)
                    yield (split, sample["__key__"], *_pick(fields, f"{path}: sample '{sample['__key__']}'"))
                if seen != len(members):
                    raise DataError(f"{path}: holds {len(members)} files, {seen} could be read; get it again")


def _members(path: Path) -> Iterator[Any]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield from walk(lambda offset, length: os.pread(descriptor, length, offset), str(path))
    finally:
        os.close(descriptor)


def _pick(fields: Mapping[str, bytes], where: str) -> tuple[str, bytes]:
    """Return a sample's label and image."""
    images = [fields[name] for name in _IMAGES if name in fields]
    if len(images) != 1 or _LABEL not in fields:
        raise DataError(
            f"{where}: has {', '.join(sorted(fields))}; one of {', '.join(_IMAGES)} and {_LABEL} are needed"
        )
    try:
        label = fields[_LABEL].decode().strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: its {_LABEL} is no text") from error
    if not label:
        raise DataError(f"{where}: its {_LABEL} is empty")
    return (str(int(label)) if label.isdecimal() else label), images[0]
