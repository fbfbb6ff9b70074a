"""Existing WebDataset shards: images and labels alone, never a pickle."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from effnet.config import WebDatasetSource
from effnet.data.sources.base import Entry, Remarks, make_key
from effnet.data.sources.files import Files, expand_splits, stamp
from effnet.data.sources.groups import matched
from effnet.data.sources.labels import Classes, classes_of
from effnet.data.sources.spool import Spool, Spooled
from effnet.data.tar.reader import Member, walk
from effnet.errors import DataError
from effnet.store import digest

_IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "avif", "heic")
_LABEL = "cls"
_MAX_DIGITS = 18  # a longer number is a name
_MAX_LABEL = 1000  # bytes


class _Sample(NamedTuple):
    """An image and its label, where they lie in a shard."""

    key: str  # unique in the shard
    label: Member
    image: Member


class WebDatasetShards:
    """Samples of an image (jpg, png, ...) and a class (cls: a number, or a name)."""

    def __init__(self, config: WebDatasetSource, base: Path, scratch: Path) -> None:
        self._files = expand_splits(base / config.train, base / config.val if config.val else None, ".tar")
        self._root = os.path.commonpath([path.parent for paths in self._files.values() for path in paths])
        self._shards = Files([path for paths in self._files.values() for path in paths])
        self._spool = Spool(scratch / f"webdataset-{digest(dict(self.fingerprint()))[:16]}")
        self._found: Classes | None = None
        self._numeric = False

    @property
    def classes(self) -> Sequence[str]:
        """Return the classes: the numbers that occur, or the sorted names. Reads all labels, once."""
        return self._read_classes().names

    @property
    def class_names(self) -> Sequence[str]:
        """Return the classes: shards carry no other names."""
        return self.classes

    def fingerprint(self) -> Mapping[str, Any]:
        """Return a digest of the shards' names, sizes and times."""
        return {"source": "webdataset", "files": {split: stamp(paths) for split, paths in self._files.items()}}

    def entries(self) -> Sequence[Entry]:
        """Return every sample; copies the images to the scratch folder."""
        return self._spool.fill(self._samples)

    def remarks(self) -> Remarks:
        """Return how the labels were understood."""
        return Remarks(notes=self._read_classes().notes)

    def mark(self, entry: Entry) -> bytes:
        """Return the mark of one image's bytes."""
        return self._spool.mark(entry)

    def read(self, entry: Entry) -> bytes:
        """Return one image's bytes."""
        return self._spool.read(entry)

    def groups(self, rule: str) -> list[str]:
        """Return what a regular expression finds in each sample's key."""
        keys = [sample.key for _, shard in self._all() for sample in self._in(shard)]
        return matched(keys, rule, "their keys")

    def describe(self, entry: Entry) -> str:
        """Return the shard and the sample's key."""
        return self._spool.describe(entry)

    def close(self) -> None:
        """Close shards and the copy."""
        self._shards.close()
        self._spool.close()

    def _read_classes(self) -> Classes:
        if self._found is None:
            texts = {self._label(shard, sample) for _, shard in self._all() for sample in self._in(shard)}
            self._numeric = all(text.isdecimal() and len(text) <= _MAX_DIGITS for text in texts)
            self._found = classes_of({self._value(text) for text in texts}, str(self._shards.paths[0].parent))
        return self._found

    def _value(self, text: str) -> int | str:
        return int(text) if self._numeric else text

    def _samples(self) -> Iterator[Spooled]:
        numbers = self._read_classes().numbers
        for split, shard in self._all():
            path = self._shards.paths[shard]
            name = os.path.splitext(os.path.relpath(path, self._root))[0]  # counters often restart in each shard
            for sample in self._in(shard):
                key = make_key(os.path.join(split, name, sample.key))
                image = self._shards.read(shard, sample.image.offset, sample.image.size)
                label = numbers[self._value(self._label(shard, sample))]
                yield Spooled(key, label, split, image, f"{path}: sample '{sample.key}'")

    def _all(self) -> Iterator[tuple[str, int]]:
        """Yield (split, number) of every shard."""
        splits = [split for split, paths in self._files.items() for _ in paths]
        yield from zip(splits, range(len(splits)), strict=True)

    def _in(self, shard: int) -> list[_Sample]:
        path = str(self._shards.paths[shard])
        with self._shards.opened(shard) as descriptor:
            return _pair(walk(lambda offset, length: os.pread(descriptor, length, offset), path), path)

    def _label(self, shard: int, sample: _Sample) -> str:
        """Return a sample's label as it is written."""
        where = f"{self._shards.paths[shard]}: sample '{sample.key}': its {_LABEL}"
        if sample.label.size > _MAX_LABEL:
            raise DataError(f"{where} has {sample.label.size:,} bytes, too many for a name or number")
        try:
            label = self._shards.read(shard, sample.label.offset, sample.label.size).decode().strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{where} is not text") from error
        if not label:
            raise DataError(f"{where} is empty")
        return label


def _pair(members: Iterator[Member], where: str) -> list[_Sample]:
    """Return the samples of a shard, in its order; files that are neither images nor labels are skipped.

    By the format's rule a sample's key ends at the first dot of the file's name. Where one label lies beside each image
    under a name with more dots (`v1.2_0001.png`, `v1.2_0001.cls`), the key ends at the last one.
    """
    labels: dict[str, Member] = {}
    images: dict[str, list[Member]] = {}
    for member in members:
        stem, _, extension = member.name.rpartition(".")
        if extension.lower() == _LABEL:
            labels[stem] = member
        elif extension.lower() in _IMAGES:
            images.setdefault(stem, []).append(member)
    for stem, found in images.items():
        if len(found) > 1 if stem in labels else _key(found[0].name) not in labels:
            raise _lacking(stem, found, where)
    for stem, label in labels.items():
        if stem not in images:
            raise _lacking(stem, [label], where)
    return [_Sample(stem, label, images[stem][0]) for stem, label in labels.items()]


def _key(name: str) -> str:
    """Return a file's key by the format's rule."""
    folder, _, base = name.rpartition("/")
    return os.path.join(folder, base.split(".")[0])


def _lacking(stem: str, found: Sequence[Member], where: str) -> DataError:
    has = ", ".join(sorted(member.name[len(stem) + 1 :] for member in found))
    return DataError(f"{where}: sample '{stem}': has {has}; one image ({', '.join(_IMAGES)}) and {_LABEL} are needed")
