"""The network that a recipe's `teacher` names, where that is no member of the family: a run, a model, or weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from effnet.arch import zoo
from effnet.arch.spec import Architecture
from effnet.data.shards.manifest import Manifest
from effnet.errors import ConfigError
from effnet.evaluation.classes import Known, classes_of_model, classes_of_run, match_classes
from effnet.foreign import library_of
from effnet.models.weights import ARCHITECTURE, WEIGHTS, load_weights
from effnet.runs import MIN_KEY, RunFolder, Teacher
from effnet.starts.file import is_of
from effnet.store import Store, sha256_file


class _Named(NamedTuple):
    weights: Path
    architecture: Architecture
    known: Known
    run: str | None = None  # key, if it is a run of the store


def find_teacher(name: str, base: Path, store: Store, manifest: Manifest) -> tuple[Teacher, str]:
    """Return the network that a name means, and what to tell of its classes; empty if they are the dataset's.

    Args:
        name: key of a run of the store, or its beginning; or path of a run folder, a model folder or a weights file,
            whose network must then be told by its name.
        base: folder that a relative path begins at.
        store: of the run that is to learn.
        manifest: of its dataset; the network may have more classes, in any order.

    Raises:
        ConfigError: if there is no such network, or none of which all classes of the dataset are known.
        DataError: if its weights are broken.
    """
    run = _by_key(name, base, store)
    found = _of_run(run, store) if run else _of_path(name, base / name, store)
    outputs = load_weights(found.weights, found.architecture).network.classifier.out_features
    try:
        matching = match_classes(found.known, outputs, manifest, "the dataset")
    except ConfigError as error:
        raise ConfigError(f"recipe.teacher: {name}: {error}") from error
    same = np.array_equal(matching.outputs, np.arange(outputs))
    which = (
        {"run": found.run}
        if found.run
        else {"path": str(found.weights.absolute()), "sha256": sha256_file(found.weights)}
    )
    teacher = Teacher(
        architecture=found.architecture, outputs=() if same else tuple(map(int, matching.outputs)), **which
    )
    return teacher, matching.told


def teacher_architecture(name: str, base: Path, store: Store) -> Architecture:
    """Return the architecture of the network that a name means; see `find_teacher`."""
    if run := _by_key(name, base, store):
        return _of_run(run, store).architecture
    return _of_path(name, base / name, store).architecture


def _by_key(name: str, base: Path, store: Store) -> RunFolder | None:
    """Return the run whose key begins so; None if there is none.

    Raises:
        ConfigError: if there are several, or a file or folder has that name, too.
    """
    if re.fullmatch(f"[0-9a-f]{{{MIN_KEY},16}}", name) is None:
        return None
    found = [path.parent for path in sorted(store.runs.glob(f"{name}*/config.json"))]
    keys = ", ".join(path.name for path in found)
    if len(found) > 1:
        raise ConfigError(f"recipe.teacher: '{name}' may be any of {len(found)} runs ({keys}); give more of the key")
    if found and found[0].name != name and (base / name).exists():
        raise ConfigError(f"recipe.teacher: '{name}' is a run of {store.root}, and is here: write ./{name} or {keys}")
    return RunFolder(found[0]) if found else None


def _of_path(name: str, path: Path, store: Store) -> _Named:
    folder = path.parent if path.is_file() else path
    if not path.is_file() or path.name == WEIGHTS:  # another file in it is not the folder's model
        if (folder / ARCHITECTURE).is_file():
            return _Named(folder / WEIGHTS, Architecture.load(folder / ARCHITECTURE), classes_of_model(folder))
        if (folder / "config.json").is_file() and not library_of(folder):
            return _of_run(RunFolder(folder), store)
    if not path.is_file():
        raise ConfigError(
            f"recipe.teacher: '{name:.80}' is no member of the family, no run of {store.root} by its key or "
            "the beginning of one, and no run folder, model folder or weights file"
        )
    networks = [network for network in zoo.names() if is_of(path, network)]
    if len(networks) != 1:
        raise ConfigError(
            f"recipe.teacher: {path}: its name does not tell one network that effnet knows; `effnet import-weights` "
            "makes a model folder of it, which does"
        )
    return _Named(path, zoo.get(networks[0]), Known())


def _of_run(run: RunFolder, store: Store) -> _Named:
    spec = run.spec()
    if run.result() is None:
        raise ConfigError(f"recipe.teacher: {run.unfinished()}")
    here = run.path.resolve().parent == store.runs.resolve()
    return _Named(run.weights_path, spec.architecture, classes_of_run(run), run.key if here else None)
