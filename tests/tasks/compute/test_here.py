"""Child processes: in parallel, restarted when killed, stopped when asked, their errors passed on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from effnet.config import LocalCompute
from effnet.errors import BusyError, ConfigError, DataError, MachineError, RunFailedError, StoppedError
from tasks.compute import here as dispatch
from tasks.compute import interrupt
from tasks.compute.here import Job, run_jobs
from tasks.compute.watch import Watch
from tests.tasks.compute.jobs import MODULE


def children() -> list[psutil.Process]:
    """Return the processes that jobs run in: children of the fork server."""
    found = []
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
            if each.ppid() != os.getpid() and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
    return found


class Notes:
    def __init__(self) -> None:
        self.done: list[str] = []
        self.warned: list[str] = []

    def run(self, *jobs: Job, parallel: int = 2, tick: Callable[[], None] = lambda: None) -> None:
        run_jobs(
            jobs,
            LocalCompute(parallel=parallel),
            Watch(self.warned.append, tick, self.done.append),
        )


def test_largest_first_and_so_many_at_a_time(job: Callable[..., Job], tmp_path: Path) -> None:
    notes = Notes()
    most = 0

    def tick() -> None:
        nonlocal most
        most = max(most, len(children()))

    line = f"p = Path({str(tmp_path)!r}) / 'order'; p.open('a').write('%s\\n'); time.sleep(0.4)"
    notes.run(*(job(f"j{work}", line % work, work) for work in (1, 3, 2, 5, 4)), tick=tick)
    assert sorted(notes.done) == ["j1", "j2", "j3", "j4", "j5"]
    assert most == 2
    order = (tmp_path / "order").read_text().split()
    assert set(order[:2]) == {"5", "4"}
    assert order[-1] == "1"


@pytest.mark.parametrize(
    ("code", "kind"),
    [(2, ConfigError), (65, DataError), (75, StoppedError), (76, MachineError), (70, RunFailedError)],
)
def test_childs_error_is_passed_on_with_its_line(job: Callable[..., Job], code: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^bad: .*what went wrong"):
        Notes().run(job("bad", f"print('noise\\nwhat went wrong', file=sys.stderr); sys.exit({code})"))


def test_error_stops_the_others(job: Callable[..., Job]) -> None:
    start = time.monotonic()
    with pytest.raises(DataError):
        Notes().run(job("slow", "time.sleep(60)", 2), job("bad", "time.sleep(0.5); sys.exit(65)"))
    assert time.monotonic() - start < 30
    assert not children()


def test_killed_child_is_started_again_and_said(job: Callable[..., Job], tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")
    line = f"p = Path({mark!r}); again = p.exists(); p.touch(); again or os.kill(os.getpid(), signal.SIGKILL)"
    notes = Notes()
    notes.run(job("victim", line))
    assert notes.done == ["victim"]
    assert notes.warned == ["victim: killed by SIGKILL; restarted from its last checkpoint"]


def test_child_that_is_killed_every_time_is_given_up(job: Callable[..., Job]) -> None:
    notes = Notes()
    with pytest.raises(MachineError, match=f"killed by SIGKILL, 3 times on machine {os.uname().nodename}"):
        notes.run(job("victim", "os.kill(os.getpid(), signal.SIGKILL)"))
    assert len(notes.warned) == 2


def test_child_whose_machine_is_broken_is_started_once_more_here(job: Callable[..., Job], tmp_path: Path) -> None:
    notes, mark = Notes(), str(tmp_path / "mark")
    line = f"p = Path({mark!r}); again = p.exists(); p.touch(); again or (print('no GPU'), sys.exit(76))"
    notes.run(job("unlucky", line))
    assert notes.done == ["unlucky"]
    assert notes.warned == ["unlucky: no GPU; started once more here"]
    with pytest.raises(MachineError, match="doomed: no GPU"):
        notes.run(job("doomed", "print('no GPU'); sys.exit(76)"))
    assert len(notes.warned) == 2


def test_busy_run_is_tried_again_for_a_while(
    job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = str(tmp_path / "mark")
    notes = Notes()
    notes.run(job("late", f"p = Path({mark!r}); again = p.exists(); p.touch(); sys.exit(0 if again else 73)"))
    assert notes.done == ["late"]
    monkeypatch.setattr(dispatch, "BUSY_SECONDS", 0.5)
    with pytest.raises(BusyError):
        notes.run(job("never", "sys.exit(73)"))


def test_warnings_of_children_are_passed_on(job: Callable[..., Job]) -> None:
    notes = Notes()
    notes.run(job("careful", "print('warning: mind the gap', file=sys.stderr); print('other', file=sys.stderr)"))
    assert notes.warned == ["careful: mind the gap"]


def test_interrupt_stops_children_in_order(job: Callable[..., Job], tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    line = (
        f"signal.signal(signal.SIGTERM, lambda *_: (Path({str(saved)!r}).touch(), sys.exit(75)));"
        f" Path({str(tmp_path / 'up')!r}).touch(); time.sleep(60)"
    )

    def tick() -> None:
        if (tmp_path / "up").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Notes().run(job("child", line), tick=tick)
    assert saved.exists()
    assert not children()


def test_a_request_to_stop_that_somebody_swallowed_still_stops(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupt, "_asked", threading.Event())
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    interrupt.install()

    def swallow() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            Notes().run(job("long", "time.sleep(60)"), tick=swallow)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert time.monotonic() - start < 30


def test_children_die_with_the_fork_server_and_are_started_again(job: Callable[..., Job], tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    line = f"p = Path({str(mark)!r}); again = p.exists(); p.write_text(str(os.getppid())); again or time.sleep(60)"
    killed = []

    def tick() -> None:
        if not killed and mark.exists() and mark.read_text():
            killed.append(int(mark.read_text()))
            os.kill(killed[0], signal.SIGKILL)

    notes = Notes()
    notes.run(job("victim", line), tick=tick)
    assert notes.done == ["victim"]
    assert "killed by SIGKILL; restarted from its last checkpoint" in notes.warned[0]
    assert int(mark.read_text()) != killed[0]


def test_a_fork_server_that_dies_before_its_child_lives_is_started_again(job: Callable[..., Job]) -> None:
    notes, compute = Notes(), LocalCompute(threads=3)  # a server that no other test has started
    killed = []

    def tick() -> None:
        if not killed and 3 in dispatch._servers:
            killed.append(dispatch._servers[3])
            killed[0]._server.kill()

    run_jobs([job("early", "pass")], compute, Watch(notes.warned.append, tick, notes.done.append))
    assert notes.done == ["early"]
    assert notes.warned == ["early: killed by SIGKILL; restarted from its last checkpoint"]


def test_children_are_as_nice_as_who_started_them(job: Callable[..., Job], tmp_path: Path) -> None:
    told = tmp_path / "told"
    line = f"Path({str(told)!r}).write_text(f'{{os.nice(0)}} ' + Path('/proc/self/autogroup').read_text())"
    code = (
        "import os, sys; from pathlib import Path; os.nice(7)\n"
        "from effnet.config import LocalCompute; from tasks.compute.here import Job, run_jobs\n"
        "from tasks.compute.watch import Watch\n"
        f"child = Job('nice', {MODULE!r}, ({line!r},), Path({str(tmp_path / 'log')!r}))\n"
        "run_jobs([child], LocalCompute(), Watch(print))"
    )
    job("unused", "pass")  # its fixture wrote the module
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    nice, group = told.read_text().split(" ", 1)
    wanted = str(min(19, os.nice(0) + 7))
    assert nice == wanted
    assert group.strip().endswith(f"nice {wanted}")  # the system compares sessions by it


def test_a_child_begins_with_torch_imported_and_shows_its_name(job: Callable[..., Job], tmp_path: Path) -> None:
    told = tmp_path / "told"
    line = f"assert 'torch' in sys.modules; Path({str(told)!r}).write_text(Path('/proc/self/comm').read_text())"
    Notes().run(job("fit α1.2 β1.1 γ1.15", line))
    assert told.read_text() == "fit α1.2 β1.1\n"  # 15 bytes are what the system keeps
