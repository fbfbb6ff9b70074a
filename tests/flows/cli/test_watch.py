"""effnet runs --watch on a store with trainings that are done, under way, stopped and yet to begin."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from effnet.errors import ConfigError
from effnet.runs import About, Pace, RunFolder
from effnet.stages import Stage
from flows.cli.main import cli
from flows.cli.watch import Watcher
from tasks.whole import PROGRESS, FamilyProgress


def begun(run_folder: RunFolder, seed: int, kind: Stage = Stage.MEMBER, epochs: float = 0.0) -> RunFolder:
    """Make a run that has trained so far at 50 images a second."""
    folder = RunFolder.create(run_folder.store, run_folder.spec().model_copy(update={"seed": seed}))
    folder.describe(About(experiment="tiny", name=f"B{seed}", kind=kind, labels={}, family="f"))
    if epochs:
        pace = Pace(epochs=epochs, images_per_second=50, images_per_epoch=1_000)
        folder.pace_path.write_text(pace.model_dump_json())
    return folder


@pytest.fixture
def home(run_folder: RunFolder) -> Path:
    begun(run_folder, 1, epochs=0.37)
    begun(run_folder, 2, Stage.FIT)
    stopped = begun(run_folder, 3, epochs=0.5)
    os.utime(stopped.pace_path, (time.time() - 3_600,) * 2)
    done = begun(run_folder, 4)
    done.result_path.write_text("{}")  # not read: that it is there says enough
    return run_folder.store.root


def test_the_whole_family_is_told_above_its_trainings(run_folder: RunFolder, home: Path) -> None:
    progress = FamilyProgress(family="tiny", share=0.25, seconds_left=90.0)
    build = run_folder.store.families / "f"
    build.mkdir(parents=True)
    (build / PROGRESS).write_text(progress.model_dump_json())
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "flows.cli", "runs", "--watch", "--store", str(home)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        first, second = process.stdout.readline(), process.stdout.readline()
        process.send_signal(signal.SIGINT)
    assert first.strip() == "tiny: 25% about 1 min 30 s left"
    assert second.startswith("1 under way")


def test_what_is_under_way_is_shown_with_the_time_it_needs(run_folder: RunFolder, home: Path) -> None:
    assert home
    watcher = Watcher(run_folder.store, lambda _family, _kind: True)
    under = watcher.look()
    assert str(under) == "1 under way, 1 done, 3 waiting or stopped"
    name, epoch, top1, rate, _, left, sign = under.rows[0]
    assert (name, epoch, top1, rate, sign) == ("B1  (tiny)", "0.3/3", "", "50", "now")
    assert left == "53 s"  # 2.63 epochs of 1,000 images
    only = Watcher(run_folder.store, lambda family, kind: (family, kind) == ("tiny", Stage.FIT)).look()
    assert (only.done, only.waiting, only.rows) == (0, 1, [])


def test_pace_of_an_epoch_that_is_over_is_not_shown(run_folder: RunFolder, home: Path) -> None:
    assert home
    folder = begun(run_folder, 1)
    folder.metrics_path.write_text('{"minival_top1": 0.5, "seconds": 21.0}\n')
    (row,) = Watcher(run_folder.store, lambda _family, _kind: True).look().rows
    assert row[1:6] == ("1/3", "50.0%", "", "21 s", "")


def test_a_training_tells_when_it_will_be_done() -> None:
    pace = Pace(epochs=1.5, images_per_second=100, images_per_epoch=1_000)
    assert pace.seconds_left(3) == pytest.approx(15)
    assert pace.seconds_left(1) == 0
    assert Pace(epochs=1.5, images_per_second=100).seconds_left(3) is None  # written by an earlier version


def test_it_shows_what_is_there_until_it_is_interrupted(home: Path) -> None:
    command = [sys.executable, "-P", "-m", "flows.cli", "runs", "--watch", "--store", str(home)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert isinstance(process.stdout, io.TextIOBase)
    lines = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert lines[0] == "1 under way, 1 done, 3 waiting or stopped\n"
    assert "left" in lines[1]
    assert lines[2].split()[:3] == ["B1", "(tiny)", "0.3/3"]


def test_a_table_that_changes_is_no_json(home: Path) -> None:
    with pytest.raises(ConfigError, match="leave --json away"):
        CliRunner().invoke(cli, ["runs", "--watch", "--json", "--store", str(home)], catch_exceptions=False)
