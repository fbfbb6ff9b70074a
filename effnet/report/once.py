"""What is drawn, drawn once: again only if what it shows has changed, or how it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from effnet.report.pictures import Strip, dumped, loaded
from effnet.store import digest, publish

FOLDER = ".drawn"  # below a build's: what the page alone is made of, and what each figure was drawn from
STYLE = 7  # raise it when a change of the code makes figures look different


def once(
    folder: Path,
    name: str,
    facts: Any,
    draw: Callable[[Sequence[Path]], None],
    suffixes: Sequence[str] = ("png", "svg"),
) -> list[Path]:
    """Draw NAME.png and NAME.svg, unless they are there and were drawn from the same facts; return their paths.

    Args:
        folder: of the build.
        name: of the figure.
        facts: all that the figure shows, as plain data.
        draw: called with the paths to write.
        suffixes: of the files.
    """
    targets = [folder / f"{name}.{suffix}" for suffix in suffixes]
    mark = _Mark(folder, name, facts)
    if not (mark.stands() and all(target.exists() for target in targets)):
        folder.mkdir(parents=True, exist_ok=True)
        draw(targets)
        mark.set()
    return targets


def strips_once(folder: Path, name: str, facts: Any, make: Callable[[], Sequence[Strip]]) -> tuple[Strip, ...]:
    """Return pictures of the page; those that were made from the same facts are kept below FOLDER."""
    path, mark = folder / FOLDER / f"{name}.json", _Mark(folder, name, facts)
    if mark.stands() and path.exists():
        return loaded(path.read_bytes())
    found = tuple(make())
    publish(path, dumped(found))
    mark.set()  # last: a process that is killed in between draws them again
    return found


class _Mark:
    """Says what something was drawn from."""

    def __init__(self, folder: Path, name: str, facts: Any) -> None:
        self._path = folder / FOLDER / name
        self._digest = digest({"style": STYLE, "facts": facts}).encode()

    def stands(self) -> bool:
        return self._path.exists() and self._path.read_bytes() == self._digest

    def set(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        publish(self._path, self._digest)
