"""Training on the CPU against timm, each measurement in a process of its own, in turn.

    python benchmarks/train.py step       B0 at 224 pixels, batch 32, images/s: forward, backward, optimizer, average
    python benchmarks/train.py small      the network of configs/digits.yaml, two trainings on two cores
    python benchmarks/train.py update     optimizer and average alone, B0, ms
    python benchmarks/train.py together   loader and step together against the slower of both alone; the second pass of
                                          an evaluation; the cost of a checkpoint

Needs an environment with this package and: pip install timm scikit-image scikit-learn
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ROUNDS = 5


def main() -> None:
    """Run what the arguments name; in a child process, one measurement of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "small", "update", "together", "child"))
    parser.add_argument("child", nargs="*")
    options = parser.parse_args()
    if options.what == "child":
        print(json.dumps(CHILDREN[options.child[0]](*options.child[1:])))
    elif options.what == "step":
        compare("B0 at 224, batch 32, 2 threads", [("ours", 1), ("timm float32", 1), ("timm bfloat16", 1)], "b0", 2)
    elif options.what == "small":
        cases = [("ours", 2), ("timm float32", 1), ("timm float32", 2)]
        compare("digits B0 at 32, batch 32, 2 cores", cases, "digits", 2)
    elif options.what == "update":
        compare("optimizer and average of B0, updates/s", [("ours update", 1), ("timm update", 1)], "b0", 2)
    else:
        from together import together

        together()


def compare(title: str, cases: list[tuple[str, int]], network: str, cores: int) -> None:
    """Print the median rate of each case: its processes share the cores, and their rates are summed."""
    rates: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, processes in cases:
            label = f"{name} x{processes}"
            rates.setdefault(label, []).append(rate(name, network, cores // processes, processes))
    found = {label: round(statistics.median(values), 1) for label, values in rates.items()}
    first = next(iter(found))
    print(
        json.dumps(
            {"what": title, **found, **{f"x_{k}": round(found[first] / v, 2) for k, v in found.items() if k != first}}
        )
    )


def rate(name: str, network: str, threads: int, processes: int) -> float:
    """Return what one measurement gives, in images/s (or updates/s), all processes together."""
    command = [sys.executable, __file__, "child", name, network, str(threads)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return sum(float(child.communicate()[0].splitlines()[-1]) for child in running)


def timed(step: Callable[[], Any], images: int, seconds: float = 6.0) -> float:
    """Return images per second of a step, after warming up."""
    for _ in range(2):
        step()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        step()
        count += 1
    return images * count / (time.perf_counter() - start)


def architecture(name: str) -> Any:
    """Return B0, or the small network of the digits family."""
    from effnet.arch import zoo
    from effnet.arch.spec import Architecture

    if name == "b0":
        return zoo.get("efficientnet_b0")
    return Architecture.load(ROOT / "configs/architectures/efficientnet_digits.yaml")


def batch_of(arch: Any, size: int) -> tuple[Any, Any]:
    """Return uint8 images as the loader gives them, and labels."""
    import torch

    pixels = torch.randint(0, 256, (size, arch.resolution, arch.resolution, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    return pixels, torch.randint(0, 10, (size,))


def ours(network: str, threads: str) -> float:
    """A whole step as a training takes it, from uint8 pixels on."""
    import torch

    from effnet.process import keep_memory

    keep_memory()
    torch.set_num_threads(int(threads))
    step, size = our_step(architecture(network), 32)
    return timed(step, size)


def our_step(arch: Any, size: int) -> tuple[Callable[[], Any], int]:
    """Return a function that takes a step on a fixed batch."""
    from types import SimpleNamespace

    import numpy as np
    import torch

    from effnet.config import Recipe
    from effnet.data.loader import Batch
    from effnet.models.build import build
    from effnet.train.distributed import World
    from effnet.train.optim import Optimizer
    from effnet.train.schedule import stage
    from effnet.train.step import take_step

    recipe = Recipe(batch_size=size, epochs=1000, ema_decay=0.9999)
    net = build(arch, 1000, seed=0).to(memory_format=torch.channels_last)
    pixels, labels = batch_of(arch, size)
    training: Any = SimpleNamespace(
        spec=SimpleNamespace(recipe=recipe, architecture=arch, seed=0), network=net, optimizer=Optimizer(net, recipe),
        progress=SimpleNamespace(step=0), steps_per_epoch=100, device=torch.device("cpu"), world=World(),
        class_weights=None, bfloat16=False, micro_batch=size, loss_sum=torch.zeros((), dtype=torch.float64), warn=print,
    )  # fmt: skip
    batch, now = Batch(pixels, labels, np.arange(size)), stage(recipe, arch, 0)
    return lambda: take_step(training, batch, now), size


def their_network(network: str) -> Any:
    """Return timm's network of the same architecture."""
    import timm
    import torch
    from timm.models._efficientnet_builder import decode_arch_def
    from timm.models.efficientnet import EfficientNet

    if network == "b0":
        return timm.create_model("efficientnet_b0", drop_rate=0.2, drop_path_rate=0.2)
    arch = architecture(network)
    stages = []
    for s in arch.stages:
        kind = "ir" if s.expand_ratio > 1 else "ds"
        text = f"{kind}_r{s.repeats}_k{s.kernel}_s{s.stride}_e{s.expand_ratio}_c{s.channels}_se{s.se_ratio}"
        stages.append([text])
    net = EfficientNet(
        decode_arch_def(stages), num_features=arch.head.channels, stem_size=arch.stem.channels, num_classes=1000,
        round_chs_fn=lambda channels, *_a, **_k: channels, act_layer=torch.nn.SiLU, drop_rate=0.1, drop_path_rate=0.1,
    )  # fmt: skip
    if arch.stem.stride == 1:
        net.conv_stem.stride = (1, 1)
    return net


def timm_step(network: str, threads: str, *, bfloat16: bool) -> float:
    """The same step with timm's network, optimizer and average, channels last."""
    import torch
    from timm.optim import RMSpropTF
    from timm.utils import ModelEmaV3
    from torch.nn import functional

    torch.set_num_threads(int(threads))
    arch = architecture(network)
    net = their_network(network).to(memory_format=torch.channels_last).train()
    optimizer = RMSpropTF(net.parameters(), lr=1e-3, eps=1e-3, momentum=0.9, weight_decay=1e-5)
    average = ModelEmaV3(net, decay=0.9999)
    pixels, labels = batch_of(arch, 32)
    mean, std = (torch.tensor(v)[:, None, None] for v in (arch.pixel_mean, arch.pixel_std))

    def step() -> None:
        images = (pixels.float() - mean) / std
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = net(images)
        functional.cross_entropy(logits.float(), labels, label_smoothing=0.1).backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(net)

    return timed(step, 32)


def our_update(network: str, threads: str) -> float:
    """Optimizer and average alone."""
    import torch

    from effnet.config import Recipe
    from effnet.models.build import build
    from effnet.process import keep_memory
    from effnet.train.optim import Optimizer

    keep_memory()
    torch.set_num_threads(int(threads))
    net = build(architecture(network), 1000, seed=0).to(memory_format=torch.channels_last)
    optimizer = Optimizer(net, Recipe(ema_decay=0.9999))
    gradients = [torch.randn_like(param) * 0.01 for param in net.parameters()]

    def step() -> None:
        for param, gradient in zip(net.parameters(), gradients, strict=True):
            param.grad = gradient
        optimizer.step(1e-3, 0.9999, 0)

    return timed(step, 1, 3.0)


def timm_update(network: str, threads: str) -> float:
    """The same of timm."""
    import torch
    from timm.optim import RMSpropTF
    from timm.utils import ModelEmaV3

    torch.set_num_threads(int(threads))
    net = their_network(network).to(memory_format=torch.channels_last).train()
    optimizer = RMSpropTF(net.parameters(), lr=1e-3, eps=1e-3, momentum=0.9, weight_decay=1e-5)
    average = ModelEmaV3(net, decay=0.9999)
    gradients = [torch.randn_like(param) * 0.01 for param in net.parameters()]

    def step() -> None:
        for param, gradient in zip(net.parameters(), gradients, strict=True):
            param.grad = gradient
        optimizer.step()
        average.update(net)

    return timed(step, 1, 3.0)


CHILDREN: dict[str, Callable[..., float]] = {
    "ours": ours,
    "timm float32": lambda network, threads: timm_step(network, threads, bfloat16=False),
    "timm bfloat16": lambda network, threads: timm_step(network, threads, bfloat16=True),
    "ours update": our_update,
    "timm update": timm_update,
}


if __name__ == "__main__":
    main()
