"""What a source of images is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol


class Entry(NamedTuple):
    """One image of a source, before it is read."""

    key: str  # unique in the source; no dot and no slash, because it names the files in a shard
    label: int  # index into the source's classes


class Sample(NamedTuple):
    """One image as it goes into a shard: the encoded bytes, never decoded and encoded again."""

    key: str
    image: bytes
    extension: str  # of the encoded bytes: "png", "jpg"
    label: int


class Source(Protocol):
    """Labelled images from somewhere. `entries` is cheap next to reading all images."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes; a label is an index into them."""
        ...

    def fingerprint(self) -> Mapping[str, Any]:
        """Return plain data that changes whenever the images or labels may have changed. Reads no image."""
        ...

    def entries(self) -> Sequence[Entry]:
        """Return every image's key and label, in a fixed order."""
        ...

    def read(self, entry: Entry) -> Sample:
        """Return one image; raise DataError naming it if it cannot be read."""
        ...
