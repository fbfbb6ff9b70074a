"""What changed since the last build of a family of the same name: what is read for it, and what is kept for the next.

families/<family>.builds.jsonl in the store holds a line for each finished build that was not just like the one before.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from effnet.config import FamilyConfig
from effnet.data.shards.index import Index
from effnet.data.shards.manifest import INDEX, load_manifest
from effnet.errors import EffnetError
from effnet.family import FamilyResult
from effnet.files import read_regular
from effnet.history import Built, BuiltMember, Pair, compare, pairs_wanted
from effnet.hits import hits_of
from effnet.report.costs import stage_runs
from effnet.runs import RunFolder
from effnet.statistics import Hits
from effnet.store import Store, publish
from tasks.build import Build

VERSIONS = ("effnet", "torch", "numpy", "prefect", "mlflow", "webdataset", "pyarrow")
_LARGEST = 1 << 28  # bytes of a family's history


def with_changes(build: Build, result: FamilyResult) -> FamilyResult:
    """Return a result with what changed since the build before; as it is, if that is the first of its name."""
    now, history = _built(build, result), read_history(build.store, result.family)
    while history and history[-1].same(now):  # built again, and nothing was different
        history.pop()
    if not history:
        return result
    known = {run for past in history for runs in past.runs.values() for run in runs}
    mine = {run for runs in now.runs.values() for run in runs if _made_for(build.store, run) == build.key}
    before = history[-1].model_copy(update={"config": _with_defaults(history[-1].config)})
    changes = compare(before, now, mine - known, dict(_pairs(build.store, before, now)), _classes(build, before))
    return result.model_copy(update={"changes": changes})


def keep_build(build: Build, result: FamilyResult) -> None:
    """Add a finished build to its family's history, unless it is just like the last one there."""
    now, history = _built(build, result), read_history(build.store, result.family)
    if history and history[-1].same(now):
        return
    lines = [each.model_dump_json() for each in (*history, now)]
    publish(_path(build.store, result.family), "".join(f"{line}\n" for line in lines).encode())


def read_history(store: Store, family: str) -> list[Built]:
    """Return the finished builds of a family, in their order; lines of another version of effnet are left out."""
    try:
        lines = read_regular(_path(store, family), _LARGEST).splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(Built.model_validate_json(line, strict=True))
        except ValidationError:
            continue
    return found


def _path(store: Store, family: str) -> Path:
    return store.families / f"{family}.builds.jsonl"


def _built(build: Build, result: FamilyResult) -> Built:
    return Built(
        key=build.key,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        config=build.config.model_dump(mode="json"),
        dataset=result.dataset,
        samples=build.manifest.samples,
        classes=build.num_classes,
        environment={"python": platform.python_version(), "machine": platform.machine()}
        | {name: version(name) for name in VERSIONS},
        coefficients=result.coefficients,
        answer=result.answer.member if result.answer else None,
        members=tuple(BuiltMember(name=each.name, top1=each.top1, runs=tuple(each.runs)) for each in result.members),
        runs={stage.heading: tuple(sorted(runs)) for stage, runs in stage_runs(build.folder, result).items() if runs},
    )


def _made_for(store: Store, run: str) -> str | None:
    """Return the key of the build that a run was first wanted for."""
    about = RunFolder(store.runs / run).about()
    return about.family if about else None


def _with_defaults(config: dict[str, object]) -> dict[str, object]:
    """Return a config's plain data with the fields that came later; as it is, if this version cannot read it."""
    try:
        return FamilyConfig.model_validate(config).model_dump(mode="json")
    except ValidationError:
        return config


def _classes(build: Build, before: Built) -> tuple[Sequence[str], Sequence[str]] | None:
    try:
        manifest = load_manifest(build.store.datasets / before.dataset)
    except EffnetError:
        manifest = None
    return (manifest.class_names, build.manifest.class_names) if manifest else None


def _pairs(store: Store, before: Built, now: Built) -> Iterator[tuple[tuple[str, str], Pair]]:
    """Yield what members before and now are right about, where they were scored on some of the same images."""
    for old, one in pairs_wanted(before, now):
        try:
            found = [_on_val(store, member.runs) for member in (old, one)]
        except (EffnetError, OSError):  # a run or a dataset of before may have been removed
            continue
        (images, hits), (images_now, hits_now) = found
        if images != images_now:
            places = {image: place for place, image in enumerate(images)}
            both = [(places[image], place) for place, image in enumerate(images_now) if image in places]
            if not both:
                continue
            hits, hits_now = hits[:, [place for place, _ in both]], hits_now[:, [place for _, place in both]]
        yield (old.name, one.name), Pair(hits, hits_now)


def _on_val(store: Store, runs: Sequence[str]) -> tuple[list[bytes], Hits]:
    """Return the images of val, each by its bytes and its class, and what a member's trainings are right about.

    With folds all datasets have the same val; it is read from the first.
    """
    folders = [RunFolder(store.runs / run) for run in runs]
    dataset = store.datasets / folders[0].spec().dataset
    manifest = load_manifest(dataset)
    index = Index.read(dataset / INDEX, "val")
    ids = manifest.classes if manifest else ()
    images = [bytes(row) + ids[label].encode() for row, label in zip(index.sha256, index.labels, strict=True)]
    return images, np.atleast_2d(hits_of(folders, "val"))
