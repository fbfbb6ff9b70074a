"""A training that was stopped, killed or damaged goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from effnet.errors import BusyError, ConfigError, DataError, RunFailedError, StoppedError
from effnet.evaluation.metrics import Scores
from effnet.evaluation.run import judge, load_network
from effnet.runs import RunFolder, read_journal
from effnet.store import sha256_file
from effnet.train import checkpoint, loop, pace
from effnet.train.loop import Stop
from effnet.train.state import TrainingState
from tasks.terminal.training import progress_of
from tests.tiny import StopAt, child_of, order_of

SLOW = pytest.mark.slow  # for one moment more of a stop or a kill that is tried at other moments as well
UNCLOCKED = {"time", "seconds", "images_per_second", "data_wait", "cpu_cores_used", "memory_bytes"}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def train(folder: RunFolder, stop: Stop | None = None, warn: object = print) -> None:
    loop.train(folder, started=time.time(), stop=stop or Stop(), warn=warn)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(trained: RunFolder) -> RunFolder:
    """The run, undisturbed."""
    return trained


def same_course(one: RunFolder, other: RunFolder) -> bool:
    """Say whether two runs have equal weights and journals, clocks apart."""

    def lines(folder: RunFolder) -> list[dict[str, float]]:
        return [
            {name: value for name, value in line.items() if name not in UNCLOCKED}
            for line in read_journal(folder.metrics_path)[0]
        ]

    return sha256_file(one.weights_path) == sha256_file(other.weights_path) and lines(one) == lines(other)


def test_it_learns(finished: RunFolder) -> None:
    result = finished.result()
    assert result is not None
    assert result.top1 > 0.5  # ten classes: chance is 0.1
    assert result.steps == 99
    assert [line["epoch"] for line in read_journal(finished.metrics_path)[0]] == [1, 2, 3]


def test_finished_run_is_returned_as_it_is(finished: RunFolder) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.path.rglob("*") if path.name != "lock"}
    train(finished)
    assert before == {path: path.stat().st_mtime_ns for path in finished.path.rglob("*") if path.name != "lock"}


def test_same_seed_same_weights(finished: RunFolder, run_folder: RunFolder) -> None:
    train(run_folder)
    assert same_course(finished, run_folder)


@pytest.mark.parametrize("looks", [0, pytest.param(5, marks=SLOW), pytest.param(32, marks=SLOW), 40])
def test_stopped_training_goes_on_to_the_bit(finished: RunFolder, run_folder: RunFolder, looks: int) -> None:
    with pytest.raises(StoppedError, match="asked to stop"):
        train(run_folder, StopAt(looks))
    assert run_folder.result() is None
    train(run_folder)
    assert same_course(finished, run_folder)


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        pytest.param(2, "stopped at step 0; the step in progress will be repeated", marks=SLOW),  # in its way forward
        (261, "stopped at step 32; the step in progress will be repeated"),  # in its way back
        pytest.param(87, "stopped at step 11; nothing is lost", marks=SLOW),
        (264, "stopped at step 33; epoch 1 will be evaluated again"),
    ],
)
def test_stopped_in_the_middle_goes_on_to_the_bit(
    finished: RunFolder, run_folder: RunFolder, looks: int, told: str
) -> None:
    with pytest.raises(StoppedError, match=f"asked to stop; {told}$"):
        train(run_folder, StopAt(looks))
    train(run_folder)
    assert same_course(finished, run_folder)


def test_it_tells_how_far_it_is_within_an_epoch(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "SECONDS", 0.0)
    with pytest.raises(StoppedError, match="stopped at step 11; nothing is lost"):
        train(run_folder, StopAt(87))
    told = run_folder.pace()
    assert told is not None
    assert told.epochs == pytest.approx(11 / 33)
    assert told.images_per_second > 0
    assert told.images_per_epoch == 33 * 32
    epochs, cells = progress_of(run_folder, goal=3)
    assert epochs == told.epochs
    assert cells[0] == "0.3/3"
    run_folder.pace_path.write_text('{"epochs": ')  # for show alone: nothing depends on it
    assert run_folder.pace() is None
    run_folder.pace_path.unlink()
    run_folder.pace_path.mkdir()
    train(run_folder)
    epochs, cells = progress_of(run_folder, goal=3)
    assert (epochs, cells[0]) == (3, "3/3")


def test_sigterm_does_not_wait_for_the_end_of_a_long_step(finished: RunFolder, run_folder: RunFolder) -> None:
    slow = (
        "import sys, time; from pathlib import Path\n"
        "from effnet import child; from effnet.models import blocks\n"
        "real = blocks.Residual.forward\n"
        "def forward(*all): Path(sys.argv[2], 'begun').touch(); time.sleep(6); return real(*all)\n"
        "blocks.Residual.forward = forward; from effnet.process import child_main\n"
        "order = child.read_order(sys.argv[1]); child_main(lambda: child.carry_out(order))"
    )
    command = [sys.executable, "-c", slow, order_of(run_folder), str(run_folder.path)]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    while not (run_folder.path / "begun").exists():
        time.sleep(0.01)
    started = time.monotonic()
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert time.monotonic() - started < 15  # of the 18 s that the blocks alone take forward
    assert process.returncode == 75
    assert told.splitlines()[-1].endswith("asked to stop; stopped at step 0; the step in progress will be repeated")
    train(run_folder)
    assert same_course(finished, run_folder)


def test_checkpoints_are_written_by_time(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = run_folder.spec()
    recipe = spec.recipe.model_copy(update={"checkpoint_every": 0, "epochs": 1, "checkpoint_minutes": 1e-4})
    folder = RunFolder.create(run_folder.store, spec.model_copy(update={"recipe": recipe}))
    written: list[int] = []
    real = loop.save

    def note(training: TrainingState, **how: bool) -> None:
        written.append(training.progress.step)
        real(training, **how)

    monkeypatch.setattr(loop, "save", note)
    train(folder)
    assert len(written) > 3
    assert written[-1] == 33


def test_how_often_a_checkpoint_is_written_is_no_part_of_what_a_run_is(run_folder: RunFolder) -> None:
    spec = run_folder.spec()
    recipe = spec.recipe.model_copy(update={"checkpoint_minutes": 1.0})
    assert spec.model_copy(update={"recipe": recipe}).key() == spec.key()


@pytest.mark.parametrize("lines", [1, pytest.param(2, marks=SLOW)])
def test_killed_training_goes_on_to_the_bit(finished: RunFolder, run_folder: RunFolder, lines: int) -> None:
    process = subprocess.Popen(child_of(run_folder), env=environment())
    deadline = time.monotonic() + 120
    while len(read_journal(run_folder.metrics_path)[0]) < lines and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it was not done already
    assert run_folder.result() is None
    again = subprocess.run(child_of(run_folder), env=environment(), check=False)
    assert again.returncode == 0
    assert same_course(finished, run_folder)


def test_sigterm_stops_with_a_checkpoint_and_exit_code_75(run_folder: RunFolder) -> None:
    process = subprocess.Popen(
        child_of(run_folder),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not run_folder.metrics_path.exists():
        time.sleep(0.005)
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75
    assert told.splitlines()[-1].startswith(f"run {run_folder.key}: asked to stop; stopped")
    assert "Traceback" not in told
    assert checkpoint.steps(run_folder.checkpoints)


def test_training_whose_parent_is_gone_stops(run_folder: RunFolder) -> None:
    process = subprocess.Popen(
        child_of(run_folder),
        env=environment() | {"EFFNET_PARENT_PIPE": "1"},
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    while not run_folder.metrics_path.exists():
        time.sleep(0.005)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 75


def test_broken_newest_checkpoint_is_told_and_costs_only_time(finished: RunFolder, run_folder: RunFolder) -> None:
    with pytest.raises(StoppedError):
        train(run_folder, StopAt(45))
    newest = run_folder.checkpoints / f"step-{checkpoint.steps(run_folder.checkpoints)[0]}"
    (newest / "state.pt").write_bytes(b"torn")
    told: list[str] = []
    train(run_folder, warn=told.append)
    assert len(told) == 1
    assert str(newest) in told[0]
    assert same_course(finished, run_folder)


def test_line_cut_short_by_a_kill_is_written_again(finished: RunFolder, run_folder: RunFolder) -> None:
    with pytest.raises(StoppedError):
        train(run_folder, StopAt(33))
    with run_folder.metrics_path.open("ab") as file:
        file.write(b'{"epoch": 2, "st')
    train(run_folder)
    assert same_course(finished, run_folder)


def test_second_training_of_a_run_is_told(run_folder: RunFolder) -> None:
    with run_folder.lock(), pytest.raises(BusyError, match="another process is training this run"):
        # flock is per open file, so the same process stands for another one
        train(run_folder)


def test_changed_config_is_refused(run_folder: RunFolder) -> None:
    data = json.loads(run_folder.config_path.read_bytes())
    data["seed"] = 5
    run_folder.config_path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="not to this folder"):
        train(run_folder)


def test_missing_dataset_and_foreign_folder_are_told(tmp_path: Path, run_folder: RunFolder) -> None:
    os.unlink(run_folder.store.datasets)
    with pytest.raises(DataError, match="dataset is not there"):
        train(run_folder)
    with pytest.raises(ConfigError, match=r"no config\.json here"):
        train(RunFolder(tmp_path / "nothing"))


def test_diverged_training_says_so(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(training: TrainingState, *_: object) -> None:
        training.loss_sum += float("nan")
        training.progress.step += 1

    monkeypatch.setattr(loop, "take_step", step)
    with pytest.raises(RunFailedError, match=r"lower recipe\.learning_rate"):
        train(run_folder)


def test_lost_best_checkpoint_is_told(finished: RunFolder, tmp_path: Path) -> None:
    copy = RunFolder(tmp_path / "runs" / finished.key)
    shutil.copytree(finished.path, copy.path)
    os.symlink(finished.store.datasets, tmp_path / "datasets")
    copy.result_path.unlink()
    result = finished.result()
    assert result is not None
    for step in checkpoint.steps(copy.checkpoints)[1:]:
        shutil.rmtree(copy.checkpoints / f"step-{step}")
    if checkpoint.steps(copy.checkpoints) == [33 * result.best_epoch]:
        train(copy)
        assert same_course(finished, copy)
    else:
        with pytest.raises(DataError, match="held the best weights"):
            train(copy)


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def test_without_an_average_what_is_judged_is_what_is_taken_away(run_folder: RunFolder) -> None:
    spec = run_folder.spec()
    recipe = spec.recipe.model_copy(update={"ema_decay": 0.0, "epochs": 1})
    folder = RunFolder.create(run_folder.store, spec.model_copy(update={"recipe": recipe}))
    with pytest.raises(StoppedError, match="epoch 1 will be evaluated again"):
        train(folder, StopAt(264))
    before, _ = checkpoint.load(folder.checkpoints / "step-33")
    train(folder)
    after, _ = checkpoint.load(folder.checkpoints / "step-33")
    assert all(torch.equal(before[name], after[name]) for name in before)  # minival teaches batch norms nothing
    dataset = folder.store.datasets / spec.dataset
    found = judge(load_network(folder), dataset, "minival", augment=recipe.augment, cache=None)
    assert folder.trained().top1 == found.hits.mean()


def test_a_loss_that_is_no_number_is_told_before_it_is_a_result(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = run_folder.spec()
    folder = RunFolder.create(
        run_folder.store, spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"epochs": 1})})
    )
    monkeypatch.setattr(loop, "evaluate", lambda *_: Scores(0.1, 0.5, float("nan"), 378))
    with pytest.raises(RunFailedError, match=r"not a number in the best epoch, 1; lower recipe\.learning_rate"):
        train(folder)
    assert not folder.result_path.exists()
