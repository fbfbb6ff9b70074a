"""Send to MLflow what it does not have yet: after an outage, or to another server."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from effnet.runs import About, RunFolder
from effnet.store import Store
from tasks.records.tracking import Tracker, tracker_at


class Sent(NamedTuple):
    """What a sync did."""

    runs: int  # MLflow now has everything of these
    unnamed: int  # folders that no family or command made: MLflow has no place for them
    failed: int  # of the others


def sync(store: Store, uri: str, warn: Callable[[str], None]) -> Sent:
    """Forward every run of a store to an MLflow server; what it really has already is not sent again."""
    trackers: dict[str, Tracker] = {}
    runs = unnamed = failed = 0
    for path in sorted(store.runs.iterdir()) if store.runs.is_dir() else ():
        folder = RunFolder(path)
        if not folder.config_path.exists():
            continue
        about = folder.about()
        if about is None:
            unnamed += 1
            continue
        if about.experiment not in trackers:
            trackers[about.experiment] = tracker_at(uri, store, about.experiment, warn)
        sent = _send(trackers[about.experiment], folder, about)
        runs += sent
        failed += not sent
    return Sent(runs, unnamed, failed)


def _send(tracker: Tracker, folder: RunFolder, about: About) -> bool:
    """Send a run; say whether MLflow has everything of it."""
    tracker.open_training(folder, about)
    whole = tracker.verify(folder)
    if folder.result() is None:
        tracker.pause(folder.key)  # as far as this process knows, nobody is training it
    return whole
