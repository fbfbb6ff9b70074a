"""What a source of images is."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import xxhash


class Entry(NamedTuple):
    """One image of a source, before it is read."""

    key: str  # unique in the source; letters, digits, `_` and `-` alone, because it names the files in a shard
    label: int  # index into the source's classes
    split: str = ""  # "train" or "val" where the source has its own splits, else ""
    file: int = 0  # which of the source's files holds it; its meaning is the source's own
    offset: int = 0  # first byte in that file
    length: int = 0  # bytes of the encoded image


class Refused(NamedTuple):
    """A file that is not an image of any class: it is counted and listed like an image that cannot be used."""

    where: str
    kind: str  # the reason, shared with other files
    bytes: int


class Remarks(NamedTuple):
    """What a source found beside its images."""

    refused: Sequence[Refused] = ()
    passed_over: Mapping[str, int] = {}  # files that systems leave behind, by name
    notes: Sequence[str] = ()  # what else a person should know, a line each


class Source(Protocol):
    """Labelled images from somewhere."""

    @property
    def classes(self) -> Sequence[str]:
        """Return the classes' ids (folder names, wnids); a label is an index into them. Known after `entries`."""
        ...

    @property
    def class_names(self) -> Sequence[str]:
        """Return what people call the classes, in the same order; the ids where nothing else is known."""
        ...

    def fingerprint(self) -> Mapping[str, Any]:
        """Return plain data that changes whenever images or labels may have changed. Reads no image.

        Names, sizes and times of files, but not where they lie: data that moves stays the same.
        """
        ...

    def entries(self) -> Sequence[Entry]:
        """Return every image, in a fixed order; raise DataError if the source is broken or incomplete.

        A source that can only be read from front to end (Parquet) is copied to its scratch folder here.
        """
        ...

    def remarks(self) -> Remarks:
        """Return what was found beside the images. Known after `entries`."""
        ...

    def mark(self, entry: Entry) -> bytes:
        """Return 16 bytes that images of the same bytes share and others hardly ever do, wherever they lie. Quick."""
        ...

    def read(self, entry: Entry) -> bytes:
        """Return one image's bytes as the source has them. Several threads may read at a time.

        Raises:
            BadImage: if this one image cannot be read; others may be fine.
            DataError: if the source is broken.
        """
        ...

    def describe(self, entry: Entry) -> str:
        """Return what a person would look for: the file, and the place in it."""
        ...

    def close(self) -> None:
        """Close files."""
        ...


_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_MAX_KEY = 80


def make_key(path: str) -> str:
    """Return a key for a file's path without its extension: safe, and with a short hash where it would be ambiguous."""
    key = _UNSAFE.sub("_", path)
    if key == path and len(key) <= _MAX_KEY:
        return key
    return f"{key[-_MAX_KEY + 9 :]}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"


_WHOLE = 4096  # files up to here are read whole for their mark
_WINDOW = 1024
_COMPRESSED = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")


def content_mark(read: Callable[[int, int], bytes], length: int) -> bytes:
    """Return the mark of an image (`Source.mark`) of `length` bytes, of which `read` returns some: (offset, length).

    Of large JPEG, PNG and WebP files the middle and the end are enough: there is hardly a byte in them that does not
    depend on the pixels. Others are read whole.
    """
    checksum = xxhash.xxh3_128(length.to_bytes(8))
    if length > _WHOLE and read(0, 4).startswith(_COMPRESSED):
        checksum.update(read((length - _WINDOW) // 2, _WINDOW))
        checksum.update(read(length - _WINDOW, _WINDOW))
    else:
        checksum.update(read(0, length))
    return checksum.digest()
