"""A training's state on disk: whole or not there, checked by sha256, the newest valid one found by looking.

checkpoints/step-N/  weights.safetensors  the weights that are evaluated (averaged, if the recipe averages)
                     state.pt             everything else that the training resumes from
                     MANIFEST.json        sha256 of both
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from effnet.errors import DataError
from effnet.machine import raise_if_broken
from effnet.store import canonical_json, publish_folder, remove_folder, sha256_file

WEIGHTS, STATE, MANIFEST = "weights.safetensors", "state.pt", "MANIFEST.json"


def save(
    checkpoints: Path, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Any], *, anew: bool = False
) -> Path:
    """Write a checkpoint; one of the same step that is there already stays, if it is valid.

    With `anew` it stays only until the new one is whole.
    """
    target = checkpoints / f"step-{step}"
    if target.exists() and not anew:
        if problem(target) is None:
            return target
        remove_folder(target)
    with publish_folder(target, replace=anew) as folder:
        tensors = {name: value.contiguous() for name, value in weights.items()}
        (folder / WEIGHTS).write_bytes(safetensors.torch.save(tensors))
        buffer = io.BytesIO()  # torch's own writer hides the disk's errors
        torch.save(dict(state), buffer)
        (folder / STATE).write_bytes(buffer.getbuffer())
        sums = {name: sha256_file(folder / name) for name in (WEIGHTS, STATE)}
        (folder / MANIFEST).write_bytes(canonical_json(sums))
    return target


def steps(checkpoints: Path) -> list[int]:
    """Return the steps of all checkpoints, valid or not, newest first."""
    if not checkpoints.is_dir():
        return []
    names = (path.name.removeprefix("step-") for path in checkpoints.glob("step-*"))
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def problem(folder: Path) -> str | None:
    """Say in one line what is wrong with a checkpoint; None if it is valid."""
    try:
        sums = json.loads((folder / MANIFEST).read_bytes())
        for name in (WEIGHTS, STATE):
            if sha256_file(folder / name) != sums[name]:
                return f"{folder}: {name} does not match its checksum; the checkpoint is not used"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{folder}: incomplete or unreadable ({type(error).__name__}); the checkpoint is not used"
    return None


def newest(checkpoints: Path, warn: Callable[[str], None], among: Container[int] | None = None) -> Path | None:
    """Return the newest valid checkpoint; broken ones are reported to `warn` and skipped.

    Args:
        checkpoints: folder of checkpoints.
        warn: told about broken ones.
        among: the steps that may be used; all if not given.
    """
    for step in steps(checkpoints):
        if among is not None and step not in among:
            continue
        folder = checkpoints / f"step-{step}"
        trouble = problem(folder)
        if trouble is None:
            return folder
        warn(trouble)
    return None


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint's weights and state. No code in it is run.

    Raises:
        DataError: if it is broken.
    """
    if trouble := problem(folder):
        raise DataError(trouble)
    try:
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # the bytes are as written, so this is a foreign or forged file
        raise_if_broken(error)
        raise DataError(f"{folder}: not a checkpoint of this library ({type(error).__name__})") from error
    return weights, state


def prune(checkpoints: Path, best_step: int | None, keep: int = 2) -> None:
    """Remove all but the `keep` newest and the best checkpoint."""
    for step in steps(checkpoints)[keep:]:
        if step != best_step:
            remove_folder(checkpoints / f"step-{step}")
