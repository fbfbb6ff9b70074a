"""The weights that trainings start from, found before anything is trained: here, on S3 or on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from effnet.arch.growth import check_grows, same_weights
from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig, load_baseline
from effnet.errors import ConfigError
from effnet.family import Member
from effnet.runs import Start
from effnet.starts import here, hub, s3
from effnet.starts.file import WeightsFile

ELSEWHERE = (s3.PREFIX, hub.PREFIX)


def member_starts(config: FamilyConfig, members: Sequence[Member], base: Path, cache: Path) -> dict[str, Start]:
    """Return the weights of each member, by its name, fetched if they lie elsewhere; see `member_files`.

    Args:
        config: of the family.
        members: as published, or scaled.
        base: folder that a relative path begins at.
        cache: folder that files from elsewhere are kept in.

    Raises:
        DataError: also if a file does not arrive intact.
    """
    files = member_files(config, members, base)
    fetched = {file: file.start(cache) for file in dict.fromkeys(files.values())}
    baseline = load_baseline(config, base) if config.grow else None
    return {
        member.name: _grown(fetched[files[member.name]], baseline, member.architecture)
        for member in members
        if member.name in files
    }


def member_files(config: FamilyConfig, members: Sequence[Member], base: Path) -> dict[str, WeightsFile]:
    """Find the weights of each member, by its name; none if the config names no weights. Nothing is downloaded.

    Args:
        config: `weights` is a folder, a pattern with {name}, `packages`, s3://… or hf://…; with `grow`, also a file or
            a run folder.
        members: as published, or scaled.
        base: folder that a relative path begins at.

    Raises:
        ConfigError: naming all members that have no file, or more than one, with what to do; or one that cannot be
            grown.
        AwayError: if a server does not answer.
    """
    if config.weights is None:
        return {}
    if config.grow:
        baseline = load_baseline(config, base)
        _check_all_grow(baseline, members)
        file = _of_baseline(config.weights, baseline, base)
        return {member.name: file for member in members}
    return _found(config.weights, {member.name: member.architecture for member in members}, base)


def is_elsewhere(weights: str) -> bool:
    """Say whether weights are named by an address: s3://… or hf://…"""
    return weights.startswith(ELSEWHERE)


def fetch_start(address: str, cache: Path) -> Start:
    """Return the weights at one address, s3://bucket/file or hf://owner/repository, fetched into a cache.

    Raises:
        ConfigError: if there is no such file, or it cannot be read.
        DataError: if it does not arrive intact.
        AwayError: if the server does not answer.
    """
    return _one(address).start(cache)


def _check_all_grow(baseline: Architecture, members: Sequence[Member]) -> None:
    """Raise ConfigError in one line unless all members can be grown: why the first cannot, and which φ can be."""
    problems = dict[str, str]()
    for member in members:
        try:
            check_grows(baseline, member.architecture)
        except ConfigError as error:
            problems[member.name] = str(error)
    if not problems:
        return
    first, *others = problems
    likewise = f"; nor can {', '.join(others)}" if others else ""
    possible = [f"{member.phi:g}" for member in members if member.name not in problems]
    advice = f"members: {{phi: [{', '.join(possible)}]}}" if len(possible) > 1 else "leave grow and weights out"
    raise ConfigError(f"{problems[first]}{likewise}; {advice}{' can be grown' if len(possible) > 1 else ''}")


def _of_baseline(weights: str, baseline: Architecture, base: Path) -> WeightsFile:
    if not is_elsewhere(weights):
        return here.one(base / weights) or _found(weights, {"baseline": baseline}, base)["baseline"]
    if "{name}" in weights or weights.endswith("/"):
        return _found(weights, {"baseline": baseline}, base)["baseline"]
    return _one(weights)


def _one(address: str) -> WeightsFile:
    return hub.one(address) if address.startswith(hub.PREFIX) else s3.one(address)


def _grown(start: Start, baseline: Architecture | None, member: Architecture) -> Start:
    if baseline is None or same_weights(baseline, member):
        return start
    return start.model_copy(update={"grown_from": baseline})


def _found(weights: str, networks: Mapping[str, Architecture], base: Path) -> dict[str, WeightsFile]:
    """Return a file for each network, by its label; ConfigError tells all that have none, or several."""
    found, problems = dict[str, WeightsFile](), list[str]()
    names = {label: network.name.partition(".")[0] for label, network in networks.items()}
    for (label, name), files in zip(names.items(), _files(weights, list(names.values()), base), strict=True):
        if isinstance(files, str):
            problems.append(files)
        elif len(files) == 1:
            found[label] = files[0]
        elif files:
            problems.append(f"{name} may be any of {', '.join(file.name for file in files[:3])}: keep one")
        else:
            problems.append(f"no file of {name} in {weights}")
    if problems:
        raise ConfigError(f"weights: {'; '.join(problems)}")
    return found


def _files(weights: str, names: Sequence[str], base: Path) -> list[list[WeightsFile] | str]:
    """Return the files that may be each network's, or why there can be none."""
    if weights.startswith(hub.PREFIX):
        return [hub.find(weights, name) for name in names]
    if weights.startswith(s3.PREFIX):
        return list(s3.find(weights, names))
    return [here.find(weights, name, base) for name in names]
