"""Carry out orders as child processes of this machine, several at a time, and stop them all when asked."""

from __future__ import annotations

import atexit
import contextvars
import functools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from effnet import machine
from effnet.config import LocalCompute
from effnet.errors import BusyError, ConfigError, DataError, MachineError, RunFailedError, StoppedError
from effnet.memory import USABLE, training_bytes
from effnet.order import Order
from effnet.process import GRACE_SECONDS, WARNING
from effnet.runs import RunFolder, RunSpec
from effnet.store import Store
from tasks.compute import interrupt, mps
from tasks.compute.forkserver import Fork, ForkServer, Place
from tasks.compute.slots import Slot, Slots, fitting, too_few
from tasks.compute.watch import Watch
from tasks.servers.gpus import VISIBLE, Gpu, gpus

POLL_SECONDS = 0.05
LOOK_SECONDS = 1.0  # between looks for warnings in the output of children
BUSY_SECONDS = 30.0  # a run may still be held by an orphaned child that is saving its state
CONTEXT_BYTES = 0.6e9  # that CUDA and its libraries take of a GPU for each process
ATTEMPTS = 3  # of a job whose process is killed (out of memory, an impatient operator)
MACHINE_ATTEMPTS = 2  # of one that says that this machine is broken

_ERRORS = {kind.exit_code: kind for kind in (ConfigError, DataError, BusyError, StoppedError, MachineError)}

_KILLED = (-signal.SIGKILL, -signal.SIGBUS)  # by the system: out of memory, or faulty memory


@dataclass(frozen=True)
class Job:
    """One child process to run: `python -m module arguments`, known to people as `name`."""

    name: str
    module: str
    arguments: tuple[str, ...]
    log: Path  # what the child prints is added to it
    size: float = 1.0  # expected, in any unit: the largest job starts first
    alone: bool = True  # whether it can be started again without other machines
    ranks: int = 1  # its processes; each uses a GPU of its own, where there are GPUs
    on_gpu: bool = True  # whether it uses them
    need: float | None = None  # bytes of each of its GPUs that it takes; None: it shares them with no other job
    keep: bool = False  # whether a process that has begun to use a GPU may do it, and others after it


@dataclass
class _Child:
    job: Job
    process: Fork
    log_start: int  # where its own output begins in the log
    slot: Slot
    attempt: int = 1
    busy_since: float | None = None
    looked: float = field(default_factory=time.monotonic)
    told: int = 0  # bytes of its own output that were looked through for warnings

    def warnings(self) -> list[str]:
        """Return what it warned of since the last call."""
        self.looked = time.monotonic()
        if not self.job.log.exists():  # it has hardly begun
            return []
        with self.job.log.open("rb") as log:
            log.seek(self.log_start + self.told)
            new = log.read()
        whole = new[: new.rfind(b"\n") + 1]
        self.told += len(whole)
        lines = whole.decode(errors="replace").splitlines()
        return [line.removeprefix(WARNING) for line in lines if line.startswith(WARNING)]

    def lines(self) -> list[str]:
        """Return the lines that it printed."""
        return self.job.log.read_bytes()[self.log_start :].decode(errors="replace").strip().splitlines()


def run_here(orders: Sequence[Order], compute: LocalCompute, store: Store, watch: Watch) -> None:
    """Carry out orders as child processes of this machine, largest first; see `run_jobs`."""
    run_jobs([_job(order, store, compute) for order in orders], compute, watch)


def _job(order: Order, store: Store, compute: LocalCompute) -> Job:
    order = order.model_copy(update={"store": str(store.root)})
    log = store.logs / f"{order.action}.log"
    if order.shards:
        log = store.logs / f"shard-{order.shards.part}.log"
    elif order.action == "train":
        machine = order.rendezvous.machine if order.rendezvous else 0
        log = store.runs / order.runs[0] / (f"output-{machine}.log" if machine else "output.log")
    on_gpu, alone = order.shards is None, order.rendezvous is None
    trained = RunFolder(store.runs / order.runs[0]).spec() if order.action == "train" and gpus() else None
    # What makes a training deterministic has to be said before a process begins to use a GPU.
    fresh = trained is not None and trained.recipe.deterministic
    return Job(
        order.name,
        "effnet.child",
        (order.model_dump_json(),),
        log,
        order.size,
        alone=alone,
        ranks=order.ranks,
        on_gpu=on_gpu,
        need=_need(order, trained) if trained and compute.per_gpu > 1 else None,
        keep=on_gpu and alone and order.ranks == 1 and not fresh,
    )


def _need(order: Order, spec: RunSpec) -> float:
    """Return the bytes that a training is predicted to take of each of its GPUs."""
    share = -(-spec.recipe.batch_size // (order.ranks * order.machines))
    images, bfloat16 = min(spec.recipe.micro_batch or share, share), spec.recipe.precision != "float32"
    teacher = spec.teacher.architecture if spec.teacher else None
    return CONTEXT_BYTES + training_bytes(
        spec.architecture, spec.num_classes, images, bfloat16=bfloat16, teacher=teacher
    )


def run_jobs(jobs: Sequence[Job], compute: LocalCompute, watch: Watch) -> None:
    """Run all jobs, largest first; in a flow run, each is one of its task runs.

    A child that is killed is started again and resumes where it was.

    Args:
        jobs: what to run.
        compute: how many at a time, and with how many threads each.
        watch: told what becomes of them.

    Raises:
        EffnetError: the kind for a failed child's exit code, with the child's own message; the others are stopped.
        BaseException: whatever interrupts the wait (Ctrl-C, SIGTERM); the children are stopped first, each with a
            checkpoint.
    """
    stop, watch = threading.Event(), watch.one_at_a_time()
    places = _places(sorted(jobs, key=lambda job: -job.size), compute, watch.say)

    def work() -> None:
        while (found := places.next()) is not None:
            job, slot = found
            try:
                if slot.gpus:
                    watch.say(f"{job.name} on {slot}")
                shown(job.name, functools.partial(_supervise, job, compute, slot, stop, watch))
            finally:
                places.free(job, slot)

    def end() -> None:
        places.close()
        stop.set()

    side_by_side(work, places.at_once, watch.tick, end)


def side_by_side(work: Callable[[], None], number: int, tick: Callable[[], None], end: Callable[[], None]) -> None:
    """Do work in so many threads at a time, until all of them have returned.

    Args:
        work: takes one thing to do after the other; called in every thread.
        number: of threads.
        tick: called meanwhile, now and then.
        end: called if a thread raises or this process is asked to stop, which is raised once the threads have returned.
    """
    with ThreadPoolExecutor(number, "job") as threads:
        left = {threads.submit(contextvars.copy_context().run, work) for _ in range(number)}
        try:
            while left:
                interrupt.check()
                ended, left = wait(left, POLL_SECONDS, FIRST_COMPLETED)
                for each in ended:
                    each.result()
                tick()
        except BaseException:
            end()
            raise


def _places(jobs: Sequence[Job], compute: LocalCompute, say: Callable[[str], None]) -> Slots[Job]:
    """Return the places for jobs, the first of which is the largest; say how they share GPUs, if they do."""
    there = gpus() if any(job.on_gpu for job in jobs) else ()
    variables: dict[str, str] = {}
    sharing = [job for job in jobs if job.need is not None]
    if sharing and too_few(there, jobs):
        variables, how = mps.share(there)
        say(f"up to {compute.per_gpu} trainings at a time on a GPU, {how}{_by_memory(sharing, there, compute.per_gpu)}")
    return Slots(jobs, there, compute, variables)


def _by_memory(sharing: Sequence[Job], there: Sequence[Gpu], per_gpu: int) -> str:
    """Say how many of the trainings that take most fit the smallest GPU, if that is not so many as asked for."""
    need, name = max((job.need or 0.0, job.name) for job in sharing)
    gpu = min(there, key=lambda gpu: gpu.memory)
    if (number := fitting(need, gpu, per_gpu)) == per_gpu:
        return ""
    has = USABLE * gpu.memory / 1e9
    return f"; {number} of {name} by memory: each is predicted to take {need / 1e9:.1f} of the {has:.1f} GB of {gpu}"


def shown(name: str, work: Callable[[], None]) -> None:
    """Do work, as a task run if this is a flow run. Prefect is not imported to find that out: it takes seconds."""
    prefect = sys.modules.get("prefect.context")
    if prefect is None or prefect.FlowRunContext.get() is None:
        work()
        return
    from tasks.compute.task_run import as_task_run

    as_task_run(name, work)


def _supervise(job: Job, compute: LocalCompute, slot: Slot, stop: threading.Event, watch: Watch) -> None:
    """Run a job to its end, or until `stop` is set; a child that is killed is replaced by another."""
    child = _start(job, compute, slot)
    while not stop.wait(POLL_SECONDS):
        code = child.process.poll()
        if code is None and time.monotonic() - child.looked < LOOK_SECONDS:
            continue
        for line in child.warnings():
            watch.warn(f"{job.name}: {line}")
        if code == 0:
            watch.done(job.name)
            return
        if code is not None:
            child = _start_again(child, code, compute, watch.warn)
    _stop(child, watch.warn)
    raise StoppedError(f"{job.name}: stopped, with its progress saved")


_servers: dict[int, ForkServer] = {}  # by number of threads; shared by all stages of a flow
_starting = threading.Lock()


@atexit.register
def _close_servers() -> None:
    for server in _servers.values():
        server.close()


def _start(job: Job, compute: LocalCompute, slot: Slot) -> _Child:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with _starting:
        server = _servers.get(compute.threads)
        if server is None or not server.running:
            server = _servers[compute.threads] = ForkServer(compute.threads)
    job.log.touch()  # a child may die before it opens it
    log_start = job.log.stat().st_size
    place = Place(slot.environment[VISIBLE], slot.mps) if job.keep and slot.gpus else None
    fork = server.start(job.name, job.module, job.arguments, job.log, slot.environment, place)
    return _Child(job, fork, log_start, slot)


def _start_again(child: _Child, code: int, compute: LocalCompute, warn: Callable[[str], None]) -> _Child:
    """Restart a child that was killed or found its run held by another process; raise if that is not allowed."""
    now = time.monotonic()
    if code < 0 and not child.job.alone:
        raise StoppedError(f"{child.job.name}: killed by {_signal_name(code)}; its machines will be restarted together")
    if code == BusyError.exit_code and now - (child.busy_since or now) < BUSY_SECONDS:
        again = _start(child.job, compute, child.slot)
        again.busy_since, again.attempt = child.busy_since or now, child.attempt
        return again
    if code < 0 and child.attempt < ATTEMPTS:
        warn(f"{child.job.name}: killed by {_signal_name(code)}; restarted from its last checkpoint")
        again = _start(child.job, compute, child.slot)
        again.attempt = child.attempt + 1
        return again
    told = next(reversed(child.lines()), "it printed nothing")
    if code == MachineError.exit_code and child.job.alone and child.attempt < MACHINE_ATTEMPTS:
        warn(f"{child.job.name}: {told}; started once more here")
        again = _start(child.job, compute, child.slot)
        again.attempt = child.attempt + 1
        return again
    if code in _ERRORS:
        raise _ERRORS[code](f"{child.job.name}: {told}")
    how = f"killed by {_signal_name(code)}, {ATTEMPTS} times" if code < 0 else f"exit code {code}"
    where = f"its output is in {child.job.log}"
    if code in _KILLED:
        raise MachineError(
            f"{child.job.name}: {how} on machine {machine.name()}, which probably ran out of memory; {where}; "
            "run it again with fewer at a time (compute.parallel), or on another machine"
        )
    raise RunFailedError(f"{child.job.name}: {how} ({told}); {where}; run the command again")


def _signal_name(code: int) -> str:
    return signal.Signals(-code).name


def _stop(child: _Child, warn: Callable[[str], None]) -> None:
    """Stop a child; warn if any of its work is lost."""
    child.process.terminate()
    try:
        code = child.process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.process.kill()
        child.process.wait(GRACE_SECONDS)
        warn(
            f"{child.job.name}: did not stop in {GRACE_SECONDS:.0f} s and was killed; what it did since its last "
            "checkpoint will be repeated"
        )
    else:
        if code == StoppedError.exit_code and (lines := child.lines()):
            warn(f"{child.job.name}: {lines[-1]}")
