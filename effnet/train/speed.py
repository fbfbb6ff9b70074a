"""How fast this machine trains: a second or two of real steps, for the price of a family."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence

import torch
from torch.nn import functional

from effnet.arch.cost import count
from effnet.arch.spec import Architecture
from effnet.config import Recipe
from effnet.evaluation.latency import cpu_name
from effnet.models.build import build
from effnet.models.preprocess import normalize
from effnet.plan import Speed
from effnet.process import child_main
from effnet.train.optim import Optimizer
from effnet.train.state import takes_bfloat16
from effnet.values import Value

SECONDS = 0.6  # of steps of each network
MOST_MACS = 2e9  # of a step's forward pass: larger batches are cut, larger networks left out


class Question(Value):
    """What to measure, as the process `python -m effnet.train.speed` reads it."""

    networks: tuple[Architecture, ...]
    num_classes: int
    recipe: Recipe
    threads: int


def main() -> None:
    """Measure in a process of its own, which gives a GPU's memory back; answer on standard output."""
    asked = Question.parse(json.loads(sys.stdin.read()), "standard input")
    found = measure_speed(asked.networks, asked.num_classes, asked.recipe, asked.threads)
    sys.stdout.write(json.dumps(found._asdict()))


def measure_speed(networks: Sequence[Architecture], num_classes: int, recipe: Recipe, threads: int) -> Speed:
    """Return the speed of training networks here: the smallest, and the largest that a short measurement allows.

    Two sizes separate a step's fixed cost, which dominates for small networks, from what grows with the network: on a
    GPU with its activations; on a CPU with its multiply-adds, which fit better there
    (benchmarks/results/2026-11-27-plan.md).
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        by_cost = sorted(networks, key=lambda arch: count(arch, num_classes).macs)
        chosen = [by_cost[0], *(arch for arch in by_cost[-1:0:-1] if count(arch, num_classes).macs <= MOST_MACS)][:2]
        costs = [count(arch, num_classes) for arch in chosen]
        times = [_seconds_per_image(arch, num_classes, recipe, device) for arch in chosen]
    finally:
        torch.set_num_threads(before)
    if device.type == "cuda":
        fixed, each = line([(cost.activations, time) for cost, time in zip(costs, times, strict=True)])
        name, memory = torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).total_memory
        return Speed(fixed, 0.0, f"{name}, measured just now", seconds_per_activation=each, memory_bytes=memory)
    fixed, each = line([(cost.macs, time) for cost, time in zip(costs, times, strict=True)])
    return Speed(fixed, each, f"{threads} thread{'s' if threads > 1 else ''} of {cpu_name()}, measured just now")


def line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Return intercept and slope of the line through one or two (amount, seconds), neither of them below 0."""
    (amount, seconds), (more, more_seconds) = points[0], points[-1]
    if more > amount and 0 <= (slope := (more_seconds - seconds) / (more - amount)) * amount <= seconds:
        return seconds - slope * amount, slope
    return 0.0, more_seconds / more


def _seconds_per_image(arch: Architecture, num_classes: int, recipe: Recipe, device: torch.device) -> float:
    network = build(arch, num_classes, seed=0)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Optimizer(network, recipe)
    batch = max(1, min(recipe.batch_size, round(MOST_MACS / count(arch, num_classes).macs)))
    size = (batch, arch.in_channels, arch.resolution, arch.resolution)
    images = torch.randint(0, 256, size, dtype=torch.uint8, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, num_classes, (batch,), device=device)
    bfloat16 = takes_bfloat16(recipe, device)
    # On a CPU in processor time: other work on the machine is no part of the training's price.
    gpu, times = device.type == "cuda", list[float]()
    clock = time.perf_counter if gpu else lambda: time.process_time() / torch.get_num_threads()
    begun = time.monotonic()
    while len(times) < 2 or (sum(times) < SECONDS and time.monotonic() - begun < 5 * SECONDS):
        start = clock()
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            logits = network(normalize(images, arch))
        functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step(0.0, 0.9, len(times), None)
        if gpu:
            torch.cuda.synchronize(device)
        times.append(clock() - start)
    return statistics.median(times[1:]) / batch  # the first one warms up


if __name__ == "__main__":
    child_main(main)
