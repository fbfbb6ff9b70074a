"""Tables that commands write into files: CSV, or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effnet.errors import ConfigError
from effnet.files import reason
from effnet.store import publish, try_folder


def check_table(path: Path) -> None:
    """Raise ConfigError if a table cannot be written, or its name says neither CSV nor JSON: before any work."""
    check_output(path, ".csv", ".json")


def check_output(path: Path, *suffixes: str) -> None:
    """Raise ConfigError if a file cannot be written, or its name has none of these ends: before any work."""
    if path.suffix not in suffixes:
        raise ConfigError(f"{path}: write a file whose name ends in {' or '.join(suffixes)}")
    check_file(path)


def check_file(path: Path) -> None:
    """Raise ConfigError if a file cannot be written: before any work."""
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.absolute().parent}")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: a folder, a pipe or a device, where a file is to be written")
    try:
        try_folder(path.absolute().parent)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {reason(error)}") from error


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as CSV with a line of names, or as a list of JSON objects, whichever the file's name says.

    Return what to tell the user: the file, and whether it replaces one of that name.
    """
    text = io.StringIO()
    if path.suffix == ".json":
        json.dump(rows, text, indent=2, ensure_ascii=False)
    else:
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    return write_file(path, text.getvalue())


def write_file(path: Path, text: str) -> str:
    """Write a file; return what to tell the user: the file, and whether it replaces one of that name."""
    replaced = path.exists()
    try:
        publish(path, text.encode())
    except OSError as error:
        raise ConfigError(f"{path}: {reason(error)}") from error
    return f"{path}: written{' in place of the earlier one' if replaced else ''}"
