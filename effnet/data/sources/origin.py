"""The files that the images of a dataset were made from: a dataset itself knows them by their keys alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from effnet.config import FolderSource, SourceConfig
from effnet.data.sources.folder import ImageFolder
from effnet.errors import EffnetError
from effnet.storage import is_remote


def files_of(source: SourceConfig, bases: Iterable[Path], keys: Collection[str]) -> dict[str, str]:
    """Return the files of some images, by their keys, as far as they are known.

    Only a folder has a file for every image, and it may have moved, or be on another machine: nothing is known then.

    Args:
        source: that the dataset was made from.
        bases: folders that its relative paths may be relative to; the first where there is one of the files is taken.
        keys: of the images.
    """
    if not isinstance(source, FolderSource) or is_remote(source.train) or is_remote(source.val or ""):
        return {}
    wanted = set(keys)
    for base in bases:
        try:
            folder = ImageFolder(base / source.train, base / source.val if source.val else None)
        except (EffnetError, OSError):  # not there, or something else by now
            continue
        if found := {entry.key: folder.describe(entry) for entry in folder.entries() if entry.key in wanted}:
            return found
    return {}
