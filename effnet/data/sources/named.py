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


class Found(NamedTuple):
    """The files that people mean."""

    paths: tuple[Path, ...]
    passed_over: int  # files in folders that are no images


def find_images(names: Iterable[str]) -> Found:
    """Return the files that names mean, each once, in their order.

    Args:
        names: files, which are taken whatever they are; folders, of which all images are taken, at any depth; patterns
            such as `photos/**/*.jpg`.

    Raises:
        ConfigError: if there is no such file or folder, nothing matches, or a folder holds no images.
    """
    paths: dict[Path, None] = {}
    passed_over = 0
    for name in names:
        path = Path(name)
        try:
            there, folder = path.exists(), path.is_dir()
        except (OSError, ValueError) as error:  # no permission, or a name that no file can have
            told = reason(error) if isinstance(error, OSError) else "no name of a file or folder"
            raise ConfigError(f"{name[:80]!r}: {told}") from error
        if not name:
            raise ConfigError("'': no name of a file or folder")
        if folder:
            inside = [Path(each) for each, litter in files_below(path) if not litter]
            images = [each for each in inside if _is_image(each) or each.is_dir()]  # a folder that cannot be opened
            passed_over += len(inside) - len(images)
            if not images:
                raise ConfigError(f"{name}: no images in this folder")
            paths |= dict.fromkeys(images)
        elif there or not glob.has_magic(name):
            if not there:
                raise ConfigError(f"{name}: no such file or folder")
            paths[path] = None
        else:
            matches = sorted(Path(each) for each in glob.glob(name, recursive=True))
            if not (files := [each for each in matches if each.is_file()]):
                raise ConfigError(f"{name}: no file matches")
            paths |= dict.fromkeys(files)
    return Found(tuple(paths), passed_over)


def _is_image(path: Path) -> bool:
    """Say whether a file in a folder is meant: by its name, or else by its first bytes."""
    if path.suffix.lower() in EXTENSIONS:
        return True
    try:
        return is_image(read_regular(path, HEAD))
    except OSError:
        return False
