"""Write a dataset as WebDataset shards with an index and a manifest, and check one that is there.

    datasets/<digest>/train-00000.tar ... minival-*.tar  val-*.tar   plain WebDataset: KEY.png|jpg and KEY.cls
                      index.parquet                                  where each image lies (effnet.data.index)
                      manifest.json                                  what there is, with sha256

The folder gets its name when everything in it is complete. An interrupted write goes on after its last whole shard.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from effnet.config import DataConfig
from effnet.data import index
from effnet.data.decode import image_size
from effnet.data.sources import Source, open_source
from effnet.data.splits import SPLITS, ShardPlan, plan_shards
from effnet.errors import DataError
from effnet.runs import read_value
from effnet.store import TEMPORARY, canonical_json, digest, hold, publish, remove_folder, sha256_file, sync_folder
from effnet.values import Value

FORMAT = 1  # of the folder's layout; part of the digest
MANIFEST = "manifest.json"
INDEX = "index.parquet"


class ShardInfo(Value):
    """One shard as the manifest lists it."""

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str


class Manifest(Value):
    """What a dataset holds. `samples` counts the images per split."""

    digest: str
    classes: tuple[str, ...]
    samples: dict[str, int]
    shards: tuple[ShardInfo, ...]
    index_sha256: str
    settings: DataConfig

    @property
    def num_samples(self) -> int:
        """Images in all splits together."""
        return sum(self.samples.values())


def dataset_digest(config: DataConfig) -> str:
    """Return the dataset's name: 16 hex digits that equal sources and settings share. Reads no image."""
    fingerprint = dict(open_source(config.source).fingerprint())
    return digest({"format": FORMAT, "source": fingerprint, "settings": config.model_dump(mode="json")})[:16]


def load_manifest(folder: Path) -> Manifest | None:
    """Read a dataset's manifest; None if the dataset is not there, DataError if the manifest is broken."""
    return read_value(Manifest, folder / MANIFEST)


def write_shards(
    config: DataConfig, datasets: Path, progress: Callable[[int, int], None] | None = None
) -> tuple[Manifest, bool]:
    """Write the dataset below `datasets`, unless it is there; return its manifest and whether it was there.

    Args:
        config: source, split and shard settings.
        datasets: folder that holds datasets, one folder per digest.
        progress: called with (images written, images in all) after every shard.

    Raises:
        BusyError: if another process is writing this dataset.
        DataError: if an image cannot be read, naming it.
    """
    name = dataset_digest(config)
    folder = datasets / name
    if manifest := load_manifest(folder):
        return manifest, True
    partial = datasets / f"{TEMPORARY}{name}"
    busy = f"{folder}: another process is writing this dataset; wait for it or stop it"
    with hold(datasets / f"{name}.lock", busy):
        if manifest := load_manifest(folder):  # another process finished while this one came to the lock
            return manifest, True
        partial.mkdir(parents=True, exist_ok=True)
        manifest = _write_all(config, name, partial, progress or (lambda _done, _total: None))
        remove_folder(folder)  # a folder without a manifest is not a dataset
        os.rename(partial, folder)
        sync_folder(datasets)
    return manifest, False


def verify(folder: Path) -> list[str]:
    """Check every byte of a dataset against its manifest; return one line per problem, none if it is sound."""
    try:
        manifest = load_manifest(folder)
    except DataError as error:
        return [str(error)]
    if manifest is None:
        return [f"{folder}: no {MANIFEST} here; a dataset is a folder that effnet wrote"]
    wanted = {shard.name: shard.sha256 for shard in manifest.shards} | {INDEX: manifest.index_sha256}
    problems = []
    for name, sha256 in wanted.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{path}: missing")
        elif sha256_file(path) != sha256:
            problems.append(f"{path}: its bytes are not those that were written; shard the dataset again")
    strangers = sorted({path.name for path in folder.iterdir()} - set(wanted) - {MANIFEST})
    return problems + [f"{folder / name}: not part of the dataset" for name in strangers]


def _write_all(config: DataConfig, name: str, partial: Path, progress: Callable[[int, int], None]) -> Manifest:
    source = open_source(config.source)
    plans = plan_shards(source.entries(), config)
    total = sum(len(plan.entries) for plan in plans)
    shards: list[ShardInfo] = []
    rows: list[dict[str, Any]] = []
    for plan in plans:
        info, shard_rows = _finished(partial, plan) or _write_shard(source, plan, partial)
        shards.append(info)
        rows += shard_rows
        progress(len(rows), total)
    index.write(partial / INDEX, rows)
    manifest = Manifest(
        digest=name,
        classes=tuple(source.classes),
        samples={split: sum(shard.samples for shard in shards if shard.split == split) for split in SPLITS},
        shards=tuple(shards),
        index_sha256=sha256_file(partial / INDEX),
        settings=config,
    )
    for plan in plans:
        _part(partial, plan).unlink()
    publish(partial / MANIFEST, manifest.model_dump_json(indent=2).encode())
    return manifest


def _write_shard(source: Source, plan: ShardPlan, partial: Path) -> tuple[ShardInfo, list[dict[str, Any]]]:
    """Write one shard and then its part file, which says that the shard is whole."""
    from webdataset import TarWriter

    path = partial / plan.name
    samples = {}
    with path.open("wb") as file:
        # Fixed owner, mode and time: the same images give the same bytes.
        writer = TarWriter(file, mtime=0.0, encoder=False)
        for entry in plan.entries:
            sample = source.read(entry)
            size = image_size(sample.image, f"image {entry.key!r}")
            samples[f"{entry.key}.{sample.extension}"] = (sample, size)
            writer.write({"__key__": entry.key, sample.extension: sample.image, "cls": str(entry.label).encode()})
        writer.close()
        file.flush()
        os.fsync(file.fileno())
    rows: list[dict[str, Any]] = []
    with tarfile.open(path) as tar:  # offsets are read back from what was written, not computed
        for member in tar:
            if member.name in samples:
                sample, (width, height) = samples[member.name]
                rows.append(
                    {
                        "key": sample.key,
                        "split": plan.split,
                        "shard": plan.name,
                        "offset": member.offset_data,
                        "length": member.size,
                        "label": sample.label,
                        "width": width,
                        "height": height,
                        "sha256": hashlib.sha256(sample.image).digest(),
                    }
                )
    info = ShardInfo(
        name=plan.name,
        split=plan.split,
        samples=len(rows),
        bytes=path.stat().st_size,
        sha256=sha256_file(path),
    )
    part = {"info": info.model_dump(), "rows": [row | {"sha256": row["sha256"].hex()} for row in rows]}
    publish(_part(partial, plan), canonical_json(part))
    return info, rows


def _finished(partial: Path, plan: ShardPlan) -> tuple[ShardInfo, list[dict[str, Any]]] | None:
    """Return what an interrupted write already finished of a shard, if its bytes still are what they were."""
    try:
        part = json.loads(_part(partial, plan).read_bytes())
    except FileNotFoundError:
        return None
    info = ShardInfo.parse(part["info"], str(_part(partial, plan)))
    path = partial / plan.name
    if not path.is_file() or sha256_file(path) != info.sha256:
        return None
    return info, [row | {"sha256": bytes.fromhex(row["sha256"])} for row in part["rows"]]


def _part(partial: Path, plan: ShardPlan) -> Path:
    return partial / f"{plan.name}.part.json"
