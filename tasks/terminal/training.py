"""How far a training is, as a person reads it: the same cells wherever trainings are shown while they run."""

from __future__ import annotations

import math

from effnet.runs import RunFolder, read_journal
from tasks.terminal.screen import duration

COLUMNS = ("epoch", "minival top-1", "images/s", "time", "left")


def progress_of(folder: RunFolder, goal: int) -> tuple[float, tuple[str, ...]]:
    """Return a training's epochs done, also in part, and a cell for each of COLUMNS.

    Args:
        folder: of the run.
        goal: epochs that it is trained for.
    """
    lines, pace = read_journal(folder.metrics_path)[0], folder.pace()
    if pace and not pace.is_after(len(lines)):
        pace = None
    epochs = pace.epochs if pace else float(len(lines))
    best = max((line["minival_top1"] for line in lines), default=None)
    left = pace.seconds_left(goal) if pace else None
    return epochs, (
        f"{math.floor(10 * epochs) / 10:.1f}/{goal}" if pace else f"{len(lines)}/{goal}",
        "" if best is None else f"{best:.1%}",
        f"{pace.images_per_second:,.0f}" if pace else "",
        duration(lines[-1]["seconds"]) if lines else "",
        "" if left is None else duration(left),
    )
