"""A training that is followed: what is shown of it, and that only what is new is read."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from effnet.runs import Pace, RunFolder
from effnet.stages import Stage
from tasks import board
from tasks.board import Board
from tasks.build import Build, Training
from tasks.terminal import training
from tasks.terminal.training import Followed, progress_of


def write_epochs(folder: RunFolder, *top1: float) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.metrics_path.open("a") as file:
        for epoch, score in enumerate(top1, 1):
            file.write(json.dumps({"minival_top1": score, "seconds": 60.0 * epoch}) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "0123456789abcdef")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes at which journals were begun to be read."""
    starts: list[int] = []
    real = training.read_journal

    def read_journal(path: Path, start: int = 0) -> Any:
        starts.append(start)
        return real(path, start)

    monkeypatch.setattr(training, "read_journal", read_journal)
    return starts


def test_only_what_is_new_is_read(folder: RunFolder, read: list[int]) -> None:
    followed = Followed(folder)
    followed.look()
    assert (followed.progress(9)[1], followed.begun) == (("0/9", "", "", "", ""), False)
    write_epochs(folder, 0.25, 0.5)
    for _ in range(3):
        followed.look()
    end = folder.metrics_path.stat().st_size
    write_epochs(folder, 0.375)
    followed.look()
    assert read == [0, end]
    assert followed.begun
    assert followed.progress(9) == (3.0, ("3/9", "50.0%", "", "1 min 00 s", ""))
    folder.result_path.write_text("{}")
    followed.look()
    write_epochs(folder, 1.0)
    followed.look()
    assert followed.done
    assert read == [0, end]
    assert followed.progress(9)[1][:2] == ("3/9", "50.0%")


def test_a_journal_that_became_shorter_is_read_again(folder: RunFolder, read: list[int]) -> None:
    followed = Followed(folder)
    write_epochs(folder, 0.25, 0.5, 0.75)
    followed.look()
    folder.metrics_path.write_text("")
    write_epochs(folder, 0.25)
    followed.look()
    assert read == [0, 0]
    assert followed.progress(9) == (1.0, ("1/9", "25.0%", "", "1 min 00 s", ""))


def test_the_pace_tells_parts_of_epochs(folder: RunFolder) -> None:
    followed = Followed(folder)
    write_epochs(folder, 0.5)
    pace = Pace(epochs=1.5, images_per_second=100.0, images_per_epoch=1000)
    folder.pace_path.write_text(pace.model_dump_json())
    followed.look()
    expected = (1.5, ("1.5/4", "50.0%", "100", "1 min 00 s", "25 s"))
    assert followed.progress(4) == progress_of(folder, 4) == expected


def test_of_many_trainings_those_under_way_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "MOST_ROWS", 3)
    trainings = []
    for number in range(5):
        folder = RunFolder(tmp_path / (str(number) * 16))
        write_epochs(folder, *([0.5] * (0, 1, 2, 4, 4)[number]))
        if number == 4:
            folder.result_path.write_text("{}")
        trainings.append(_training(f"t{number}", folder))
    shown: list[Any] = []
    screen = SimpleNamespace(progress=lambda *given, **_: shown.append((given[1], given[3])))
    build = SimpleNamespace(manifest=SimpleNamespace(samples={"train": 10}), screen=screen, whole=None)
    Board(cast(Build, build), Stage.FIT, cast(list[Training], trainings), None).show()
    ((share, rows),) = shown
    assert share == pytest.approx((0 + 1 + 2 + 4 + 4) / 20)
    assert [row[0] for row in rows] == ["t1", "t2", "2 done, 1 waiting"]
    assert {len(row) for row in rows} == {len(board.COLUMNS)}


def _training(name: str, folder: RunFolder) -> SimpleNamespace:
    return SimpleNamespace(
        name=name,
        order_name=name,
        folder=folder,
        epochs=4,
        size=4.0,
        cost=SimpleNamespace(params=1000, macs=2000),
        spec=SimpleNamespace(recipe=SimpleNamespace(patience=0), start=None),
        work=lambda epochs, images: SimpleNamespace(images=epochs * images, activations=0.0),
    )
