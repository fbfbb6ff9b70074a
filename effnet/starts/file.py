"""A weights file that was found, wherever it lies."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import NamedTuple

from effnet.runs import Start
from effnet.store import digest, sha256_file

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


class WeightsFile(NamedTuple):
    """A file here (`path`), or elsewhere (`origin`, and what fetches it)."""

    name: str  # without folders
    path: Path | None = None
    origin: str | None = None  # its address, which names one version of it where there are versions
    version: str = ""  # where its address does not
    fetch: Callable[[Path], None] | None = None  # write it to a path, whole or not at all

    @property
    def where(self) -> str:
        """Say where it lies."""
        return self.origin or str(self.path.absolute() if self.path else self.name)

    def start(self, cache: Path) -> Start:
        """Return it for a training to start from; a file from elsewhere is fetched, unless the cache has it."""
        path = self.path or cache / "weights" / digest([self.origin, self.version])[:16] / self.name
        if self.fetch and not path.exists():
            self.fetch(path)
        return Start(path=str(path.absolute()), sha256=sha256_file(path), origin=self.origin)


def is_of(path: PurePath, network: str) -> bool:
    """Say whether a file's name, or its folder's, has a network's name in it, as any code base writes it."""
    for name in (path.stem, path.parent.name):
        if re.search(rf"(^|[^a-z0-9]){re.escape(network)}($|[^a-z0-9])", name.lower().replace("-", "_")):
            return True
    return False


def spellings(network: str) -> set[str]:
    """Return how code bases write a network's name."""
    return {network, network.replace("_", "-")}
