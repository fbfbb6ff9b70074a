"""What a processor's training time goes by, multiply-adds or activations: steps of networks of different size.

    python benchmarks/speed_fit.py

Processor time of an image, one thread, the least of several steps. As `effnet plan` does (effnet/train/speed.py), a
line is laid through a family's first and last network; the last two columns say by how much it misses each, where the
line goes by multiply-adds and where it goes by activations.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from effnet.arch import zoo
from effnet.arch.cost import count
from effnet.arch.scaling import PAPER, scale
from effnet.arch.spec import Architecture
from effnet.config import Recipe, load_baseline, load_config
from effnet.models.build import build
from effnet.models.preprocess import normalize
from effnet.train.optim import Optimizer
from effnet.train.speed import line

CONFIG = Path(__file__).parents[1] / "configs" / "fashion_mnist_cpu.yaml"


def main() -> None:
    """Print a row of a Markdown table for each network."""
    torch.set_num_threads(1)
    print("| | pixels | ms | G MACs/s | M activations/s | by MACs | by activations |")
    print("|---|---|---|---|---|---|---|")
    config = load_config(CONFIG)
    baseline, multiple = load_baseline(config, CONFIG.parent), config.resolution_multiple
    measure([scale(baseline, PAPER.at(phi), resolution_multiple=multiple) for phi in range(5)], batch=64, rounds=15)
    for family in ("b", "lite"):
        measure([zoo.get(f"efficientnet_{family}{number}") for number in range(4)], batch=6, rounds=4)


def measure(networks: list[Architecture], *, batch: int, rounds: int) -> None:
    """Time steps of networks in turn, and print what they say."""
    steps = [step_of(arch, batch) for arch in networks]
    for step in steps:  # the first one warms up
        step()
    seconds = [min(times) / batch for times in zip(*([step() for step in steps] for _ in range(rounds)), strict=True)]
    costs = [count(arch) for arch in networks]
    missed = []
    for amounts in ([cost.macs for cost in costs], [cost.activations for cost in costs]):
        fixed, each = line([(amounts[0], seconds[0]), (amounts[-1], seconds[-1])])
        missed.append([(fixed + each * amount) / second - 1 for amount, second in zip(amounts, seconds, strict=True)])
    for number, (arch, cost, second) in enumerate(zip(networks, costs, seconds, strict=True)):
        print(
            f"| {arch.name} | {arch.resolution} | {1e3 * second:.2f} | {cost.macs / second / 1e9:.2f} | "
            f"{cost.activations / second / 1e6:.1f} | {missed[0][number]:+.0%} | {missed[1][number]:+.0%} |",
            flush=True,
        )


def step_of(arch: Architecture, batch: int) -> Callable[[], float]:
    """Return a function that takes a training step of a network and returns its processor time in seconds."""
    network = build(arch, seed=0)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Optimizer(network, Recipe())
    images = torch.randint(0, 256, (batch, arch.in_channels, arch.resolution, arch.resolution), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch,))

    def step() -> float:
        start = time.process_time()
        functional.cross_entropy(network(normalize(images, arch)), labels).backward()
        optimizer.step(0.0, 0.9, 0, None)
        return time.process_time() - start

    return step


if __name__ == "__main__":
    main()
