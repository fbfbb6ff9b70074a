"""Weights on the Hugging Face hub, through its own library: safetensors alone, of a revision that is pinned.

Files go through the library's cache, which other projects share; HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN mean what
they mean there.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from effnet.errors import AwayError, ConfigError, DataError
from effnet.files import reason, without_password
from effnet.starts.file import WeightsFile, is_of
from effnet.store import new_file, sha256_file

PREFIX = "hf://"
FILE = "model.safetensors"  # of a repository, unless another is named
SECONDS = 5.0  # to wait for an answer
_LATER = 429  # HTTP: too many requests
_ADDRESS = re.compile(
    r"hf://(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<file>[\w./-]+))?", re.ASCII
)
_NO_NAME = re.compile(r"--|\.git$|(^|/)[.-]|[.-](/|$)")  # what the hub allows in no name
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Address(NamedTuple):
    """A file on the hub."""

    repository: str  # owner/name
    revision: str  # a branch, a tag or a commit
    file: str

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{PREFIX}{self.repository}@{self.revision}/{self.file}"


def parse(text: str) -> Address:
    """Read hf://owner/name, hf://owner/name@revision, hf://owner/name@revision/file.safetensors.

    Raises:
        ConfigError: if it is anything else, or a file that could hold code.
    """
    match = _ADDRESS.fullmatch(text.rstrip("/"))
    if match is None or ".." in text or _NO_NAME.search(match["repository"]):
        raise ConfigError(f"{text}: write hf://OWNER/REPOSITORY, or hf://OWNER/REPOSITORY@REVISION/FILE.safetensors")
    found = Address(match["repository"], match["revision"] or "main", match["file"] or FILE)
    if not found.file.endswith(".safetensors"):
        raise ConfigError(f"{text}: from the hub, only .safetensors files are read: others can hold code")
    return found


def find(weights: str, network: str) -> list[WeightsFile] | str:
    """Return the file of a network, or why there is none.

    Args:
        weights: an address with {name}, or one whose repository has the network's name in its own.
        network: its name, without what stands behind a dot.

    Raises:
        ConfigError: if the address is none, or the library is not installed.
        AwayError: if the hub does not answer, and no copy is here.
    """
    address = parse(weights.replace("{name}", network))
    if "{name}" not in weights and not is_of(PurePosixPath(address.repository), network):
        return f"{weights} is not of {network}: write {{name}} where the network's name stands"
    try:
        return [_located(address)]
    except _MissingError as error:
        return str(error)


def one(text: str) -> WeightsFile:
    """Return the file at an address.

    Raises:
        ConfigError: if there is none, or the library is not installed.
        AwayError: if the hub does not answer, and no copy is here.
    """
    try:
        return _located(parse(text))
    except _MissingError as error:
        raise ConfigError(str(error)) from error


class _MissingError(Exception):
    """The hub answers, and has no such file, or not for us."""


def _located(address: Address) -> WeightsFile:
    pinned = address._replace(revision=_commit(address))
    name = PurePosixPath(address.file).name
    return WeightsFile(name, origin=str(pinned), fetch=functools.partial(_fetch, pinned, address.revision))


def _commit(address: Address) -> str:
    """Return the commit that a revision is now; of the copy in the cache where the hub is not asked, or away."""
    library = _library()
    copy = library.try_to_load_from_cache(address.repository, address.file, revision=address.revision)
    kept = _commit_of(Path(copy)) if isinstance(copy, str) else None
    if kept == address.revision:
        return kept
    url = library.hf_hub_url(address.repository, address.file, revision=address.revision)
    try:
        commit = library.get_hf_file_metadata(url, timeout=SECONDS).commit_hash
    except Exception as error:
        told = _told(error, address)
        if isinstance(told, AwayError) and kept:
            return kept
        raise told from error.__cause__
    if not commit:
        raise AwayError(f"{address}: {_endpoint()} does not answer as the Hugging Face hub does; check HF_ENDPOINT")
    return str(commit)


def _commit_of(path: Path) -> str:
    """Return the commit of a file in the library's cache: …/snapshots/COMMIT/FILE."""
    return path.parts[path.parts.index("snapshots") + 1]


def _fetch(pinned: Address, revision: str, target: Path) -> None:
    """Download a file through the library's cache, compare its checksum with the hub's, and copy it to `target`."""
    download = functools.partial(_library().hf_hub_download, pinned.repository, pinned.file)
    try:
        kept = Path(download(revision=revision))  # so that the cache also knows which commit a branch was
        if _commit_of(kept) != pinned.revision:  # it moved meanwhile
            kept = Path(download(revision=pinned.revision))
    except Exception as error:
        told = _told(error, pinned)
        raise (ConfigError(str(told)) if isinstance(told, _MissingError) else told) from error.__cause__
    stated = kept.resolve().name  # the cache calls a large file by the sha256 that the hub states
    if _SHA256.fullmatch(stated) and sha256_file(kept) != stated:
        for damaged in (kept.resolve(), kept):
            damaged.unlink(missing_ok=True)
        raise DataError(f"{pinned}: what arrived is not what the hub has, and was removed; run the command again")
    with new_file(target) as temporary:
        try:
            os.link(kept.resolve(), temporary)
        except OSError:  # another file system
            shutil.copyfile(kept, temporary)


def _told(error: Exception, address: Address) -> Exception:
    """Return an error of the library as one of ours, in one line; a fault that is none of its own as it is."""
    import httpx2  # that the library asks with; its errors of the network come through as they are
    from huggingface_hub import errors

    where = f"hf://{address.repository}"
    if isinstance(error, errors.GatedRepoError):
        return _MissingError(f"{where}: its owner wants to be asked first; do so on its page, and set HF_TOKEN")
    if isinstance(error, errors.RepositoryNotFoundError):
        return _MissingError(f"{where}: no such repository on {_endpoint()}, or it is private (HF_TOKEN)")
    if isinstance(error, errors.RevisionNotFoundError):
        return _MissingError(f"{where}: it has no revision {address.revision}")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return _MissingError(f"{where}: it has no {address.file}; only safetensors are read, never pickles")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return AwayError(f"{address}: not in the cache, and HF_HUB_OFFLINE forbids to ask the hub for it")
    if isinstance(error, errors.HfHubHTTPError) and (status := error.response.status_code) < 500:
        if status == _LATER:
            return AwayError(f"{where}: {_endpoint()} wants to be asked later ({status}); HF_TOKEN may help")
        return _MissingError(f"{where}: {_endpoint()} refuses to give it ({status}); check HF_TOKEN")
    if isinstance(error, OSError) and error.filename:  # a file of the cache
        return ConfigError(f"{error.filename}: {reason(error)}; HF_HOME says where the hub's cache lies")
    if isinstance(error, httpx2.HTTPError | OSError):
        return AwayError(
            f"{address}: {_endpoint()} does not answer, and the file is not in the cache; check the network, or give a "
            "folder with the weights"
        )
    return error


def _endpoint() -> str:
    from huggingface_hub import constants

    return without_password(str(constants.ENDPOINT))


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConfigError("weights from hf:// need the package huggingface_hub: pip install 'effnet[hub]'") from error
    return huggingface_hub
