"""Check a dataset: every shard against the manifest, every sample against the index, every image decoded."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from effnet.data import index
from effnet.data.decode import decode
from effnet.data.shards import INDEX, MANIFEST, QUARANTINE, ShardInfo, load_manifest, xxh128_file
from effnet.data.sources.tars import walk
from effnet.errors import DataError
from effnet.store import sha256_file


def verify(folder: Path) -> list[str]:
    """Return one line per problem of a dataset, none if it is sound."""
    try:
        manifest = load_manifest(folder)
        if manifest is None:
            return [f"{folder}: no {MANIFEST} here; a dataset is a folder that effnet wrote"]
        if not (folder / INDEX).is_file():
            return [f"{folder / INDEX}: missing"]
        if sha256_file(folder / INDEX) != manifest.index_sha256:
            return [f"{folder / INDEX}: its bytes are not those that were written; shard the dataset again"]
        rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in index.read_table(folder / INDEX).to_pylist():
            rows[row["shard"]].append(row)
    except DataError as error:
        return [str(error)]
    wanted = {shard.name for shard in manifest.shards}
    idx = {Path(name).with_suffix(".idx").name for name in wanted}
    strangers = sorted({path.name for path in folder.iterdir()} - wanted - idx - {MANIFEST, INDEX, QUARANTINE})
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = pool.map(lambda shard: list(_shard(folder / shard.name, shard, rows[shard.name])), manifest.shards)
        problems = [problem for problems in found for problem in problems]
    return problems + [f"{folder / name}: not part of the dataset" for name in strangers]


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
        problems.append(f"{path}: its bytes are not those that were written, outside of the images")
    if len(rows) != shard.samples:
        problems.append(f"{path}: {len(rows)} samples in the index, {shard.samples} in the manifest")
    yield from problems


def _sample(descriptor: int, path: Path, row: dict[str, Any]) -> str | None:
    """Return what is wrong with a sample, if anything is."""
    where = f"{path}: byte {row['offset']}: image '{row['key']}'"
    data = os.pread(descriptor, row["length"], row["offset"])
    if hashlib.sha256(data).digest() != row["sha256"]:
        return f"{where}: its bytes are not those that were written; shard the dataset again"
    try:
        pixels = decode(data, where)
    except DataError as error:
        return str(error)
    if pixels.shape[:2] != (row["height"], row["width"]):
        return f"{where}: {pixels.shape[1]} x {pixels.shape[0]} pixels, the index says {row['width']} x {row['height']}"
    return None
