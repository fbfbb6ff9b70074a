"""effnet find-rate, as a user runs it: what it prints and leaves alone, and that it goes on where it was stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from effnet.runs import RunFolder
from tests.tiny import clean_environment, run_effnet, write_tiny

COMMAND = ("find-rate", "tiny.yaml", "--epochs", "1", "--seeds", "1")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which rates for B0 were tried."""
    home = tmp_path_factory.mktemp("rate")
    write_tiny(home)
    done = run_effnet(*COMMAND, "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    (home / "found.json").write_text(done.stdout)
    return home


def test_short_trainings_around_the_configs_rate_say_which_to_take(home: Path) -> None:
    found = json.loads((home / "found.json").read_text())
    rates = {each["learning_rate"]: each for each in found["rates"]}
    assert {0.06 * 2**step for step in range(-3, 4)} <= set(rates)
    assert found["config"] == 0.06
    assert rates[found["suggested"]]["loss"] == min(each["loss"] for each in rates.values() if each["as_good"])
    assert found["stays"] == rates[0.06]["as_good"]
    assert rates[min(rates)]["top1"] < max(each["top1"] for each in rates.values())
    folders = [RunFolder(path) for path in (home / "store/runs").iterdir()]
    assert {folder.spec().recipe.learning_rate for folder in folders} == set(rates)
    assert {(folder.spec().recipe.epochs, folder.trained().epochs) for folder in folders} == {(1, 1)}
    assert {folder.evaluation_path.exists() for folder in folders} == {False}  # val has no part in it
    assert {about.kind for folder in folders if (about := folder.about())} == {"rate"}


def test_again_it_trains_nothing_writes_nothing_and_prints_the_line(home: Path) -> None:
    config = (home / "tiny.yaml").read_bytes()
    again = run_effnet(*COMMAND, cwd=home)
    assert again.returncode == 0, again.stderr
    found = json.loads((home / "found.json").read_text())
    number = len(found["rates"])
    assert "trainings reused" in again.stderr
    assert "params" not in again.stderr  # the line of a training that was done
    assert (home / "tiny.yaml").read_bytes() == config
    lines = again.stdout.splitlines()
    assert lines[0] == "B0, 1 epochs, 1 trainings at each rate, on 378 images of minival"
    assert len(lines[2 : 2 + number]) == number
    told = again.stdout.partition("suggested: ")[2].splitlines()
    assert told[0].startswith(f"{found['suggested']:g}")
    assert ("can stay" in told[-1]) == found["stays"]
    assert (f"learning_rate: {found['suggested']:g}" in told[-1]) != found["stays"]


@pytest.mark.slow
def test_stopped_it_says_so_in_a_line_and_goes_on_to_the_same_rates(home: Path, tmp_path: Path) -> None:
    write_tiny(tmp_path)
    command = [sys.executable, "-P", "-m", "flows.cli", *COMMAND, "--json"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 200
    while not list((tmp_path / "store/runs").glob("*/pace.json")) and not list(
        (tmp_path / "store/runs").glob("*/metrics.jsonl")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=200)
    assert process.returncode == 75
    assert told.splitlines()[-1] == "effnet: stopped; what is done is saved, run the same command again to go on"
    assert "Traceback" not in told
    again = run_effnet(*COMMAND, "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout == (home / "found.json").read_text()


def test_what_cannot_be_is_told_in_a_line(home: Path) -> None:
    for arguments, reason in (
        (("--member", "b9"), "no member 'b9'; the config plans b0, b1, b2"),
        (("--start-from", "nowhere"), "no run 'nowhere' in "),
        (("--epochs", "0"), "0 is not in the range"),
    ):
        done = run_effnet("find-rate", "tiny.yaml", *arguments, cwd=home)
        assert done.returncode == 2
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
