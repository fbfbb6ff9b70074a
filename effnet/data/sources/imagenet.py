"""ILSVRC2012 from its official archives, as they were downloaded.

The training archive is a tar of a thousand tars, one per class; the validation archive is flat, and the development kit
says which class each image has: line i of its ground truth belongs to the i-th file *by name*, and gives an
ILSVRC2012_ID, which the kit's table turns into a WordNet id. Labels are positions among the sorted WordNet ids. Source:
the kit's readme.txt.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from effnet.data.sources.base import Entry, Remarks
from effnet.data.sources.files import Files, existing_file, stamp
from effnet.data.tar.reader import BLOCK, Read, walk
from effnet.errors import DataError

# As published beside the archives, and in torchvision/datasets/imagenet.py.
MD5 = {
    "train": "1d675b47d978889d74fa0da5fadfb00e",
    "val": "29b22e2961454d5413ddabcf34fc5622",
    "devkit": "fa75699e90414af021442c21a62c3abf",
}
COUNTS = {"train": 1_281_167, "val": 50_000}
ARCHIVE_BYTES = {"train": 147_897_477_120, "val": 6_744_924_160}
CLASSES = 1000
_CLASS_TAR = re.compile(r"(n\d{8})\.tar")
_TRAIN_IMAGE = re.compile(r"(n\d{8})_\d+\.JPEG")
_VAL_IMAGE = re.compile(r"ILSVRC2012_val_\d{8}\.JPEG")


class ImageNet:
    """1,281,167 training and 50,000 validation images of 1,000 classes."""

    def __init__(self, train: Path, val: Path, devkit: Path, *, check_md5: bool) -> None:
        self._files = Files([existing_file(train), existing_file(val)])
        self._devkit, self._check_md5 = existing_file(devkit), check_md5
        if check_md5:
            _require_md5(devkit, "devkit")
        synsets, self._truth = _read_devkit(devkit)
        self.classes: Sequence[str] = tuple(sorted(synset.wnid for synset in synsets))
        names = {synset.wnid: synset.words for synset in synsets}
        self.class_names: Sequence[str] = tuple(names[wnid] for wnid in self.classes)
        self._labels = {wnid: label for label, wnid in enumerate(self.classes)}
        self._wnids = {synset.number: synset.wnid for synset in synsets}

    def fingerprint(self) -> Mapping[str, Any]:
        """Return a digest of the archives' names, sizes and times."""
        paths = [*self._files.paths, self._devkit]
        return {"source": "ILSVRC2012", "files": [stamp([path]) for path in paths]}

    def entries(self) -> Sequence[Entry]:
        """Return every image, by its place in the archives; the same pass reads them whole if MD5 sums are checked."""
        entries: list[Entry] = []
        for file, (split, read_split) in enumerate({"train": self._train, "val": self._val}.items()):
            with self._files.opened(file) as descriptor:
                if not self._check_md5:
                    entries += read_split(functools.partial(_pread, descriptor))
                    continue
                archive = _Hashed(descriptor)
                found = list(read_split(archive.read))
                md5 = archive.md5()
            path = self._files.paths[file]
            _compare_md5(path, split, md5)
            if len(found) != COUNTS[split]:
                raise DataError(f"{path}: {len(found):,} images, not {COUNTS[split]:,}")
            entries += found
        return entries

    def remarks(self) -> Remarks:
        """There is nothing but images: whatever else is in the archives is an error."""
        return Remarks()

    def mark(self, entry: Entry) -> bytes:
        """Return the mark of one image's bytes."""
        return self._files.mark(entry)

    def read(self, entry: Entry) -> bytes:
        """Return one image's bytes."""
        return self._files.read(entry.file, entry.offset, entry.length)

    def describe(self, entry: Entry) -> str:
        """Return the archive, the image's name and its place."""
        return f"{self._files.paths[entry.file]}: {entry.key}.JPEG at byte {entry.offset}"

    def close(self) -> None:
        """Close the archives."""
        self._files.close()

    def _train(self, read: Read) -> Iterator[Entry]:
        path = self._files.paths[0]
        seen = set()
        for tar in walk(read, str(path)):
            match = _CLASS_TAR.fullmatch(tar.name)
            if not match or match[1] not in self._labels:
                raise DataError(f"{path}: byte {tar.offset}: '{tar.name}' is not a class of ILSVRC2012")
            wnid = match[1]
            seen.add(wnid)
            for member in walk(read, f"{path}: {tar.name}", tar.offset, tar.size):
                image = _TRAIN_IMAGE.fullmatch(member.name)
                if not image or image[1] != wnid:
                    raise DataError(f"{path}: {tar.name}: byte {member.offset}: '{member.name}' does not belong there")
                yield Entry(
                    member.name.removesuffix(".JPEG"), self._labels[wnid], "train", 0, member.offset, member.size
                )
        if missing := sorted(set(self.classes) - seen):
            raise DataError(
                f"{path}: {len(missing)} of {len(self.classes)} classes are missing, first {missing[0]}.tar"
            )

    def _val(self, read: Read) -> Iterator[Entry]:
        path = self._files.paths[1]
        members = sorted(walk(read, str(path)))  # by name, which is not the archive's order
        for member in members:
            if not _VAL_IMAGE.fullmatch(member.name):
                raise DataError(f"{path}: byte {member.offset}: '{member.name}' does not belong there")
        if len(members) != len(self._truth):
            raise DataError(f"{path}: {len(members):,} images, but {self._devkit} has {len(self._truth):,} labels")
        for member, number in zip(members, self._truth, strict=True):
            if number not in self._wnids:
                raise DataError(f"{self._devkit}: the ground truth names class {number}, which its table does not have")
            label = self._labels[self._wnids[number]]
            yield Entry(member.name.removesuffix(".JPEG"), label, "val", 1, member.offset, member.size)


class _Synset(NamedTuple):
    """A class: its ILSVRC2012_ID, its WordNet id, its name."""

    number: int
    wnid: str
    words: str


def _read_devkit(path: Path) -> tuple[list[_Synset], list[int]]:
    """Return the leaf classes and the validation labels of the development kit."""
    from scipy.io import loadmat

    try:
        with tarfile.open(path) as tar:
            meta = _member(tar, "meta.mat", path)
            truth = _member(tar, "ILSVRC2012_validation_ground_truth.txt", path)
        table = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        synsets = [
            _Synset(int(row["ILSVRC2012_ID"]), str(row["WNID"]), str(row["words"]))
            for row in table
            if int(row["num_children"]) == 0  # the others are groups of classes
        ]
        return synsets, [int(line) for line in truth.split()]
    except (OSError, EOFError, tarfile.TarError, KeyError, ValueError, TypeError) as error:
        told = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(":")
        raise DataError(f"{path}: not the development kit of ILSVRC2012 ({told})") from error


def _member(tar: tarfile.TarFile, name: str, path: Path) -> bytes:
    found = [member for member in tar if member.isreg() and member.name.rpartition("/")[2] == name]
    if len(found) != 1:
        raise DataError(f"{path}: {name} is not in it; is it ILSVRC2012_devkit_t12.tar.gz?")
    file = tar.extractfile(found[0])
    assert file is not None  # noqa: S101 - it is a regular file
    return file.read()


def _require_md5(path: Path, what: str) -> None:
    with path.open("rb") as file:
        _compare_md5(path, what, hashlib.file_digest(file, _md5).hexdigest())


def _compare_md5(path: Path, what: str, found: str) -> None:
    if found != MD5[what]:
        raise DataError(
            f"{path}: MD5 is {found}, but the official {what} archive has {MD5[what]}; get it again, or set "
            "check_md5: false"
        )


def _md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)


def _pread(descriptor: int, offset: int, length: int) -> bytes:
    return os.pread(descriptor, length, offset)


class _Hashed:
    """A file read once from front to end, for its checksum; on the way, small pieces are handed out in order."""

    def __init__(self, descriptor: int, chunk: int = 1 << 23) -> None:
        self._descriptor, self._chunk = descriptor, chunk
        self._window, self._start = b"", 0  # the last bytes read, and their place in the file
        self._hash = _md5()

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the file, fewer at its end; those before the window are read again."""
        while self._start + len(self._window) < offset + length and self._advance():
            pass
        if offset < self._start:
            return os.pread(self._descriptor, length, offset)
        return self._window[offset - self._start : offset - self._start + length]

    def md5(self) -> str:
        """Return the checksum of the whole file, after reading what is left of it."""
        while self._advance():
            pass
        return self._hash.hexdigest()

    def _advance(self) -> bool:
        data = os.pread(self._descriptor, self._chunk, self._start + len(self._window))
        self._hash.update(data)
        keep = self._window[-BLOCK:]  # a header may begin in one chunk and end in the next
        self._start += len(self._window) - len(keep)
        self._window = keep + data
        return bool(data)
