"""Which of a network's outputs is which of a dataset's classes: by id, never by position where ids are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effnet.data.shards.index import Index
from effnet.data.shards.manifest import INDEX, Manifest, load_manifest
from effnet.errors import ConfigError, DataError
from effnet.runs import RunFolder
from effnet.store import publish

CLASS_IDS = "classes.json"  # of a model folder
_SHOWN = 10  # classes that a message names


class Known(NamedTuple):
    """What is known of a network's classes, in the order of its outputs."""

    ids: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None


class Matching(NamedTuple):
    """A dataset's classes among a network's."""

    outputs: NDArray[np.int64]  # for each class of the dataset, the network's output
    told: str  # how they were found; empty where both have the same


def classes_of_run(folder: RunFolder) -> Known:
    """Return the classes of a run: those of its dataset, if that is still there."""
    return known_of(load_manifest(folder.store.datasets / folder.spec().dataset))


def classes_of_model(folder: Path) -> Known:
    """Return the classes that a model folder names, in classes.json (ids) or predictor.json (names)."""
    return Known(_listed(folder / CLASS_IDS), _listed(folder / "predictor.json"))


def known_of(manifest: Manifest | None) -> Known:
    """Return the classes of what was trained on a dataset."""
    return Known(manifest.classes, manifest.class_names) if manifest else Known()


def save_class_ids(folder: Path, manifest: Manifest) -> None:
    """Write classes.json into a model folder."""
    publish(folder / CLASS_IDS, json.dumps({"classes": list(manifest.classes)}, ensure_ascii=False).encode())


def match_classes(known: Known, num_outputs: int, manifest: Manifest, where: str) -> Matching:
    """Find a dataset's classes among those of a network.

    Args:
        known: the network's classes.
        num_outputs: their number.
        manifest: of the dataset; it may have fewer classes than the network, but none that the network lacks.
        where: names the dataset in messages.

    Raises:
        ConfigError: naming the classes that the network does not have; or, where nothing is known of its classes, if
            their number differs.
    """
    if known.ids == manifest.classes and num_outputs == len(manifest.classes):
        return Matching(np.arange(num_outputs), "")
    lacking: list[str] = []
    for by, own, theirs in (
        ("id", known.ids, manifest.classes),
        ("name", known.names, manifest.class_names),
        ("id", known.names, manifest.classes),  # a model folder may know names alone, which often are the ids
    ):
        if own is None or len(own) != num_outputs or len({*own}) < len(own) or len({*theirs}) < len(theirs):
            continue
        places = {name: place for place, name in enumerate(own)}
        missing = [name for name in theirs if name not in places]
        if not missing:
            found = np.array([places[name] for name in theirs], np.int64)
            return Matching(found, _told(by, found, num_outputs, theirs))
        lacking = lacking or missing
    if lacking:
        raise ConfigError(
            f"{where}: the network does not have {len(lacking)} of its {len(manifest.classes)} classes ("
            f"{_some(lacking)}); leave these classes out of the data, or train on them"
        )
    if num_outputs != len(manifest.classes):
        raise ConfigError(
            f"the network has {num_outputs} classes, {where} has {len(manifest.classes)}, and nothing says which they "
            "are; give a run folder whose dataset is in its store, or a model folder with classes.json"
        )
    told = "nothing says which classes the network has: taken in the dataset's order, by position"
    return Matching(np.arange(num_outputs), told)


def _told(by: str, found: NDArray[np.int64], num_outputs: int, names: Sequence[str]) -> str:
    if len(found) == num_outputs:
        same = np.array_equal(found, np.arange(num_outputs))
        return "" if same else f"all {num_outputs} classes matched by {by}; the dataset has them in another order"
    return f"{len(found)} of the network's {num_outputs} classes, matched by {by}: {_some(names)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _listed(path: Path) -> tuple[str, ...] | None:
    try:
        names = json.loads(path.read_bytes())["classes"]
        return None if names is None else tuple(str(name) for name in names)  # none: nobody knows them
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a list of classes ({error}); remove it, or create the folder again") from error


def compared_samples(folds: Sequence[Sequence[RunFolder]]) -> list[int]:
    """Return how many images each class has among those of effnet.hits.compared_hits."""
    if len(folds) == 1:
        return list(folds[0][0].evaluated().class_samples)
    specs = [(trainings[0].store, trainings[0].spec()) for trainings in folds]
    labels = [Index.read(store.datasets / spec.dataset / INDEX, "minival").labels for store, spec in specs]
    return [int(number) for number in np.bincount(np.concatenate(labels), minlength=specs[0][1].num_classes)]
