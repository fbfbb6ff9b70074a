"""Places on this machine: a GPU for each child, a share of one, or a core. None is here: the list is made up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from effnet.config import DataConfig, LocalCompute
from effnet.data.shards.part import Part
from effnet.errors import ConfigError, MachineError
from effnet.machine import CORES, SHARES_GPU, cores
from effnet.order import Order
from effnet.runs import RunFolder
from effnet.store import Store
from tasks.compute import here, mps
from tasks.compute.here import Job, run_jobs
from tasks.compute.orders import PoolJob
from tasks.compute.slots import Slots, fitting, slots
from tasks.compute.watch import Watch
from tasks.servers import gpus as listing
from tasks.servers.gpus import VISIBLE, Gpu

ONE = Gpu("GPU-1a2b3c4d-0000", "NVIDIA L4", 24 * 10**9, 0)
TWO = Gpu("GPU-5e6f7a8b-0000", "NVIDIA L4", 24 * 10**9, 1)
HERE = len(os.sched_getaffinity(0))


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "devices", lambda: (ONE, TWO))
    monkeypatch.delenv(VISIBLE, raising=False)


@pytest.fixture
def no_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process have asked for no service yet, and find none."""
    monkeypatch.setattr(mps, "_running", {})
    monkeypatch.setattr(mps, "_refused", [])
    monkeypatch.setattr(mps, "CONTROL", "there-is-no-such-command")


@dataclass(frozen=True)
class Child:
    """What a child noted of itself."""

    gpus: str
    begun: float
    ended: float
    shares: bool
    cores: int
    pipes: str


class Children:
    """Jobs whose children note which GPUs they see, and when."""

    def __init__(self, folder: Path, job: Callable[..., Job]) -> None:
        self.folder, self._job = folder, job
        self.said: list[str] = []
        self.warned: list[str] = []

    def job(self, name: str, seconds: float = 0.0, work: float = 1.0, before: str = "pass") -> Job:
        told = self.folder / f"{name}.json"
        names = (VISIBLE, SHARES_GPU, CORES, mps.PIPES)
        note = f"import json; v = [os.environ.get(n, '') for n in {names!r}]; b = time.time(); {before};"
        note += f" time.sleep({seconds});"
        return self._job(name, f"{note} Path({str(told)!r}).write_text(json.dumps([*v, b, time.time()]))", work)

    def run(self, *jobs: Job, **compute: int) -> list[Child]:
        run_jobs(jobs, LocalCompute(**compute), Watch(self.warned.append, say=self.said.append))
        return [self.read(job.name) for job in jobs]

    def read(self, name: str) -> Child:
        gpus, shares, number, pipes, begun, ended = json.loads((self.folder / f"{name}.json").read_text())
        return Child(gpus, begun, ended, bool(shares), int(number), pipes)


@pytest.fixture
def made(tmp_path: Path, job: Callable[..., Job]) -> Children:
    return Children(tmp_path, job)


def overlap(one: Child, other: Child) -> bool:
    return one.begun < other.ended and other.begun < one.ended


def test_slots_follow_the_cores() -> None:
    assert slots(LocalCompute(parallel=3), ()) == 3
    assert slots(LocalCompute(), ()) == HERE


def test_slots_follow_the_gpus() -> None:
    assert slots(LocalCompute(), (ONE, TWO)) == 2
    assert slots(LocalCompute(per_gpu=3), (ONE, TWO)) == 6
    assert slots(LocalCompute(parallel=1), (ONE, TWO)) == 1
    assert slots(LocalCompute(parallel=50), (ONE, TWO)) == 2


@pytest.mark.usefixtures("two_gpus")
def test_children_that_run_together_have_a_gpu_each(made: Children) -> None:
    mark = made.folder / "mark"
    killed = f"p = Path({str(mark)!r}); again = p.exists(); p.touch(); again or os.kill(os.getpid(), signal.SIGKILL)"
    first, second, third = made.run(
        made.job("first", 2.5, 3),
        made.job("second", 0.2, 2, before=killed),  # it is killed, and has its GPU again
        made.job("third", 0.2),  # its place is free when the third one starts
    )
    assert [first.gpus, second.gpus, third.gpus] == [ONE.uuid, TWO.uuid, TWO.uuid]
    assert overlap(first, second)
    assert overlap(first, third)
    assert not overlap(second, third)
    assert made.warned == ["second: killed by SIGKILL; restarted from its last checkpoint"]
    assert made.said == [
        "first on GPU 0 (NVIDIA L4, GPU-1a2b…)",
        "second on GPU 1 (NVIDIA L4, GPU-5e6f…)",
        "third on GPU 1 (NVIDIA L4, GPU-5e6f…)",
    ]


@pytest.mark.usefixtures("two_gpus")
def test_every_rank_has_a_gpu_of_its_own(made: Children) -> None:
    (both, one) = made.run(replace(made.job("both", 0.3, 2), ranks=2), made.job("one"))
    assert both.gpus == f"{ONE.uuid},{TWO.uuid}"
    assert not overlap(both, one)
    with pytest.raises(ConfigError, match="many: 3 ranks need a GPU each, and there are 2"):
        made.run(replace(made.job("many"), ranks=3))


@pytest.mark.usefixtures("two_gpus")
def test_place_of_a_child_that_is_given_up_is_free(made: Children) -> None:
    with pytest.raises(MachineError, match="killed by SIGKILL, 3 times"):
        made.run(made.job("doomed", before="os.kill(os.getpid(), signal.SIGKILL)"))
    assert {child.gpus for child in made.run(made.job("a", 0.5), made.job("b", 0.5))} == {ONE.uuid, TWO.uuid}


@pytest.mark.usefixtures("two_gpus")
def test_gpus_that_the_user_chose_are_kept(made: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "1")
    one, other = made.run(made.job("one", 0.2), made.job("other", 0.2))
    assert (one.gpus, other.gpus) == (TWO.uuid, TWO.uuid)
    assert not overlap(one, other)
    monkeypatch.setenv(VISIBLE, "")
    (on_cpu,) = made.run(made.job("cpu"))
    assert on_cpu.gpus == ""


@pytest.mark.usefixtures("two_gpus")
def test_shards_are_written_on_cores(made: Children) -> None:
    data = DataConfig.model_validate({"source": {"kind": "digits"}})
    order = Order(name="s", action="shard", shards=Part(data=data, source="0" * 16, part=0, parts=1))
    wanted = here._job(order, Store(made.folder), LocalCompute())
    (shard,) = made.run(replace(made.job("shard"), on_gpu=wanted.on_gpu))
    assert shard.gpus == ""


def test_nothing_changes_without_a_gpu(made: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    (child,) = made.run(made.job("child"), per_gpu=4)
    assert (child.gpus, child.shares, child.cores, made.said) == ("", False, HERE, [])


@pytest.mark.usefixtures("two_gpus", "no_mps")
def test_several_share_a_gpu_where_that_is_asked_for(made: Children) -> None:
    jobs = [replace(made.job(f"j{number}", 1.5), need=4e9) for number in range(4)]
    found = made.run(*jobs, per_gpu=2)
    assert sorted(child.gpus for child in found) == [ONE.uuid, ONE.uuid, TWO.uuid, TWO.uuid]
    assert all(overlap(one, other) for one in found for other in found)
    assert all(child.shares for child in found)
    assert made.said[0] == "up to 2 trainings at a time on a GPU, in turns (there-is-no-such-command is not installed)"


def test_decode_threads_are_shared_out(made: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "devices", lambda: (ONE, TWO))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(9)))
    two = made.run(made.job("a"), made.job("b"), made.job("c"))
    assert [child.cores for child in two] == [4, 4, 4]
    (alone,) = made.run(made.job("d"))
    assert alone.cores == 9


def test_cores_are_those_that_the_parent_allots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CORES, "3")
    assert cores() == 3
    for nonsense in ("", "0", "many"):
        monkeypatch.setenv(CORES, nonsense)
        assert cores() == HERE


@dataclass(frozen=True)
class Wish:
    name: str
    need: float | None = None
    ranks: int = 1


def given(places: Slots[Wish]) -> tuple[Wish, str]:
    job, slot = places.next() or pytest.fail("no place was given")
    return job, str(slot.gpus[0].number) if slot.gpus else ""


def test_memory_decides_how_many_share_a_gpu() -> None:
    large, small, last = Wish("large", 15e9), Wish("small", 8e9), Wish("last", 5e9)  # of 21 GB that are usable
    places = Slots([large, small, last], [ONE], LocalCompute(per_gpu=3))
    job, slot = places.next() or pytest.fail("no place")
    waiting: list[str] = []
    thread = threading.Thread(target=lambda: waiting.append((places.next() or pytest.fail("no place"))[0].name))
    thread.start()
    time.sleep(0.2)
    assert waiting == []  # 23 GB are too much; and `last`, which would fit, does not overtake
    places.free(job, slot)
    thread.join(5)
    assert waiting == ["small"]
    assert given(places) == (last, "0")


def test_what_is_larger_than_a_gpu_has_it_alone() -> None:
    huge, small = Wish("huge", 90e9), Wish("small", 1e9)
    places = Slots([huge, small], [ONE, TWO], LocalCompute(per_gpu=2))
    assert given(places) == (huge, "0")
    assert given(places) == (small, "1")


def test_number_at_once_is_the_least_of_what_is_asked_for_what_fits_and_what_is_left() -> None:
    jobs = [Wish(f"{number}", 9e9) for number in range(9)]
    assert Slots(jobs, [ONE, TWO], LocalCompute(parallel=3, per_gpu=8)).at_once == 3
    assert Slots(jobs, [ONE, TWO], LocalCompute(per_gpu=8)).at_once == 4
    assert Slots(jobs, [ONE, TWO], LocalCompute()).at_once == 2
    assert Slots(jobs[:1], [ONE, TWO], LocalCompute(per_gpu=8)).at_once == 1
    assert Slots([replace(job, ranks=2) for job in jobs], [ONE, TWO], LocalCompute(per_gpu=8)).at_once == 2


def test_ranks_of_two_trainings_share_their_gpus() -> None:
    both = [Wish("a", 1e9, ranks=2), Wish("b", 1e9, ranks=2)]
    places = Slots(both, [ONE, TWO], LocalCompute(per_gpu=2), {"through": "a service"})
    for _ in both:
        _, slot = places.next() or pytest.fail("no place")
        assert slot.gpus == (ONE, TWO)
        assert slot.environment[SHARES_GPU] == "1"
        assert slot.environment["through"] == "a service"
    _, alone = Slots(both[:1], [ONE, TWO], LocalCompute(per_gpu=2)).next() or pytest.fail("no place")
    assert SHARES_GPU not in alone.environment


def test_evaluations_have_a_gpu_alone() -> None:
    places = Slots([Wish("train", 1e9), Wish("evaluate"), Wish("again", 1e9)], [ONE, TWO], LocalCompute(per_gpu=4))
    assert given(places) == (Wish("train", 1e9), "0")
    job, slot = places.next() or pytest.fail("no place")
    assert (job.name, slot.gpus, slot.shared) == ("evaluate", (TWO,), False)
    assert given(places) == (Wish("again", 1e9), "0")  # beside the training, not beside the evaluation


def test_no_place_is_given_after_the_end() -> None:
    places = Slots([Wish("a"), Wish("b")], [ONE], LocalCompute())
    places.next()
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(places.next()))
    thread.start()
    places.close()
    thread.join(5)
    assert found == [None]


def test_number_that_fits_a_gpu() -> None:
    assert fitting(5e9, ONE, 8) == 4
    assert fitting(5e9, ONE, 2) == 2
    assert fitting(90e9, ONE, 8) == 1
    assert fitting(5e9, replace(ONE, memory=0), 8) == 8  # nobody knows


@pytest.mark.usefixtures("two_gpus", "no_mps")
def test_what_fits_is_told(run_folder: RunFolder) -> None:
    store = run_folder.store
    order = Order(name="b9", action="train", runs=(run_folder.key,))
    assert here._job(order, store, LocalCompute()).need is None
    wanted = here._job(order, store, LocalCompute(per_gpu=2))
    assert wanted.need == pytest.approx(0.6e9, rel=0.2)  # a tiny network: its context
    jobs = [replace(wanted, need=9e9) for _ in range(3)]
    said: list[str] = []
    here._places(jobs[:2], LocalCompute(per_gpu=8), said.append)
    assert said == []  # there are as many GPUs
    places = here._places(jobs, LocalCompute(per_gpu=8), said.append)
    assert places.at_once == 3
    assert (
        "; 2 of b9 by memory: each is predicted to take 9.0 of the 21.0 GB of GPU 0 (NVIDIA L4, GPU-1a2b…)" in said[0]
    )


def test_jobs_of_a_pool_are_found_again_by_who_knew_no_shares() -> None:
    order = Order(name="train a", action="train", runs=("0" * 16,))
    job = PoolJob(place="/store", shared=True, orders=(order,))
    assert job.content() == {name: value for name, value in job.model_dump(mode="json").items() if name != "per_gpu"}
    assert PoolJob.model_validate(job.content()) == job
    several = job.model_copy(update={"per_gpu": 2})
    assert PoolJob.model_validate(several.content()) == several


class TestMps:
    @pytest.fixture
    def control(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """Have the service's command note how it was called."""
        monkeypatch.setattr(mps, "_running", {})
        monkeypatch.setattr(mps, "_refused", [])
        monkeypatch.delenv(mps.PIPES, raising=False)
        (tmp_path / "bin").mkdir()
        told = tmp_path / "told"
        command = tmp_path / "bin" / mps.CONTROL
        command.write_text(
            f'#!/bin/sh\necho "$1 $CUDA_VISIBLE_DEVICES $CUDA_MPS_PIPE_DIRECTORY" >> {told}\ncat >> {told}\n'
        )
        command.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setattr(mps, "_TRY", "pass")
        yield told
        mps.end()
        assert told.read_text().splitlines()[-1] == "quit"

    def test_runs_in_folders_of_its_own_and_ends_with_the_flow(self, control: Path) -> None:
        variables, how = mps.share([ONE, TWO])
        assert how == "through NVIDIA MPS"
        folder = Path(variables[mps.PIPES])
        assert folder.is_dir()
        assert control.read_text() == f"-d {ONE.uuid},{TWO.uuid} {folder}\n"
        assert mps.share([ONE, TWO])[0] == variables  # it runs already
        assert control.read_text().count("-d") == 1

    def test_ends_with_a_command_that_is_killed(self, control: Path) -> None:
        code = (
            "import os, signal; from tasks.compute import mps; mps._TRY = 'pass'\n"
            "print(mps.share([])[0][mps.PIPES], flush=True); os.kill(os.getpid(), signal.SIGKILL)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL
        folder, deadline = Path(done.stdout.strip()), time.monotonic() + 10
        while folder.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not folder.exists()
        assert control.read_text().splitlines()[-1] == "quit"

    @pytest.mark.usefixtures("two_gpus", "control")
    def test_children_that_share_reach_it(self, made: Children) -> None:
        found = made.run(*(replace(made.job(f"j{number}", 0.2), need=1e9) for number in range(3)), per_gpu=2)
        assert all(child.pipes for child in found)
        (alone,) = made.run(made.job("alone"), per_gpu=2)
        assert alone.pipes == ""

    def test_is_done_without_where_it_does_not_serve(self, control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mps, "_TRY", "import sys; sys.exit('CUDA error 805')")
        assert mps.share([ONE]) == ({}, "in turns (NVIDIA MPS does not start: CUDA error 805)")
        folder = control.read_text().splitlines()[0].split()[-1]
        assert not Path(folder).exists()

    def test_somebody_elses_is_used_and_not_ended(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mps, "_running", {})
        monkeypatch.setattr(mps, "_refused", [])
        monkeypatch.setenv(mps.PIPES, str(tmp_path))
        assert mps.share([ONE]) == ({mps.PIPES: str(tmp_path)}, "through NVIDIA MPS")
