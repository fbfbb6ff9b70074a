"""A family that is asked for again: found to be finished before anything heavy is started, if nothing has changed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from effnet.finished import NAME, is_unchanged, note_finished
from effnet.runs import RunFolder, read_value
from effnet.starts.here import PACKAGES
from effnet.store import Store
from tasks.servers.local import database, mlflow_uri, running

if TYPE_CHECKING:
    from effnet.config import FamilyConfig
    from effnet.family import FamilyResult
    from tasks.build import Build


def note(build: Build, result: FamilyResult) -> None:
    """Note that the family is finished, unless a later run would have something to do or cannot know whether it has."""
    store, tracker = build.store, build.tracker
    members = [RunFolder(store.runs / key) for member in result.members for key in member.runs]
    latencies = [folder.evaluated().latency for folder in members]
    settled = all(latency and latency.settled for latency in latencies)  # or they are measured again
    # Weights in a folder of somebody's own may get better ones beside them: where they lie is not looked at here.
    settled &= build.config.weights in (None, PACKAGES)
    teachers = [spec.teacher for folder in members if (spec := folder.spec()).teacher]
    settled &= all(teacher.run for teacher in teachers if teacher)  # a path may lead to another one
    if settled and tracker.uri == mlflow_uri(store.root) and not tracker.missed:
        runs = [RunFolder(store.runs / key) for key in tracker.forwarded]
        with contextlib.suppress(OSError):  # packages with other weights than those that a run once started from
            runs += [RunFolder(store.runs / teacher.run) for teacher in teachers if teacher and teacher.run]
            datasets = {each.manifest.digest for each in build.of_folds}
            note_finished(store, build.key, datasets, runs, [database(store.root)])


def finished(settings: FamilyConfig, base: Path, store: Store, say: Callable[[str], None]) -> FamilyResult | None:
    """Return the family if it was built to its end, and nothing has changed since; all its members are reused.

    None also if there is a Prefect server to tell, or anything elsewhere that may have changed: MLflow, a dataset.

    Args:
        settings: the family's config.
        base: folder that its relative paths begin at.
        store: that it is built in.
        say: told what a person should know about the dataset, and that nothing is done.
    """
    from effnet.config import load_baseline
    from effnet.data.shards.remarks import told_of
    from effnet.data.shards.write import find_dataset
    from effnet.family import RESULT, FamilyResult, build_key
    from tasks.servers.prefect_setup import configured_api

    if os.environ.get("MLFLOW_TRACKING_URI") or running(store.root) or not any(store.families.glob(f"*/{NAME}")):
        return None
    if (manifest := find_dataset(settings.data, store.datasets, base)) is None:
        return None
    key = build_key(settings, load_baseline(settings, base), manifest.digest)
    if not is_unchanged(store, key) or configured_api():
        return None
    if (result := read_value(FamilyResult, store.families / key / RESULT)) is None:
        return None
    for line in told_of(store.datasets / manifest.digest, manifest, reused=True):
        say(line)
    trainings = len({run for member in result.members for run in member.runs})
    say(f"nothing has changed: {trainings} trainings of members, and all else, are there (reused)")
    members = tuple(member.model_copy(update={"reused": True}) for member in result.members)
    return result.model_copy(update={"members": members})
