"""Check a dataset: every shard against the manifest, every sample against the index, every image decoded."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from effnet.data.images.decode import decode
from effnet.data.shards import index
from effnet.data.shards.manifest import INDEX, MANIFEST, QUARANTINE, Manifest, ShardInfo, load_manifest, xxh128_file
from effnet.data.shards.mirror import ORIGIN, remote_manifest
from effnet.data.tar.reader import walk
from effnet.errors import DataError
from effnet.storage import is_remote, open_folder
from effnet.store import sha256_file


def verify(location: str | Path) -> list[str]:
    """Return one line per problem of a dataset in a folder or on S3, none if it is sound."""
    try:
        if is_remote(location):
            with tempfile.TemporaryDirectory(prefix="effnet-verify-") as scratch:
                return _verify_remote(str(location), Path(scratch))
        return _verify_local(Path(location))
    except DataError as error:
        return [str(error)]


def _verify_local(folder: Path) -> list[str]:
    manifest = load_manifest(folder)
    if manifest is None:
        return [f"{folder}: no {MANIFEST} here; a dataset is a folder that effnet wrote"]
    if not (folder / INDEX).is_file():
        return [f"{folder / INDEX}: missing"]
    if sha256_file(folder / INDEX) != manifest.index_sha256:
        return [f"{folder / INDEX}: does not match its checksum; shard the dataset again"]
    rows = _rows(folder / INDEX)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = pool.map(lambda shard: list(_shard(folder / shard.name, shard, rows[shard.name])), manifest.shards)
        problems = [problem for problems in found for problem in problems]
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    return problems + _strangers(str(folder), names, manifest)


def _verify_remote(location: str, scratch: Path) -> list[str]:
    """Fetch one shard after the other, check it and delete it."""
    folder = open_folder(location)
    manifest = remote_manifest(folder)
    folder.fetch(INDEX, scratch / INDEX)
    if sha256_file(scratch / INDEX) != manifest.index_sha256:
        return [f"{folder.url}/{INDEX}: does not match its checksum in the manifest"]
    rows, problems = _rows(scratch / INDEX), []
    for shard in manifest.shards:
        path = scratch / shard.name
        try:
            folder.fetch(shard.name, path)
            problems += [
                line.replace(f"{path}", f"{folder.url}/{shard.name}") for line in _shard(path, shard, rows[shard.name])
            ]
        except DataError as error:
            problems.append(str(error))
        path.unlink(missing_ok=True)
    return problems + _strangers(folder.url, {file.name for file in folder.list()}, manifest)


def _rows(path: Path) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in index.read_table(path).to_pylist():
        rows[row["shard"]].append(row)
    return rows


def _strangers(where: str, names: set[str], manifest: Manifest) -> list[str]:
    known = {MANIFEST, INDEX, QUARANTINE, ORIGIN} | {shard.name for shard in manifest.shards}
    known |= {Path(shard.name).with_suffix(".idx").name for shard in manifest.shards}
    return [f"{where}/{name}: not part of the dataset" for name in sorted(names - known)]


def _shard(path: Path, shard: ShardInfo, rows: list[dict[str, Any]]) -> Iterator[str]:
    if not path.is_file():
        yield f"{path}: missing"
        return
    sound = xxh128_file(path) == shard.xxh128
    descriptor = os.open(path, os.O_RDONLY)
    try:
        problems = [problem for row in rows if (problem := _sample(descriptor, path, row))]
        if not sound:
            try:
                for _ in walk(lambda offset, length: os.pread(descriptor, length, offset), str(path)):
                    pass
            except DataError as error:
                problems.append(str(error))
    finally:
        os.close(descriptor)
    if not sound and not problems:
        problems.append(f"{path}: does not match its checksum; the damage is outside the images")
    if len(rows) != shard.samples:
        problems.append(f"{path}: {len(rows)} samples in the index, {shard.samples} in the manifest")
    yield from problems


def _sample(descriptor: int, path: Path, row: dict[str, Any]) -> str | None:
    """Return what is wrong with a sample, if anything is."""
    where = f"{path}: byte {row['offset']}: image '{row['key']}'"
    data = os.pread(descriptor, row["length"], row["offset"])
    if hashlib.sha256(data).digest() != row["sha256"]:
        return f"{where}: does not match its checksum; shard the dataset again"
    try:
        pixels = decode(data, where)
    except DataError as error:
        return str(error)
    if pixels.shape[:2] != (row["height"], row["width"]):
        return f"{where}: {pixels.shape[1]} x {pixels.shape[0]} pixels, the index says {row['width']} x {row['height']}"
    return None
