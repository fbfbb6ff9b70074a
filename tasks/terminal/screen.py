"""What a person at the terminal sees: finished things as lines, and below them the work that goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from effnet.process import process_started

WHOLE = "whole family"
PLAIN_SECONDS = 30.0  # between lines about progress where there is no terminal


class Page(Protocol):
    """Another place where people follow the work; tasks.terminal.flow_page says what its methods do."""

    def say(self, line: str) -> None: ...
    def card(self, name: str, text: str) -> None: ...
    def share(self, title: str, share: float, told: str = "") -> None: ...


class Screen:
    """Writes to standard error, so that standard output is free for results.

    Args:
        page: also shows every permanent line, and the progress of every stage.
    """

    def __init__(self, page: Page | None = None) -> None:
        self.console = Console(file=sys.stderr, highlight=False)
        self._page = page
        self._live: Live | None = None
        self._told = time.monotonic()
        self._started = self._told - (time.time() - process_started())  # users count from the start of the process
        self._stage: tuple[str, float, float] | None = None  # title, when it began, its share done then

    def say(self, line: str, style: str = "") -> None:
        """Print a line that stays, with the time since the start."""
        stamp = Text(f"{_clock(time.monotonic() - self._started)}  ", style="dim")
        self.console.print(stamp + Text(line, style=style), soft_wrap=True)
        if self._page:
            self._page.say(line)

    def warn(self, line: str) -> None:
        """Print a warning that stays."""
        self.say(line, style="yellow")

    def note(self, name: str, line: str, text: str) -> None:
        """Report something finished on the page only: a line in its log, and Markdown if there is any."""
        if self._page:
            self._page.say(line)
            if text:
                self._page.card(name, text)

    @property
    def can_ask(self) -> bool:
        """Whether a person is at the terminal."""
        return self.console.is_terminal and sys.stdin.isatty()

    def ask(self, question: str) -> bool:
        """Ask the person at the terminal; anything but a yes is a no."""
        try:
            answer = self.console.input(Text(f"{question} [y/N] "))
        except EOFError:
            return False
        return answer.strip().lower() in ("y", "yes")

    def progress(
        self,
        title: str,
        share: float,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        may_end_early: bool = False,
        family: tuple[float, str] | None = None,
    ) -> None:
        """Show how far a stage is: a table, a bar and the time left. Without a terminal: a line now and then.

        Args:
            title: the stage.
            share: of its work that is done, 0 to 1.
            columns, rows: of the table.
            may_end_early: the work may end before all of it is done.
            family: how far all stages are together: the share, and the time left in words.
        """
        now = time.monotonic()
        how = "at most" if may_end_early else "about"
        of_family = f"{WHOLE}: {family[0]:.0%} {family[1]}".rstrip() if family else ""
        if self._page:
            self._page.share(title, share)
            if family:
                self._page.share(WHOLE, family[0], of_family)
        if self._stage is None or self._stage[0] != title:
            self._stage, self._told = (title, now, share), now
        left = _left(now - self._stage[1], share - self._stage[2], share, how)
        if self.console.is_terminal:
            if self._live is None:
                self._live = Live(console=self.console, transient=True, refresh_per_second=4)
                self._live.start()
            bar = Table.grid(padding=(0, 1))
            bar.add_row(title, ProgressBar(total=1, completed=share, width=30), f"{share:.0%}", left)
            if family:
                bar.add_row(WHOLE, ProgressBar(total=1, completed=family[0], width=30), f"{family[0]:.0%}", family[1])
            self._live.update(Group(Text(), make_table(columns, rows), Text(), bar))
        elif now - self._told > PLAIN_SECONDS:
            self._told = now
            self.say("; ".join(filter(None, (f"{title}: {share:.0%} {left}".rstrip(), of_family))))

    def settle(self) -> None:
        """Remove the changing part of the display."""
        if self._live:
            self._live.stop()
        self._live = self._stage = None


def make_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table: text first, which a narrow terminal breaks, then numbers, which stay whole."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=number > 0)
    for row in rows:
        table.add_row(*row)
    return table


def duration(seconds: float) -> str:
    """Return seconds as a person reads them: 45 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def short(number: float) -> str:
    """Return a count with its unit: 424 k, 5.29 M, 37.1 G, 2 T."""
    for limit, unit in ((1e3, ""), (1e6, " k"), (1e9, " M"), (1e12, " G"), (1e15, " T")):
        if number < 0.9995 * limit:  # what rounds up to 1000 has the next unit
            return f"{number / (limit / 1e3):.3g}{unit}"
    return f"{number / 1e12:,.0f} T"


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60:2d}:{whole % 60:02d}"


def _left(seconds: float, gained: float, share: float, how: str) -> str:
    """Say how long the rest will take at the pace so far; nothing while there is too little to judge by."""
    if gained < 0.02:
        return ""
    return f"{how} {duration(seconds * (1 - share) / gained)} left"
