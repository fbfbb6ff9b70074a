"""metrics.jsonl: one line per epoch, never two, whatever is killed and when."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from effnet.runs import read_journal


class Journal:
    """Appends epochs to a run's journal. An epoch that has its line keeps it: a resumed training does not rewrite it.

    With `writes=False`, for all ranks but one, nothing is written.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        lines, end = read_journal(path)
        if writes and path.exists() and path.stat().st_size > end:
            os.truncate(path, end)  # a line that a kill cut short
        self.last_epoch = int(lines[-1]["epoch"]) if lines else 0

    def append(self, epoch: int, step: int, time: float, metrics: Mapping[str, float]) -> None:
        """Write an epoch's line (epoch counted from 1, time in Unix seconds) and flush it to the disk."""
        if epoch <= self.last_epoch or not self.writes:
            return
        numbers = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        line = json.dumps({"epoch": epoch, "step": step, "time": round(time, 3), **numbers}) + "\n"
        with self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self.last_epoch = epoch
