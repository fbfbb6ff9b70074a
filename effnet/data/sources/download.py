"""Sources on S3: their files are copied to the scratch folder, in parallel, and read there."""

from __future__ import annotations

import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from effnet.config import SourceConfig
from effnet.errors import ConfigError
from effnet.storage import File, Folder, is_remote, open_folder
from effnet.store import digest

_FIELDS = ("train", "val", "folder", "devkit")  # fields of source configs that hold locations
_PARALLEL = 16


def localized(config: SourceConfig, scratch: Path) -> SourceConfig:
    """Return the config with every s3:// location replaced by a local copy, which is made unless it is there."""
    remote = {name: value for name in _FIELDS if is_remote(value := getattr(config, name, None) or "")}
    return config.model_copy(update={name: str(_copy(url, scratch)) for name, url in remote.items()})


def _copy(url: str, scratch: Path) -> Path:
    """Copy what a location names (a file, a folder's files, or a pattern's) and return the copy's location."""
    parent, _, last = url.rstrip("/").rpartition("/")
    folder, pattern = open_folder(parent), last
    literal = last.split("*")[0].split("{")[0]
    files = folder.list(literal)
    inside = [file for file in files if file.name.startswith(f"{last}/")]
    wanted = inside or [file for file in files if "/" not in file.name]
    if not wanted:
        raise ConfigError(f"{url}: not found; check data.source in the config")
    target = scratch / f"s3-{digest(url)[:16]}"
    with ThreadPoolExecutor(_PARALLEL) as pool:
        for _ in pool.map(lambda file: _fetch(folder, file, target), wanted):
            pass
    return target.absolute() / pattern


def _fetch(folder: Folder, file: File, target: Path) -> None:
    path = target / file.name
    stamp = zlib.crc32(file.tag.encode())  # as the modification time: another version is another file
    if not path.is_file() or (path.stat().st_size, int(path.stat().st_mtime)) != (file.size, stamp):
        folder.fetch(file.name, path)
        os.utime(path, (stamp, stamp))
