"""A family that trains in seconds with every stage in it: search, study, grid, members."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tiny import CONFIG

SEARCH = (
    "baseline: {search: {reference: tiny-baseline.yaml, trials: 4, batch: 2, population: 2, sample: 2, epochs: 2, "
    "halving: 2, control: true, target_macs: 60000, window: [0.2, 3]}}\n"
)
STUDY = "study: {factors: [2], seeds: 2, epochs: 1, strategies: [depth, compound]}\n"
FIT = "fit: {step: 0.1, maximum: 1.5, tolerance: 0.2, max_candidates: 5, epochs: 2, halving: 2, seeds: 2}\n"


def config(*, search: bool = False) -> str:
    lines = []
    for line in CONFIG.splitlines(keepends=True):
        if line.startswith("baseline:"):
            lines.append(SEARCH if search else line)
        elif line.startswith("fit:"):
            lines += [FIT, STUDY]
        else:
            lines.append(line.replace("[0, 1, 2]", "[0, 1]"))
    return "".join(lines)


def finished(home: Path) -> dict[str, int]:
    """Return when each finished run of a store was finished."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (home / "store/runs").glob("*/result.json")}


def epochs(home: Path) -> int:
    """Return the epochs in all journals of a store."""
    return sum(path.read_text().count("\n") for path in (home / "store/runs").glob("*/metrics.jsonl"))


def found(home: Path, name: str) -> dict[str, object]:
    (path,) = (home / "store/families").glob(f"*/{name}")
    return json.loads(path.read_text())  # type: ignore[no-any-return]
