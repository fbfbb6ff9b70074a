"""The notes on images that are left out, and their summary: a line per reason and extension."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from effnet.data.images.intake import DENIED, READERS, BadImage
from effnet.data.shards.manifest import QUARANTINE
from effnet.data.sources import Entry, Refused, Source

_LINES = 20


def bad_row(source: Source, entry: Entry, split: str, data: bytes, error: BadImage) -> dict[str, Any]:
    """Return the note on an image that the policy refuses."""
    return {
        "key": entry.key,
        "split": split,
        "label": entry.label,
        "where": source.describe(entry),
        "offset": entry.offset,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "kind": error.kind,
        "reason": str(error),
    }


def refused_row(file: Refused) -> dict[str, Any]:
    """Return the note on a file that is not an image of any class."""
    return {"where": file.where, "bytes": file.bytes, "kind": file.kind, "reason": file.kind}


def listed(folder: Path) -> list[dict[str, Any]]:
    """Return the notes on the images that a dataset leaves out."""
    path = folder / QUARANTINE
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.is_file() else []


def was_lacking(row: Mapping[str, Any]) -> bool:
    """Say whether an image was left out because the machine lacked rights or a reader, not for what the image is."""
    return row.get("kind") in (DENIED, *READERS)


def is_mended(row: Mapping[str, Any]) -> bool:
    """Say whether what this machine lacked when it left the image out (rights, a reader of the format) is there now."""
    if not was_lacking(row):
        return False
    return os.access(row["where"], os.R_OK) if row["kind"] == DENIED else READERS[row["kind"]]()


def summary(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line per reason and extension, the most frequent first, with the first image of each."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        extension = os.path.splitext(row["where"])[1].lower()
        groups.setdefault(
            (row.get("kind", row["reason"]), extension if extension[1:].isalnum() else "other"), []
        ).append(row)
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    for (kind, extension), found in ordered[:_LINES]:
        first = found[0]
        yield f"{len(found):,} {extension}: {first['reason'] if len(found) == 1 else kind} (first: {first['where']})"
    if more := ordered[_LINES:]:
        yield f"and {sum(len(found) for _, found in more):,} more of {len(more)} other kinds"
