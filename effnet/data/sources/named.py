"""The image files that people mean, when they name files, folders and patterns."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from effnet.data.images.intake import HEAD, is_image
from effnet.data.sources.folder import EXTENSIONS, files_below
from effnet.errors import ConfigError
from effnet.files import read_regular, reason

_SHOWN = 3  # names that a message has, of those that mean nothing


class Found(NamedTuple):
    """The files that people mean."""

    paths: tuple[Path, ...]
    passed_over: int  # files in folders that are no images
    missing: tuple[tuple[str, str], ...] = ()  # names that mean no image, and why


def find_images(names: Iterable[str]) -> Found:
    """Return the files that names mean, each once, in their order.

    Args:
        names: files, which are taken whatever they are; folders, of which all images are taken, at any depth; patterns
            such as `photos/**/*.jpg`.

    Raises:
        ConfigError: if no name means an image; the message says why of each.
    """
    paths: dict[Path, None] = {}
    missing: list[tuple[str, str]] = []
    passed_over = 0
    for name in names:
        try:
            found, passed = _meant(name)
        except ConfigError as error:
            missing.append((name, str(error)))
            continue
        paths |= dict.fromkeys(found)
        passed_over += passed
    if not paths:
        raise ConfigError("; ".join(f"{_shown(name)}: {why}" for name, why in missing[:_SHOWN]) + _rest(missing))
    return Found(tuple(paths), passed_over, tuple(missing))


def _shown(name: str) -> str:
    return name if name.isprintable() and 0 < len(name) <= 80 else repr(name[:80])


def _rest(missing: Sequence[tuple[str, str]]) -> str:
    return f"; and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""


def _meant(name: str) -> tuple[list[Path], int]:
    """Return the images that one name means, and how many files it passes over; ConfigError says why there are none."""
    path = Path(name)
    try:
        there, folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:  # no permission, or a name that no file can have
        raise ConfigError(reason(error) if isinstance(error, OSError) else "no name of a file or folder") from error
    if not name:
        raise ConfigError("no name of a file or folder")
    if folder:
        inside = [Path(each) for each, litter in files_below(path) if not litter]
        images = [each for each in inside if _is_image(each) or each.is_dir()]  # a folder that cannot be opened
        if not images:
            raise ConfigError("no images in this folder")
        return images, len(inside) - len(images)
    if there:
        return [path], 0
    if not glob.has_magic(name):
        raise ConfigError("no such file or folder")
    files = [each for each in sorted(Path(each) for each in glob.glob(name, recursive=True)) if each.is_file()]
    if not files:
        raise ConfigError("no file matches")
    return files, 0


def _is_image(path: Path) -> bool:
    """Say whether a file in a folder is meant: by its name, or else by its first bytes."""
    if path.suffix.lower() in EXTENSIONS:
        return True
    try:
        return is_image(read_regular(path, HEAD))
    except OSError:
        return False
