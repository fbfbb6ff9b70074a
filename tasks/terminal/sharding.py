"""A dataset that is written, or found, while a person watches."""

from __future__ import annotations

from pathlib import Path

from effnet.config import DataConfig
from effnet.data.shards.manifest import Manifest
from effnet.data.shards.remarks import told_of
from effnet.data.shards.write import write_shards
from effnet.store import Store
from tasks.terminal.screen import Screen


def shard(data: DataConfig, store: Store, base: Path, screen: Screen) -> Manifest:
    """Write the dataset, or find it; the screen shows the progress, and what a person should know about the dataset.

    Args:
        data: source, split and shard settings.
        store: that it is written to.
        base: folder that the source's relative paths begin at.
        screen: to show it on.
    """

    def progress(done: int, total: int) -> None:
        screen.progress("shard dataset", done / total, ("images", "of"), [(str(done), str(total))])

    try:
        manifest, reused = write_shards(data, store.datasets, progress, base=base)
    finally:
        screen.settle()
    for line in told_of(store.datasets / manifest.digest, manifest, reused=reused):
        screen.say(line)
    return manifest
