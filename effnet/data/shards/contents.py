"""What a dataset is made of: counts, sizes, duplicates, what was left out. From the index alone; no image is read."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from effnet.data.shards.index import read_table
from effnet.data.shards.manifest import INDEX, MANIFEST, Manifest, load_manifest
from effnet.data.shards.plan import SPLITS
from effnet.data.shards.quarantine import listed
from effnet.data.shards.remarks import remarks
from effnet.errors import ConfigError

_SHOWN = 20  # duplicate groups that are spelled out


def report(folder: Path) -> dict[str, Any]:
    """Return counts per class and split, quantiles of the images' sizes, and duplicates, as plain data.

    Raises:
        ConfigError: if the folder is no dataset.
    """
    manifest = load_manifest(folder)
    if manifest is None:
        raise ConfigError(f"{folder}: no {MANIFEST} here; a dataset is a folder that effnet wrote")
    table = read_table(folder / INDEX)
    return {
        "digest": manifest.digest,
        "samples": manifest.samples,
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "actions": manifest.actions,
        "classes": _classes(table, manifest),
        "sizes": {name: _quantiles(table[name].to_numpy()) for name in ("width", "height", "length")},
        "duplicates": _duplicates(table),
        "quarantine": listed(folder),
        "remarks": list(remarks(folder, manifest)),
    }


def _classes(table: pa.Table, manifest: Manifest) -> list[dict[str, Any]]:
    split = table["split"].cast(pa.string())
    counts = {
        name: np.bincount(table.filter(pc.equal(split, name))["label"].to_numpy(), minlength=len(manifest.classes))
        for name in SPLITS
    }
    return [
        {"class": key, "name": name, **{split: int(counts[split][label]) for split in SPLITS}}
        for label, (key, name) in enumerate(zip(manifest.classes, manifest.class_names, strict=True))
    ]


def _quantiles(values: Any) -> dict[str, float]:
    names = ("min", "median", "max")
    return {name: float(value) for name, value in zip(names, np.quantile(values, (0, 0.5, 1)), strict=True)}


def _duplicates(table: pa.Table) -> dict[str, Any]:
    """Count images whose bytes occur more than once; across splits they make scores too good."""
    repeated = table["sha256"].value_counts()
    repeated = repeated.filter(pc.greater(pc.struct_field(repeated, "counts"), 1))
    rows = table.filter(pc.is_in(table["sha256"], pc.struct_field(repeated, "values")))
    groups: dict[bytes, list[dict[str, Any]]] = defaultdict(list)
    for row in rows.select(["key", "split", "label", "sha256"]).to_pylist():
        groups[row.pop("sha256")].append(row)
    across = [group for group in groups.values() if len({row["split"] for row in group}) > 1]
    labels = [group for group in groups.values() if len({row["label"] for row in group}) > 1]
    return {
        "groups": len(groups),
        "images": len(rows),
        "across_splits": len(across),
        "across_classes": len(labels),
        "examples": (across + [group for group in groups.values() if group not in across])[:_SHOWN],
    }
