"""Processes that are kept on a GPU, and do one job after the other. No GPU is here: the list is made up."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from effnet.config import LocalCompute
from effnet.errors import RunFailedError
from effnet.order import Order
from effnet.runs import RunFolder
from effnet.store import Store
from tasks.compute import here
from tasks.compute.forkserver import Place
from tasks.compute.here import Job, run_jobs
from tasks.compute.watch import Watch
from tasks.servers import gpus as listing
from tasks.servers.gpus import VISIBLE, Gpu

ONE = Gpu("GPU-1a2b3c4d-0000", "NVIDIA L4", 24 * 10**9, 0)
TWO = Gpu("GPU-5e6f7a8b-0000", "NVIDIA L4", 24 * 10**9, 1)
THREADS = 2  # children of a server of their own, not that of other tests


@pytest.fixture(autouse=True)
def _one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "devices", lambda: (ONE,))
    monkeypatch.delenv(VISIBLE, raising=False)


class Jobs:
    """Jobs that note which process did them."""

    def __init__(self, folder: Path, job: Callable[..., Job]) -> None:
        self.folder, self._job, self._size = folder, job, 100.0
        self.warned: list[str] = []

    def make(self, name: str, line: str = "pass", *, keep: bool = True) -> Job:
        self._size -= 1  # in the order in which they are made
        told = f"Path({str(self.folder / name)!r}).write_text(str(os.getpid()) + ' ' + os.environ[{VISIBLE!r}])"
        return replace(self._job(name, f"{told}; print({name!r}); {line}", self._size), keep=keep)

    def run(self, *jobs: Job, tick: Callable[[], None] = lambda: None) -> list[int]:
        run_jobs(jobs, LocalCompute(threads=THREADS), Watch(self.warned.append, tick))
        return [self.process(job.name) for job in jobs]

    def process(self, name: str) -> int:
        return int((self.folder / name).read_text().split()[0])

    def gpu(self, name: str) -> str:
        return (self.folder / name).read_text().split()[1]


@pytest.fixture
def made(tmp_path: Path, job: Callable[..., Job]) -> Jobs:
    return Jobs(tmp_path, job)


def ended(process: int) -> bool:
    """Wait for a process to end."""
    deadline = time.monotonic() + 10
    while psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_one_process_does_the_jobs_of_a_gpu_one_after_the_other(made: Jobs) -> None:
    first, second = made.run(made.make("first"), made.make("second"))
    (third,) = made.run(made.make("third"))  # of a later stage
    assert first == second == third
    for name in ("first", "second", "third"):  # each with a log of its own
        assert (made.folder / f"logs/{name}.log").read_text() == f"{name}\n"


def test_each_gpu_has_a_process_of_its_own(made: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "devices", lambda: (ONE, TWO))
    one, other = made.run(*(made.make(name, "time.sleep(0.3)") for name in ("one", "other")))
    assert {made.gpu("one"), made.gpu("other")} == {ONE.uuid, TWO.uuid}
    for name, process in (("other", other), ("one", one)):
        gpu = ONE if made.gpu(name) == ONE.uuid else TWO
        monkeypatch.setattr(listing, "devices", lambda gpu=gpu: (gpu,))
        assert made.run(made.make(f"again on {name}")) == [process]


def test_jobs_on_cores_have_a_process_each(made: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "devices", lambda: ())
    monkeypatch.setenv(VISIBLE, "")
    first, second = made.run(made.make("first"), made.make("second"))
    assert first != second


def test_a_job_that_wants_a_fresh_process_finds_no_other_on_the_gpu(made: Jobs) -> None:
    (kept,) = made.run(made.make("kept"))
    alone, after = made.run(made.make("alone", keep=False), made.make("after"))
    assert len({kept, alone, after}) == 3
    assert ended(kept)
    assert ended(alone)


def test_a_process_is_let_go_while_another_works(made: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "devices", lambda: (ONE, TWO))
    gone = made.folder / "gone"
    wait = f"[time.sleep(0.05) for _ in range(400) if not Path({str(gone)!r}).exists()]"
    look = f"import psutil; first = int(Path({str(made.folder / 'first')!r}).read_text().split()[0]);"
    look += " [time.sleep(0.05) for _ in range(100) if psutil.pid_exists(first)];"
    look += f" psutil.pid_exists(first) or Path({str(gone)!r}).touch()"
    made.run(made.make("first"), made.make("long", wait), made.make("alone", look, keep=False))
    assert gone.exists()  # before the long one ended


def test_a_process_on_a_gpu_that_is_shared_otherwise_is_let_go(made: Jobs) -> None:
    made.run(made.make("first"))
    server = here._servers[THREADS]
    fork = server.start(
        "other",
        made.make("other").module,
        made.make("other").arguments,
        made.folder / "other.log",
        {VISIBLE: ONE.uuid},
        Place(ONE.uuid, (("PIPES", "x"),)),
    )
    assert fork.wait(10) == 0
    assert made.process("other") != made.process("first")
    assert ended(made.process("first"))


def test_a_process_that_failed_is_not_used_again(made: Jobs) -> None:
    with pytest.raises(RunFailedError, match="failed: exit code 3"):
        made.run(made.make("failed", "sys.exit(3)"))
    (after,) = made.run(made.make("after"))
    assert after != made.process("failed")


def test_a_job_whose_process_is_killed_is_done_by_another_one(made: Jobs) -> None:
    mark = made.folder / "mark"
    line = f"p = Path({str(mark)!r}); again = p.exists(); p.touch(); again or os.kill(os.getpid(), signal.SIGKILL)"
    first, second, third = made.run(made.make("first"), made.make("second", line), made.make("third"))
    assert first != second == third
    assert made.warned == ["second: killed by SIGKILL; restarted from its last checkpoint"]


def test_a_process_that_dies_while_it_waits_is_replaced(made: Jobs) -> None:
    (first,) = made.run(made.make("first"))
    os.kill(first, signal.SIGKILL)
    assert ended(first)
    (second,) = made.run(made.make("second"))
    assert second != first
    assert made.warned == []


def test_a_job_knows_nothing_of_the_one_before(made: Jobs) -> None:
    asked = "from effnet.process import stop_on_signals, stopping; import threading; asked = []"
    stop = f"{asked}; stop_on_signals(asked.append); os.kill(os.getpid(), signal.SIGTERM); assert stopping()"
    look = "from effnet.process import process_started, stopping; assert not stopping(); began = process_started()"
    told = made.folder / "began"
    made.run(made.make("stopped", f"{stop}; time.sleep(0.5); os.environ['EFFNET_LEFT'] = '1'"))
    time.sleep(0.5)
    before = time.time()
    look += f"; assert 'EFFNET_LEFT' not in os.environ; Path({str(told)!r}).write_text(str(began))"
    made.run(made.make("after", look))
    assert made.process("after") == made.process("stopped")
    assert before <= float(told.read_text()) < time.time()


def test_processes_end_with_the_one_that_wanted_them(made: Jobs) -> None:
    (first,) = made.run(made.make("first"))
    here._servers.pop(THREADS).close()
    assert ended(first)


def test_trainings_are_kept_but_for_deterministic_ones_and_those_of_several_ranks(
    run_folder: RunFolder, store: Store
) -> None:
    spec = run_folder.spec()
    recipe = spec.recipe.model_copy(update={"deterministic": True})
    exact = RunFolder.create(store, spec.model_copy(update={"recipe": recipe}))
    order = Order(name="one", action="train", runs=(run_folder.key,))
    assert here._job(order, store, LocalCompute()).keep
    assert not here._job(order.model_copy(update={"ranks": 2}), store, LocalCompute()).keep
    assert not here._job(order.model_copy(update={"runs": (exact.key,)}), store, LocalCompute()).keep


def test_trainings_in_one_process_have_the_bits_of_trainings_in_several(
    run_folder: RunFolder, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = run_folder.spec()
    folders = [RunFolder.create(store, spec.model_copy(update={"seed": seed})) for seed in (1, 2)]
    orders = [Order(name=f"seed {number}", action="train", runs=(each.key,)) for number, each in enumerate(folders)]
    found = []
    for devices in ((ONE,), ()):
        monkeypatch.setattr(listing, "devices", lambda devices=devices: devices)
        monkeypatch.delenv(VISIBLE, raising=False)
        compute = LocalCompute(threads=1, parallel=1)
        here.run_here(orders, compute, store, Watch(print))  # torch sees no GPU, and each says so
        found.append([each.weights_path.read_bytes() for each in folders])
        seconds = [each.result().seconds for each in folders]  # type: ignore[union-attr]
        assert all(0 < each < 100 for each in seconds)
        for each in folders:
            for file in each.path.iterdir():
                if file.is_file() and file.name not in ("config.json", "about.json"):
                    file.unlink()
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]
