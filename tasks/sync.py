"""Send to MLflow what it does not have yet: after an outage, or to another server."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from effnet.runs import About, RunFolder
from effnet.store import Store
from tasks.tracking import Tracker


class Sent(NamedTuple):
    """What a sync did."""

    runs: int  # that MLflow has everything of now
    unnamed: int  # folders that no family or command made: MLflow has no place for them
    failed: int  # of the others


def sync(store: Store, uri: str, warn: Callable[[str], None]) -> Sent:
    """Forward every run of a store to an MLflow server; what it has already is not sent again."""
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
        tracker = trackers.setdefault(
            about.experiment, Tracker(uri, about.experiment, store.root / "artifacts" / about.experiment, warn)
        )
        _send(tracker, folder, about)
        failed += tracker.broken
        runs += not tracker.broken
    return Sent(runs, unnamed, failed)


def _send(tracker: Tracker, folder: RunFolder, about: About) -> None:
    tracker.open_training(folder, about.name, about.labels, about.kind, tracker.run_id(about.family))
    tracker.forward(folder)
    if folder.result() is None:
        tracker.pause(folder.key)  # nobody trains it that this process knows of
