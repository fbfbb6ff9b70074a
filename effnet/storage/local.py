"""A folder of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from effnet.errors import DataError
from effnet.files import reason
from effnet.machine import raise_if_broken
from effnet.storage import File
from effnet.store import TEMPORARY, create, new_file, publish


class LocalFolder:
    """See effnet.storage.Folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def url(self) -> str:
        """Return the path."""
        return str(self._path)

    def list(self, prefix: str = "") -> list[File]:
        """Return the files whose names begin with `prefix`; unfinished ones are not seen."""
        found = []
        top = self._path / prefix.rpartition("/")[0]  # no name above it begins with `prefix`
        for folder, _, names in os.walk(top):  # passes over folders that vanish meanwhile
            for path in (Path(folder) / name for name in names if not name.startswith(TEMPORARY)):
                name = path.relative_to(self._path).as_posix()
                with contextlib.suppress(FileNotFoundError):
                    if name.startswith(prefix) and path.is_file():
                        status = path.stat()
                        found.append(File(name, status.st_size, str(status.st_mtime_ns)))
        return sorted(found)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return a file's bytes."""
        try:
            with (self._path / name).open("rb") as file:
                file.seek(offset)
                data = file.read(-1 if length is None else length)
        except OSError as error:
            raise_if_broken(error)
            raise DataError(f"{self._path / name}: {reason(error)}") from error
        if length is not None and len(data) != length:
            raise DataError(f"{self._path / name}: ends at byte {offset + len(data)}")
        return data

    def put(self, name: str, data: bytes) -> None:
        """Write a file."""
        publish(self._path / name, data)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file if the name is free."""
        return create(self._path / name, data)

    def upload(self, path: Path, name: str) -> None:
        """Copy a file here."""
        _copy(path, self._path / name)

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file from here."""
        _copy(self._path / name, target)

    def delete(self, names: Sequence[str]) -> None:
        """Remove files."""
        for name in names:
            (self._path / name).unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    try:
        with new_file(target) as temporary:
            shutil.copyfile(source, temporary)
    except OSError as error:
        raise_if_broken(error)
        raise DataError(f"{source}: {reason(error)}") from error
