"""Places with files: a folder, or a prefix of an S3 bucket. A file that can be seen there is whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol


class File(NamedTuple):
    """A file as a listing has it."""

    name: str  # relative to the place, with slashes
    size: int  # bytes
    tag: str  # changes when the content does: modification time, or ETag


class Folder(Protocol):
    """A place with files. Methods may be called from several threads.

    All raise ConfigError if the place cannot be used (not there, no rights, no credentials), DataError if a file is not
    there, and AwayError if its server does not answer for as long as effnet.outage says.
    """

    @property
    def url(self) -> str:
        """Return where it is, for people and for `open_folder`."""
        ...

    def list(self, prefix: str = "") -> list[File]:
        """Return the files whose names begin with `prefix`, sorted by name."""
        ...

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return a file's bytes, or a part of them."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all, replacing what was there."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Write a file if the name is free; say whether this call made it."""
        ...

    def upload(self, path: Path, name: str) -> None:
        """Copy a local file here, whole or not at all."""
        ...

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file to a local path, whole or not at all."""
        ...

    def delete(self, names: Sequence[str]) -> None:
        """Remove files; those that are not there do not matter."""
        ...


def is_remote(location: str | Path) -> bool:
    """Say whether a location is on S3."""
    return str(location).startswith("s3://")


def open_folder(location: str | Path, *, known: bool = False) -> Folder:
    """Return the place at `s3://bucket/prefix` or at a local path; nothing is read or made yet.

    Args:
        location: see above.
        known: others have used it, so no answer means that the server is away, not that the address is wrong.
    """
    if is_remote(location):
        from effnet.storage.s3 import S3Folder

        return S3Folder(str(location), known)
    from effnet.storage.local import LocalFolder

    return LocalFolder(Path(location))
