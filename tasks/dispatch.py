"""Run units of work as child processes of this machine, several at a time, and stop them all when asked."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from effnet.config import LocalCompute
from effnet.errors import BusyError, ConfigError, DataError, RunFailedError, StoppedError
from effnet.process import PARENT_PIPE

POLL_SECONDS = 0.2
STOP_SECONDS = 20.0  # a child that was asked to stop has this long to write its checkpoint
BUSY_SECONDS = 30.0  # a run may still be held by a child whose parent was killed and that is saving its state

_ERRORS = {2: ConfigError, 65: DataError, 73: BusyError, 75: StoppedError}


@dataclass(frozen=True)
class Job:
    """One child process to run: `python -m module arguments`, known to people as `name`."""

    name: str
    module: str
    arguments: tuple[str, ...]
    work: float = 1.0  # expected size, in any unit: the largest job starts first


@dataclass
class _Child:
    job: Job
    process: subprocess.Popen[bytes]
    stderr: Path
    busy_since: float | None = field(default=None)


def slots(compute: LocalCompute) -> int:
    """Return how many jobs run at a time."""
    return compute.parallel or len(os.sched_getaffinity(0))


def run_jobs(
    jobs: Sequence[Job], compute: LocalCompute, logs: Path, tick: Callable[[], None], done: Callable[[Job], None]
) -> None:
    """Run all jobs, largest first.

    Args:
        jobs: what to run.
        compute: how many at a time, and with how many threads each.
        logs: folder for the children's output.
        tick: called several times a second while children run.
        done: called with every job that ended well.

    Raises:
        EffnetError: of the kind that a child's exit code names, with the child's own line; the others are stopped.
        BaseException: whatever interrupts the wait (Ctrl-C, SIGTERM); the children are stopped first, each with a
            checkpoint.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting = deque(sorted(jobs, key=lambda job: -job.work))
    children: list[_Child] = []
    try:
        while waiting or children:
            while waiting and len(children) < slots(compute):
                children.append(_start(waiting.popleft(), compute, logs))
            for child in list(children):
                if _ended(child, compute, logs):
                    children.remove(child)
                    done(child.job)
            tick()
            time.sleep(POLL_SECONDS)
    except BaseException:
        _stop(children)
        raise


def _start(job: Job, compute: LocalCompute, logs: Path) -> _Child:
    stderr = logs / f"{job.name}.log"
    threads = str(compute.threads)
    with stderr.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", job.module, *job.arguments],
            stdin=subprocess.PIPE,  # held open: its end tells the child that this process is gone
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops its children in order
            env=os.environ | {PARENT_PIPE: "1", "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )
    return _Child(job, process, stderr)


def _ended(child: _Child, compute: LocalCompute, logs: Path) -> bool:
    """Say whether a child ended well; raise if it ended otherwise. A busy run is tried again for a while."""
    code = child.process.poll()
    if code is None:
        return False
    if child.process.stdin:
        child.process.stdin.close()
    if code == 0:
        return True
    if code == BusyError.exit_code:
        child.busy_since = child.busy_since or time.monotonic()
        if time.monotonic() - child.busy_since < BUSY_SECONDS:
            again = _start(child.job, compute, logs)
            child.process = again.process
            return False
    lines = child.stderr.read_text(errors="replace").strip().splitlines()
    told = lines[-1] if lines else "it said nothing"
    if code in _ERRORS:
        raise _ERRORS[code](f"{child.job.name}: {told}")
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    raise RunFailedError(f"{child.job.name}: {how} ({told}); its output is in {child.stderr}; run the command again")


def _stop(children: Sequence[_Child]) -> None:
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            child.process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for child in children:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
