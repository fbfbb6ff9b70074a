"""How many trials: few in CI, all with EFFNET_FAULTS=full (make faults); and what came of them, as tables."""

from __future__ import annotations

import os
from collections.abc import Mapping

TABLES: list[str] = []


FULL = os.environ.get("EFFNET_FAULTS") == "full"


def wanted(few: int, full: int) -> int:
    return full if FULL else few


def show(title: str, fired: Mapping[str, int], outcomes: Mapping[str, int]) -> None:
    lines = [f"{title}: {sum(fired.values()):,} fired"]
    lines += [f"  {name:36}{number:7,}" for name, number in sorted(fired.items())]
    lines += [f"  -> {name:33}{number:7,}" for name, number in sorted(outcomes.items())]
    TABLES.append("\n".join(lines))
