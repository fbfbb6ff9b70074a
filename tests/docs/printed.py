"""Commands and files as the documentation prints them, and a place to try them in that is like a user's clone."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.tiny import clean_environment

ROOT = Path(__file__).parents[2]
MAKE = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")  # what `make test` hands to the `make` of a test
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a document."""

    document: str  # path in the repository
    line: int
    language: str
    text: str  # without the indentation of the fence

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block: lines that go on are joined, comments and empty lines left out."""
        return [bare for line in _joined(self.text) if (bare := _without_comment(line))]


def blocks(document: str, language: str | None = None) -> list[Block]:
    """Return a document's fenced blocks, in order; of one language if that is given."""
    text = (ROOT / document).read_text()
    found = []
    for match in _FENCE.finditer(text):
        cut = len(match["indent"])
        inner = "".join(line[cut:] if line.strip() else line for line in match["text"].splitlines(keepends=True))
        found.append(Block(document, text.count("\n", 0, match.start()) + 1, match["language"], inner))
    return [block for block in found if language in (None, block.language)]


def clone(folder: Path) -> Path:
    """Copy the tracked files into a new folder, with `.venv` as `make` would have it; return the folder."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # one that was removed and not committed yet is not
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def environment(**changes: str) -> dict[str, str]:
    """Return an environment in which `effnet`, `prefect` and `mlflow` are commands, and nothing is configured."""
    theirs = {name: value for name, value in clean_environment().items() if name not in MAKE}
    return theirs | changes


def run(command: str, folder: Path, *, seconds: float = 300, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a printed command to its end, in a shell, as somebody who pastes it."""
    return subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=environment(**changes),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def start(command: str, folder: Path, log: Path, **changes: str) -> subprocess.Popen[bytes]:
    """Start a printed command that stays, in a process group of its own; what it prints goes to a file."""
    with log.open("wb") as output:
        return subprocess.Popen(
            ["sh", "-c", command],
            cwd=folder,
            env=environment(**changes),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _joined(text: str) -> list[str]:
    return re.sub(r"\s*\\\n\s*", " ", text).splitlines()


def _without_comment(line: str) -> str:
    """Cut a comment off a line of shell; a `#` inside of quotes or words begins none."""
    match = re.fullmatch(r"((?:[^'\"#]|'[^']*'|\"[^\"]*\"|(?<=\S)#)*?)\s*(?:(?<!\S)#.*)?", line)
    return (match[1] if match else line).strip()
