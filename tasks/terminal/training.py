"""How far a training is, as a person reads it: the same cells wherever trainings are shown while they run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from effnet.runs import Pace, RunFolder, read_journal
from tasks.terminal.screen import duration

COLUMNS = ("epoch", "minival top-1", "images/s", "time", "left")


class Journal(NamedTuple):
    """What a training's journal says so far."""

    end: int = 0  # bytes
    epochs: int = 0
    best: float | None = None  # top-1 on minival
    seconds: float = 0.0


class Followed:
    """A training that is looked at again and again: only what is new is read, and nothing once it is done."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._metrics_path, self._pace_path = folder.metrics_path, folder.pace_path
        self._result_path = folder.result_path
        self._journal = Journal()
        self._pace: Pace | None = None
        self._written = 0  # when the pace was, as far as was looked: nanoseconds
        self.done = False

    def look(self) -> None:
        """Read what is new."""
        if self.done:
            return
        done = self._result_path.exists()  # then the journal is whole
        self._follow_journal()
        self._follow_pace()
        self.done = done

    def _follow_journal(self) -> None:
        size, known = _status(self._metrics_path)[0], self._journal
        if size < known.end:  # it goes on from an earlier checkpoint
            known = Journal()
        if size == known.end:
            return
        lines, end = read_journal(self._metrics_path, known.end)
        scores: list[float] = [line["minival_top1"] for line in lines]
        best = max([*scores, *([] if known.best is None else [known.best])], default=None)
        seconds = lines[-1]["seconds"] if lines else known.seconds
        self._journal = Journal(end, known.epochs + len(lines), best, seconds)

    def _follow_pace(self) -> None:
        written = _status(self._pace_path)[1]
        if written != self._written:
            self._pace, self._written = self._folder.pace(), written

    @property
    def begun(self) -> bool:
        """Whether anything of it is known, as far as was looked."""
        return self._journal.epochs > 0 or self._pace is not None

    def progress(self, goal: int) -> tuple[float, tuple[str, ...]]:
        """Return the epochs done, also in part, and a cell for each of COLUMNS, as far as was looked.

        Args:
            goal: epochs that it is trained for.
        """
        _, epochs, best, seconds = self._journal
        pace = self._pace if self._pace and self._pace.is_after(epochs) else None
        left = pace.seconds_left(goal) if pace else None
        return pace.epochs if pace else float(epochs), (
            f"{math.floor(10 * pace.epochs) / 10:.1f}/{goal}" if pace else f"{epochs}/{goal}",
            "" if best is None else f"{best:.1%}",
            f"{pace.images_per_second:,.0f}" if pace else "",
            duration(seconds) if epochs else "",
            "" if left is None else duration(left),
        )


def progress_of(folder: RunFolder, goal: int) -> tuple[float, tuple[str, ...]]:
    """Return what `Followed.progress` says of a training that is looked at once."""
    followed = Followed(folder)
    followed.look()
    return followed.progress(goal)


def _status(path: Path) -> tuple[int, int]:
    """Return a file's size in bytes, and when it was written in nanoseconds; zeros if it is not there."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
