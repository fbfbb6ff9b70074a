"""What machines hand to each other is of one piece, whatever a training writes while it is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from effnet.exchange import Exchange
from effnet.runs import RunFolder, read_journal
from effnet.storage import open_folder
from effnet.store import Store


def train_epoch(folder: RunFolder, epoch: int) -> None:
    """Write what a training does at the end of an epoch of ten steps."""
    with folder.metrics_path.open("a") as file:
        file.write(f'{{"epoch": {epoch}, "step": {epoch * 10}}}\n')
    checkpoint = folder.checkpoints / f"step-{epoch * 10}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.pt").write_bytes(b"state")
    (checkpoint / "MANIFEST.json").write_bytes(b"{}")


def test_no_checkpoint_is_sent_that_is_ahead_of_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    folder = RunFolder(store.runs / "0123456789abcdef")
    folder.path.mkdir(parents=True)
    train_epoch(folder, 1)
    exchange = Exchange(str(tmp_path / "exchange"), store)
    put = exchange._place.put

    def slow_put(name: str, data: bytes) -> None:
        put(name, data)
        train_epoch(folder, 2)  # while the journal was on its way

    monkeypatch.setattr(exchange._place, "put", slow_put)
    exchange.send(folder)
    sent = open_folder(str(tmp_path / "exchange"))
    steps = [int(file.name.split("step-")[1].split("/")[0]) for file in sent.list("checkpoints")]
    lines, _ = read_journal(tmp_path / "exchange" / "runs" / folder.key / "metrics.jsonl")
    assert steps
    assert max(steps) <= lines[-1]["step"]
