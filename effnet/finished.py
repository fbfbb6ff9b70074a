"""Whether a build was finished, and nothing that it rests on has changed since: then there is nothing to do again.

families/<key>/.finished.json, written when all of a build is done and recorded, holds the size and the time of the last
change of every file that the build made or read. One that differs, or is gone, and the build is looked at in full.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from effnet.errors import DataError
from effnet.runs import RunFolder, read_value
from effnet.store import Store, digest, publish
from effnet.values import Value

NAME = ".finished.json"
_CHANGING = ("lock", "output.log", "pace.json")  # files of a run that say nothing about its outcome


class Finished(Value):
    """What a finished build rests on."""

    code: str  # digest of effnet's own files: another version may have more to do
    files: dict[str, tuple[int, int]]  # by path, relative to the store where it lies there: bytes, nanoseconds


def note_finished(
    store: Store, key: str, datasets: Iterable[str], runs: Iterable[RunFolder], others: Iterable[Path]
) -> None:
    """Note that a build is finished.

    Args:
        store: that it lies in.
        key: of the build.
        datasets: digests of its datasets.
        runs: all of its trainings, and those that they learnt from.
        others: more files that it rests on, such as the database with its records.
    """
    folder = store.families / key
    paths = [*_inside(folder), *others]
    for dataset in datasets:
        paths += _inside(store.datasets / dataset)
    for run in runs:
        paths += [path for path in _inside(run.path) if path.name not in _CHANGING]
        if start := run.spec().start:
            paths += [Path(start.path), Path(start.path).parent]  # a file that is added there may be found instead
    files = {_name(store, path): _state(path) for path in paths}
    publish(folder / NAME, Finished(code=_code(), files=files).model_dump_json().encode())


def is_unchanged(store: Store, key: str) -> bool:
    """Say whether a build was finished by this version of effnet, and all that it rests on is as it was then."""
    try:
        noted = read_value(Finished, store.families / key / NAME)
        if noted is None or noted.code != _code():
            return False
        return all(_state(store.root / name) == state for name, state in noted.files.items())
    except (OSError, DataError):  # what is gone has changed; a note that cannot be read says nothing
        return False


def _inside(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))


def _name(store: Store, path: Path) -> str:
    path = path.absolute()
    return str(path.relative_to(store.root) if path.is_relative_to(store.root) else path)


def _state(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _code() -> str:
    """Return a digest of names, sizes and times of change of effnet's own files."""
    root = Path(__file__).parents[1]
    files = [path for name in ("effnet", "tasks", "flows") for path in (root / name).rglob("*.py")]
    files += (root / "effnet/report/templates").iterdir()
    return digest(sorted([str(path.relative_to(root)), *_state(path)] for path in files))
