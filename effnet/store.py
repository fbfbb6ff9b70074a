"""Where things lie: files that appear whole or not at all, below one root.

A name that can be seen is complete. Writers put bytes under a temporary name beside the target, flush them to the disk
and rename; readers never meet half a file, whatever is killed and when.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet.errors import BusyError, ConfigError
from effnet.files import open_regular, reason

TEMPORARY = ".tmp-"  # the prefix of everything that is not finished yet


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text that equal values share: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """Return the sha256 (64 hex digits) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the sha256 (64 hex digits) of a file's bytes."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(target: Path) -> Path:
    """Return a name beside `target` that no other writer uses."""
    return target.with_name(f"{TEMPORARY}{target.name}-{uuid.uuid4().hex[:8]}")


@contextmanager
def new_file(target: Path, *, replace: bool = True, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside `target`; the file made there becomes `target` when the block ends.

    Its folder is made if it is not there. What was there before is replaced, and stays if the block raises. A link
    stays a link, to the new file; a pipe or a device is no target.

    Args:
        target: the file's name.
        replace: whether a file of that name is replaced.
        flush: write everything to the disk before the rename; not needed for a cache.

    Raises:
        FileExistsError: if there is a file already, and it is not to be replaced.
        OSError: if a pipe, a device or a socket has that name.
    """
    if target.is_symlink():
        target = Path(os.path.realpath(target))
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise OSError(errno.EINVAL, "a pipe, a device or a socket, where a file is to be written", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(target)
    try:
        yield temporary
        if flush:
            _sync_file(temporary)
        (os.replace if replace else os.link)(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    if flush:
        sync_folder(target.parent)


def publish(target: Path, data: bytes) -> None:
    """Write `data` under `target`, whole or not at all, replacing what was there."""
    with new_file(target) as temporary:
        temporary.write_bytes(data)


def create(target: Path, data: bytes) -> bool:
    """Write `data` under `target` if the name is free; say whether this call made it."""
    try:
        with new_file(target, replace=False) as temporary:
            temporary.write_bytes(data)
    except FileExistsError:
        return False
    return True


@contextmanager
def publish_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes `target` when the block ends, and vanishes when it raises.

    Every file in it is flushed first. `target` must not exist yet, unless it is to be replaced: what is there stays
    until the new folder is whole.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(target)
    temporary.mkdir()
    try:
        yield temporary
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                _sync_file(path)
        sync_folder(temporary)
        before = temporary_name(target)
        if replace and target.exists():
            os.rename(target, before)
        os.rename(temporary, target)
        remove_folder(before)
    except BaseException:
        remove_folder(temporary)
        raise
    sync_folder(target.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder and what is in it, renaming it first so that nobody meets half of it."""
    import shutil

    if not path.exists():
        return
    doomed = temporary_name(path)
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def try_folder(folder: Path) -> None:
    """Make a folder if it is not there; raise OSError if nothing can be written into it."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = temporary_name(folder / "probe")
    probe.write_bytes(b"")
    probe.unlink()


@contextmanager
def hold(path: Path, busy: str | None = None, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock file `path` for this process; the system frees it when the process ends, however it ends.

    Args:
        path: the lock file; it is made and stays.
        busy: what to say if another process holds it; without it, wait until that one lets go.
        shared: hold it together with others that share it.

    Raises:
        BusyError: if another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:  # readable, too: NFS shares no lock of a file that is not
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError as error:
            raise BusyError(busy) from error
        yield


@dataclass(frozen=True)
class Store:
    """The root of all that a family leaves behind, and the names below it."""

    root: Path

    @classmethod
    def at(cls, path: str | Path) -> Store:
        """Return the store at a path as a person writes it: `~` is their home.

        Raises:
            ConfigError: if there is no such home, or the path cannot be part of a database URL.
        """
        try:
            root = Path(path).expanduser().absolute()
        except RuntimeError as error:
            raise ConfigError(f"store {path}: {str(error).lower().rstrip('.')}; write the whole path") from error
        if "?" in str(root):  # in sqlite:///PATH the path ends there: both databases would be one, beside the store
            raise ConfigError(
                f"store {root}: a question mark in its path would end the address of a database; "
                "name another folder with `store:` in the config or with --store"
            )
        return cls(root)

    @property
    def datasets(self) -> Path:
        """Folder of datasets, one per digest."""
        return self.root / "datasets"

    @property
    def runs(self) -> Path:
        """Folder of run folders, one per run key."""
        return self.root / "runs"

    @property
    def families(self) -> Path:
        """Folder of family builds: report, figures and result, one per family key."""
        return self.root / "families"

    @property
    def cache(self) -> Path:
        """Folder of what can be made again at any time: decoded images."""
        return self.root / "cache"

    @property
    def logs(self) -> Path:
        """Folder of what servers and other child processes print."""
        return self.root / "logs"

    @contextmanager
    def building(self, family: str) -> Iterator[None]:
        """Hold a family for this process, so that nobody else builds it here meanwhile.

        Raises:
            BusyError: if another process holds it.
        """
        busy = f"family {family}: another process is building it in {self.root}; wait for it or stop it"
        with hold(self.families / f"{family}.lock", busy):
            yield

    def prepare(self) -> None:
        """Make the root; raise ConfigError if it cannot be written."""
        try:
            try_folder(self.root)
        except OSError as error:
            raise ConfigError(
                f"store {self.root}: cannot be written ({reason(error)}); name another folder with `store:` in the"
                " config or with --store"
            ) from error


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
