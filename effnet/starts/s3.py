"""Weights on S3: an object, those below a prefix, or those of a pattern."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from effnet.errors import ConfigError
from effnet.starts.file import SUFFIXES, WeightsFile, is_of, spellings
from effnet.storage import File, Folder, open_folder

PREFIX = "s3://"
_MAGIC = re.compile(r"[*?\[]|\{name\}")


def find(weights: str, networks: Sequence[str]) -> Iterator[list[WeightsFile]]:
    """Yield the objects that may be each network's, from one listing.

    Args:
        weights: s3://bucket/prefix, below which a network's name stands in the object's or its folder's name, or a
            pattern with {name}; in it `*` stands for anything, slashes too.
        networks: their names, without what stands behind a dot.

    Raises:
        ConfigError: if the bucket cannot be read.
        AwayError: if the server does not answer.
    """
    bucket, pattern = _split(weights)
    folder = open_folder(bucket)
    fixed = pattern[: match.start()] if (match := _MAGIC.search(pattern)) else pattern
    objects = [file for file in folder.list(fixed) if file.name.endswith(SUFFIXES)]
    for network in networks:
        if "{name}" in pattern:
            patterns = [pattern.replace("{name}", name) for name in spellings(network)]
            wanted = [file for file in objects if any(fnmatchcase(file.name, each) for each in patterns)]
        else:
            below = f"{pattern.rstrip('/')}/".removeprefix("/")
            inside = (file for file in objects if file.name == pattern or file.name.startswith(below))
            wanted = [file for file in inside if is_of(PurePosixPath(file.name), network)]
        yield [_file(folder, file) for file in wanted]


def one(address: str) -> WeightsFile:
    """Return the object at s3://bucket/name, or model.safetensors below that, as in a run's folder.

    Raises:
        ConfigError: if there is none, or the bucket cannot be read.
        AwayError: if the server does not answer.
    """
    bucket, name = _split(address)
    folder, inside = open_folder(bucket), f"{name.rstrip('/')}/model.safetensors"
    for file in folder.list(name.rstrip("/")):
        if file.name in (name, inside) and file.name.endswith(SUFFIXES):
            return _file(folder, file)
    raise ConfigError(f"{address}: no weights file there ({', '.join(SUFFIXES)}), and no model.safetensors below it")


def _split(address: str) -> tuple[str, str]:
    bucket, _, name = address.removeprefix(PREFIX).partition("/")
    return f"{PREFIX}{bucket}", name


def _file(folder: Folder, file: File) -> WeightsFile:
    name = PurePosixPath(file.name).name
    fetch = functools.partial(folder.fetch, file.name)
    return WeightsFile(name, origin=f"{folder.url}/{file.name}", version=f"{file.tag}-{file.size}", fetch=fetch)
