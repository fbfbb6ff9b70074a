"""How long a network takes."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from torch import nn

from effnet.runs import Latency

WARM_UP, RUNS = 5, 20  # minimums; the paper's table 4 is the average of 20 runs
MAX_BATCH = 256
ROUNDS = 3  # of measuring, at most, until one is quiet
PAUSE_SECONDS = 0.5  # between them
_SECONDS = 0.15  # of measuring each batch
_LATENCY_SECONDS = 0.3  # of a round of latency, at least
BRIEFLY = "EFFNET_TIME_BRIEFLY"  # set where times must be there but need not be good: effnet's tests time hundreds

# What marks a round as disturbed by other work.
OTHERS_SHARE = 0.25  # of all cores kept busy by other processes
OWN_SHARE = 0.9  # of the time that this thread had a core
SPREAD = 0.2  # between the quartiles, of the median


class _Load(NamedTuple):
    """Seconds since an arbitrary time: all processors' busy time, this process's, this thread's, and the clock's."""

    busy: float
    own: float
    thread: float
    clock: float

    @classmethod
    def now(cls) -> _Load:
        times = psutil.cpu_times()._asdict()
        busy = sum(seconds for kind, seconds in times.items() if kind in ("user", "nice", "system", "irq", "softirq"))
        return cls(busy, time.process_time(), time.thread_time(), time.perf_counter())


def measure_latency(
    network: nn.Module, in_channels: int, resolution: int, device: torch.device | None = None
) -> Latency:
    """Return the median time for a batch of 1 on one CPU core (paper, table 4), and what else the machine did.

    The network must be in evaluation mode, and on the CPU, or on the GPU `device`: then it is the time until the GPU
    is done, with one core to drive it.
    """
    where = device or torch.device("cpu")
    image = _images(1, in_channels, resolution, where)
    if where.type == "cpu":
        return measure_call(lambda: network(image))

    def call() -> None:
        network(image)
        torch.cuda.synchronize(where)

    return measure_call(call).model_copy(update={"device": torch.cuda.get_device_name(where)})


@torch.inference_mode()
def measure_call(call: Callable[[], object]) -> Latency:
    """Return the median time of a call that computes on one thread, and what else the machine did.

    A round that other work disturbed is repeated, and the quietest one counts. Torch is set to one thread meanwhile.
    """
    return _measure([call], until_quiet=True)[0]


@torch.inference_mode()
def measure_in_turn(calls: Sequence[Callable[[], object]]) -> list[Latency]:
    """Return what `measure_call` does for several calls whose times will be compared.

    Their rounds alternate, so that whatever else the machine does meets all of them alike.
    """
    return _measure(calls, until_quiet=False)


def _measure(calls: Sequence[Callable[[], object]], *, until_quiet: bool) -> list[Latency]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        best = [_round(call) for call in calls]
        for _ in range(ROUNDS - 1):
            if until_quiet:
                if best[0].quiet:
                    break
                time.sleep(_usually(PAUSE_SECONDS))
            best = [quieter(known, _round(call)) for known, call in zip(best, calls, strict=True)]
        return best
    finally:
        torch.set_num_threads(threads)


def quieter(one: Latency, other: Latency) -> Latency:
    """Return which of two measurements of a network is to be believed: one that is quiet, else the shorter."""
    if one.quiet != other.quiet:
        return one if one.quiet else other
    return min(one, other, key=lambda latency: latency.latency_ms)


def cpu_name() -> str:
    """Return the processor's name for itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next((model for model in models if model), platform.processor() or platform.machine())


def _usually(seconds: float) -> float:
    return 0.0 if BRIEFLY in os.environ else seconds


def _round(call: Callable[[], object]) -> Latency:
    seconds = _usually(_LATENCY_SECONDS)
    for _ in range(WARM_UP):
        call()
    times: list[float] = []
    before = _Load.now()
    while len(times) < RUNS or time.perf_counter() - before.clock < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    after = _Load.now()
    took = after.clock - before.clock
    others = max(0.0, (after.busy - before.busy) - (after.own - before.own)) / took
    first, median, third = statistics.quantiles(times, n=4)
    quiet = (
        others <= OTHERS_SHARE * (psutil.cpu_count() or 1)
        and after.thread - before.thread >= OWN_SHARE * took
        and third - first <= SPREAD * median
    )
    return Latency(
        latency_ms=1e3 * median,
        spread_ms=1e3 * (third - first),
        runs=len(times),
        threads=1,
        device=cpu_name(),
        others=round(others, 2),
        quiet=quiet,
        tries=1,
    )


@torch.inference_mode()
def throughput(network: nn.Module, in_channels: int, resolution: int, device: torch.device) -> tuple[float, int]:
    """Return images per second at the best batch (a power of two), and that batch.

    Batches are doubled while that pays. The network must be on `device` and in evaluation mode.
    """
    best, best_batch, batch = 0.0, 1, 1
    while batch <= MAX_BATCH:
        try:
            rate = _rate(network, _images(batch, in_channels, resolution, device))
        except torch.OutOfMemoryError:
            break
        if rate > best:
            best, best_batch = rate, batch
        elif batch >= 4 * best_batch:
            break
        batch *= 2
    return best, best_batch


def _rate(network: nn.Module, images: torch.Tensor) -> float:
    network(images)
    done, start, seconds = 0, time.perf_counter(), _usually(_SECONDS)
    while (spent := time.perf_counter() - start) < seconds or not done:
        network(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        done += 1
    return done * len(images) / spent


def _images(number: int, in_channels: int, resolution: int, device: torch.device) -> torch.Tensor:
    images = torch.zeros(number, in_channels, resolution, resolution, device=device)
    return images.contiguous(memory_format=torch.channels_last)
