"""What a dataset's folder says of itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from effnet.config import DataConfig
from effnet.errors import DataError
from effnet.runs import read_value
from effnet.values import Value, explain

MANIFEST, INDEX, QUARANTINE = "manifest.json", "index.parquet", "quarantine.jsonl"


class ShardInfo(Value):
    """One shard as the manifest lists it."""

    name: str
    split: str
    samples: int
    bytes: int
    xxh128: str  # of the whole file; every sample's own sha256 is in the index


class Manifest(Value):
    """What a dataset holds."""

    format: int = 2  # of the folder's layout and of the split rule; manifests of format 2 lack this field
    digest: str
    classes: tuple[str, ...]  # ids (folder names, WordNet ids); a label is a position here
    class_names: tuple[str, ...]  # what people call them
    samples: dict[str, int]  # images per split
    actions: dict[str, int]  # images per treatment: kept, cmyk, alpha, ... (docs/data.md); one may have had several
    quarantined: int  # images left out, listed in quarantine.jsonl
    passed_over: Annotated[dict[str, int], Field(default_factory=dict)]  # files that systems leave behind, by name
    notes: tuple[str, ...] = ()  # what else a person should know of it, a line each
    shards: tuple[ShardInfo, ...]
    index_sha256: str
    settings: DataConfig

    @property
    def num_samples(self) -> int:
        """Images in all splits together."""
        return sum(self.samples.values())


def load_manifest(folder: Path) -> Manifest | None:
    """Read a dataset's manifest; None if the dataset is not there, DataError if the manifest is broken."""
    return read_value(Manifest, folder / MANIFEST)


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Return a manifest from its bytes; raise DataError naming `where` if they are not one."""
    try:
        return Manifest.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise DataError(f"{where}: {explain(error, Manifest)}") from error


def xxh128_file(path: Path) -> str:
    """Return the xxh3-128 (32 hex digits) of a file's bytes."""
    import xxhash

    checksum = xxhash.xxh3_128()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            checksum.update(data)
    return checksum.hexdigest()


def shards_in(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the shards in a folder from which other processes may remove some meanwhile."""
    for path in folder.glob("*.tar"):
        with contextlib.suppress(FileNotFoundError):
            yield path, path.stat()
