"""Datasets that lie elsewhere: on S3, or in a folder that several machines share.

A mirror is a dataset folder that has manifest and index, and `origin.json`, which says where the shards are. They are
fetched whole when they are needed, and checked; those unused for longest are removed to make room.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from pathlib import Path

from effnet.data.shards.manifest import (
    INDEX,
    MANIFEST,
    QUARANTINE,
    Manifest,
    load_manifest,
    parse_manifest,
    shards_in,
    xxh128_file,
)
from effnet.data.sources.files import Files, OpenFile
from effnet.errors import ConfigError, DataError
from effnet.files import gigabytes
from effnet.process import stopping, warn
from effnet.runs import read_value
from effnet.storage import Folder, open_folder
from effnet.store import TEMPORARY, canonical_json, hold, new_file, publish, sha256_file
from effnet.values import Value

ORIGIN = "origin.json"
_FETCHERS = 4  # shards that are fetched at a time, ahead of use
_TRIES = 10  # to open a shard that other processes remove to make room as soon as it is here
_OFTEN = 3  # fetches of one shard within an epoch, at which a person is warned


class Origin(Value):
    """Where a mirror's shards come from, and how much disk they may take here."""

    location: str
    cache_bytes: int


def remote_manifest(folder: Folder) -> Manifest:
    """Return the manifest of a dataset that lies elsewhere; raise ConfigError if there is none."""
    try:
        data = folder.read(MANIFEST)
    except DataError as error:
        raise ConfigError(f"{folder.url}: no dataset there ({error}); check data.source.location") from error
    return parse_manifest(data, f"{folder.url}/{MANIFEST}")


def mirror(location: str, cache_bytes: int, datasets: Path) -> tuple[Manifest, bool]:
    """Make a mirror of a dataset below `datasets`, or find it; return its manifest and whether it was there."""
    remote = open_folder(location)
    manifest = remote_manifest(remote)
    folder = datasets / manifest.digest
    if load_manifest(folder):
        set_cache(folder, cache_bytes)
        return manifest, True
    with hold(datasets / f".{manifest.digest}.lock"):
        remote.fetch(INDEX, folder / INDEX)
        if sha256_file(folder / INDEX) != manifest.index_sha256:
            raise DataError(f"{remote.url}/{INDEX}: does not match its checksum in the manifest")
        publish(folder / ORIGIN, canonical_json({"location": location, "cache_bytes": cache_bytes}))
        publish(folder / MANIFEST, manifest.model_dump_json(indent=2).encode())
    return manifest, False


def set_cache(folder: Path, cache_bytes: int) -> None:
    """Let a mirror's shards take so much disk from now on; nothing changes where the whole dataset lies here."""
    origin = read_value(Origin, folder / ORIGIN)
    if origin and origin.cache_bytes != cache_bytes:
        publish(folder / ORIGIN, canonical_json({"location": origin.location, "cache_bytes": cache_bytes}))


class ShardFiles(Files):
    """A dataset's shards, opened on first use; those of a mirror are fetched first.

    Attributes:
        fetched: how often each shard was fetched by this process since `begin`.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        super().__init__([folder / name for name in names])
        self._folder = folder
        self._origin = read_value(Origin, folder / ORIGIN)
        self._remote = open_folder(self._origin.location, known=True) if self._origin else None
        manifest = load_manifest(folder) if self._origin else None
        self._shards = {shard.name: shard for shard in manifest.shards} if manifest else {}
        self.fetched: Counter[str] = Counter()
        self._warned = False
        self._users: dict[int, int] = {}
        self._soon: set[int] = set()  # shards that will be wanted next
        self._arriving = 0  # bytes that room was made for, but that have not arrived yet
        self._room = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._coming: dict[int, Future[None]] = {}

    def begin(self) -> None:
        """Count anew what is fetched."""
        self.fetched.clear()

    @contextmanager
    def opened(self, file: int) -> Iterator[int]:
        """Yield a shard's descriptor; a mirror fetches the shard first if it is not here."""
        with self._in_use(file) if self._remote else nullcontext(), super().opened(file) as descriptor:
            yield descriptor

    def _take(self, file: int) -> OpenFile:
        for _ in range(_TRIES if self._remote else 0):
            with suppress(FileNotFoundError):
                return super()._take(file)
            self._bring(file)
        return super()._take(file)

    def _open_file(self, file: int) -> int:
        descriptor = super()._open_file(file)
        if self._remote:
            os.utime(descriptor)  # what was used last is removed last
        return descriptor

    def prefetch(self, files: Iterable[int]) -> None:
        """Fetch shards in the background, in this order, as many as half of the room holds."""
        if self._remote is None or self._origin is None:
            return
        soon, taken = [], 0
        for file in files:
            taken += self._shards[self.paths[file].name].bytes
            if taken <= self._origin.cache_bytes // 2:
                soon.append(file)
        for file in set(soon) - self._soon:  # perhaps left from the epoch before, and the next to be removed
            with suppress(FileNotFoundError):
                os.utime(self.paths[file])
        self._soon = set(soon)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_FETCHERS, "fetch")
        for file in soon:
            if file not in self._coming and not self.paths[file].exists():
                self._coming[file] = self._pool.submit(self._fetch_ahead, file)

    def rest(self) -> None:
        """Fetch no more ahead: a shard that was read meanwhile, and made room for others, would be fetched again."""
        self._soon = set()
        running = [future for future in list(self._coming.values()) if not future.cancel()]
        if not stopping():
            wait(running)
        self._coming = {}

    def close(self) -> None:
        """Close what is open and fetch nothing more."""
        if self._pool:
            self._pool.shutdown(wait=not stopping(), cancel_futures=True)
        if not stopping():  # else threads may still be reading
            super().close()

    def _fetch_ahead(self, file: int) -> None:
        try:
            if file in self._soon:  # else it was read meanwhile, and may have made room for others
                with self._in_use(file):
                    self._bring(file)
        finally:
            self._coming.pop(file, None)

    @contextmanager
    def _in_use(self, file: int) -> Iterator[None]:
        """Keep a shard from being removed to make room for others."""
        with self._room:
            self._users[file] = self._users.get(file, 0) + 1
        try:
            yield
        finally:
            with self._room:
                self._users[file] -= 1

    def _bring(self, file: int) -> None:
        """Make sure that the shard is here, checked."""
        path = self.paths[file]
        assert self._remote is not None  # noqa: S101 - callers checked
        with hold(self._folder / ".locks" / path.name):  # another process may be fetching it
            for left in self._folder.glob(f"{TEMPORARY}*{path.name}-*"):  # by a process killed while fetching
                left.unlink()
            if not path.exists():
                size = self._shards[path.name].bytes
                self._make_room(size)
                try:
                    self._fetch(path)
                finally:
                    with self._room:
                        self._arriving -= size
                self._count(path.name)
            os.utime(path)

    def _count(self, name: str) -> None:
        """Note that a shard was fetched; warn once if shards are fetched again and again."""
        with self._room:
            self.fetched[name] += 1
            if self.fetched[name] < _OFTEN or self._warned:
                return
            self._warned = True
        assert self._origin is not None  # noqa: S101
        warn(
            f"{self._folder}: shard {name} was fetched {_OFTEN} times within an epoch: the cache of "
            f"{gigabytes(self._origin.cache_bytes)} is too small for all trainings that share it; give it more "
            "(compute.cache_gb or data.source.cache_bytes), or run fewer at a time (compute.parallel)"
        )

    def _fetch(self, path: Path) -> None:
        assert self._remote is not None  # noqa: S101
        with new_file(path) as fetched:
            self._remote.fetch(path.name, fetched)
            if xxh128_file(fetched) != self._shards[path.name].xxh128:
                raise DataError(
                    f"{self._remote.url}/{path.name}: does not match its checksum in the manifest; run `effnet verify`"
                )

    def _make_room(self, wanted: int) -> None:
        """Remove shards until `wanted` more bytes fit: those that are not wanted soon first, the oldest first."""
        assert self._origin is not None  # noqa: S101
        with self._room:
            self._arriving += wanted
            numbers = {path: number for number, path in enumerate(self.paths)}
            here = [
                (numbers.get(path) in self._soon, status.st_mtime_ns, status.st_size, path)
                for path, status in shards_in(self._folder)
            ]
            taken = self._arriving + sum(size for _, _, size, _ in here)
            for _, _, size, path in sorted(here):
                if taken <= self._origin.cache_bytes:
                    return
                number = numbers.get(path)
                if number is not None and self._users.get(number):
                    continue
                taken -= size
                if number is not None:
                    self._close_one(number)
                path.unlink(missing_ok=True)


class Publisher:
    """Copies a dataset to another place while it is being written; the manifest goes last.

    A place that holds another dataset is left as it is. One that holds part of the same dataset is completed.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._there = {file.name for file in folder.list()}
        self._whole = remote_manifest(folder) if MANIFEST in self._there else None
        self._shards = {shard.name: shard.xxh128 for shard in self._whole.shards} if self._whole else {}
        self._pool = ThreadPoolExecutor(_FETCHERS, "upload")
        self._uploads: list[Future[None]] = []

    def add(self, path: Path, checksum: str) -> None:
        """Copy a finished shard and its DALI index in the background, unless an earlier run did.

        Raises:
            DataError: if another dataset lies there already.
        """
        if self._whole and self._shards.get(path.name) != checksum:
            raise self._taken(self._whole)
        mark = f".{path.name}.{checksum}"
        if mark not in self._there:
            self._uploads.append(self._pool.submit(copy_context().run, self._upload, path, mark))

    def finish(self, folder: Path, manifest: Manifest) -> None:
        """Wait for all copies, then copy index and manifest, and clear the marks.

        Raises:
            DataError: if another dataset lies there already.
        """
        for upload in self._uploads:
            upload.result()
        self._pool.shutdown()
        if self._whole and self._whole.digest != manifest.digest:
            raise self._taken(self._whole)
        for name in (INDEX, QUARANTINE):
            if name == INDEX and self._whole and self._whole.index_sha256 != manifest.index_sha256:
                continue  # the same rows, written by another version; the manifest there has that file's checksum
            if (folder / name).is_file():
                self._folder.upload(folder / name, name)
        if not self._folder.create(MANIFEST, (folder / MANIFEST).read_bytes()):
            there = remote_manifest(self._folder)  # by a writer that finished first
            if there.digest != manifest.digest:
                raise self._taken(there)
        self._clear_marks()

    def stop(self) -> None:
        """Cancel the copies that have not begun."""
        self._pool.shutdown(wait=not stopping(), cancel_futures=True)

    def _taken(self, there: Manifest) -> DataError:
        return DataError(f"{self._folder.url}: holds another dataset ({there.digest}); name another place")

    def _clear_marks(self) -> None:
        self._folder.delete([file.name for file in self._folder.list(".")])

    def _upload(self, path: Path, mark: str) -> None:
        self._folder.upload(path, path.name)
        self._folder.upload(path.with_suffix(".idx"), path.with_suffix(".idx").name)
        self._folder.put(mark, b"")  # an upload that was interrupted is done again
