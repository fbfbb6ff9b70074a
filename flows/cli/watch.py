"""`effnet runs --watch`: the trainings that are under way, whoever carries them out."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from effnet.errors import EffnetError
from effnet.runs import RunFolder
from effnet.store import Store
from tasks.terminal.screen import duration, make_table
from tasks.terminal.training import COLUMNS as PROGRESS
from tasks.terminal.training import Followed
from tasks.whole import families_under_way

SECONDS = 1.0  # between looks
PLAIN_SECONDS = 30.0  # between tables where there is no terminal
SILENT_SECONDS = 600.0  # after which a training that is not done counts as not under way
COLUMNS = ("", *PROGRESS, "last sign")


class Under(NamedTuple):
    """Trainings of a store: how many are done and how many wait, and a row for each that is under way."""

    done: int
    waiting: int
    rows: list[tuple[str, ...]]

    def __str__(self) -> str:
        return f"{len(self.rows)} under way, {self.done} done, {self.waiting} waiting or stopped"


class Watcher:
    """Looks at a store again and again.

    Args:
        store: to look at.
        wanted: says which runs, by family and kind.
    """

    def __init__(self, store: Store, wanted: Callable[[str | None, str | None], bool]) -> None:
        self._store, self._wanted = store, wanted
        self._done: set[Path] = set()  # results never change
        self._followed: dict[Path, tuple[Followed, int]] = {}  # with the epochs that each is trained for

    def look(self) -> Under:
        """Return what there is now."""
        waiting, rows = 0, list[tuple[str, ...]]()
        for path in sorted(self._store.runs.glob("*/config.json")):
            if path.parent in self._done:
                continue
            folder = RunFolder(path.parent)
            try:
                about = folder.about()
            except EffnetError:  # of another version, or being written
                continue
            if not self._wanted(about.experiment if about else None, about.kind if about else None):
                continue
            if folder.result_path.exists():
                self._done.add(path.parent)
                continue
            silent = _silent_for(folder)
            row = self._row(folder, silent) if silent < SILENT_SECONDS else None
            if row:
                rows.append(row)
            else:
                waiting += 1
        return Under(len(self._done), waiting, rows)

    def _row(self, folder: RunFolder, silent: float) -> tuple[str, ...] | None:
        """Return a training's row; None for a folder that another version wrote."""
        try:
            about = folder.about()
            if folder.path not in self._followed:
                self._followed[folder.path] = Followed(folder), folder.spec().recipe.epochs
            followed, epochs = self._followed[folder.path]
            followed.look()
        except EffnetError:
            return None
        name = f"{about.name}  ({about.experiment})" if about else folder.key[:12]
        return name, *followed.progress(epochs)[1], "now" if silent < 10 else f"{duration(silent)} ago"


def watch(store: Store, wanted: Callable[[str | None, str | None], bool]) -> None:
    """Show the trainings under way until Ctrl-C; without a terminal, a table now and then."""
    watcher, console = Watcher(store, wanted), Console(highlight=False)
    with suppress(KeyboardInterrupt):
        if not console.is_terminal:
            while True:
                console.print(*_shown(watcher.look(), store), sep="\n")
                time.sleep(PLAIN_SECONDS)
        with Live(console=console, refresh_per_second=2) as live:
            while True:
                live.update(
                    Group(*_shown(watcher.look(), store), Text("Ctrl-C ends this; the trainings go on", style="dim"))
                )
                time.sleep(SECONDS)


def _shown(under: Under, store: Store) -> tuple[str | Table, ...]:
    families = [f"{each.family}: {each.told()}" for each in families_under_way(store.families)]
    return (*families, str(under), *([make_table(COLUMNS, under.rows)] if under.rows else []))


def _silent_for(folder: RunFolder) -> float:
    """Return the seconds since the training last wrote anything that tells how far it is."""
    times = [0.0]
    for path in (folder.pace_path, folder.metrics_path, folder.path / "output.log"):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return time.time() - max(times)
