"""The image files that people mean, when they name files, folders and patterns."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from effnet.data.images.intake import HEAD, is_image
from effnet.data.sources.folder import EXTENSIONS, files_below
from effnet.errors import ConfigError
from effnet.files import read_regular, reason


class Named(NamedTuple):
    """A file that people mean, or a name that means none."""

    path: Path
    missing: str = ""  # why it means no image


class Found(NamedTuple):
    """The files that people mean, each once, and the names that mean none, in the order in which they were named."""

    named: tuple[Named, ...]
    passed_over: int  # files in folders that are no images

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(each.path for each in self.named if not each.missing)


def find_images(names: Iterable[str]) -> Found:
    """Return the files that names mean.

    Args:
        names: files, which are taken whatever they are; folders, of which all images are taken, at any depth; patterns
            such as `photos/**/*.jpg`.

    Raises:
        ConfigError: if a name is empty.
    """
    named: dict[Path, str] = {}
    passed_over = 0
    for name in names:
        if not name:
            raise ConfigError("'': no name of a file or folder")
        try:
            found, passed = _meant(name)
        except ConfigError as error:
            named.setdefault(Path(name), str(error))
            continue
        named |= dict.fromkeys(found, "")
        passed_over += passed
    return Found(tuple(Named(path, missing) for path, missing in named.items()), passed_over)


def _meant(name: str) -> tuple[list[Path], int]:
    """Return the images that one name means, and how many files it passes over; ConfigError says why there are none."""
    path = Path(name)
    try:
        there, folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:  # no permission, or a name that no file can have
        raise ConfigError(reason(error) if isinstance(error, OSError) else "no name of a file or folder") from error
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
