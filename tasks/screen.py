"""What a person at the terminal sees: finished things as lines, the current one as a line that changes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.status import Status
from rich.table import Table


class Screen:
    """Writes to standard error, so that standard output is free for results. Changing lines need a terminal."""

    def __init__(self) -> None:
        self.console = Console(file=sys.stderr, highlight=False)
        self._status: Status | None = None
        self._started = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line that stays, with the time since the start."""
        seconds = round(time.monotonic() - self._started)
        self.console.print(f"[dim]{seconds // 60:2d}:{seconds % 60:02d}[/dim]  {line}")

    def warn(self, line: str) -> None:
        """Print a warning that stays."""
        self.say(f"[yellow]{line}[/yellow]")

    def update(self, line: str) -> None:
        """Change the line at the bottom; nothing is shown where there is no terminal."""
        if not self.console.is_terminal:
            return
        if self._status is None:
            self._status = self.console.status(line)
            self._status.start()
        self._status.update(line)

    def settle(self) -> None:
        """Take the changing line away."""
        if self._status:
            self._status.stop()
            self._status = None

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; all columns but the first are numbers."""
        self.settle()
        table = Table(box=None, padding=(0, 2))
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)


def duration(seconds: float) -> str:
    """Return seconds as a person reads them: 45 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def short(number: float) -> str:
    """Return a count with its unit: 424 k, 5.29 M, 37.1 G."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:g}"
