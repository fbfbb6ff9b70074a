"""Training steps per second of B0, B4 and B7, ours and timm's, in turn, on images that are on the device already."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from effnet.arch.cost import count
from effnet.train.schedule import stage
from effnet.train.step import take_step
from gpukit.kit import Findings, Kit, batch, network, training

BATCHES = {"efficientnet_b0": 256, "efficientnet_b4": 64, "efficientnet_b7": 16}
ROUNDS = 3


def run(kit: Kit) -> Findings:
    """Measure."""
    found = Findings()
    for name, size in BATCHES.items() if kit.gpu else [("efficientnet_b0", 2)]:
        found.numbers[name] = compare(kit, name, size)
    return found


def compare(kit: Kit, name: str, size: int, *, compiled: bool = False) -> dict[str, Any]:
    """Return images/s of each contender, ours and timm's, eager or compiled, and ours over theirs."""
    arch = network(name, kit.of(None, 32))
    steps: dict[str, Callable[[], Any]] = {"ours": our_step(kit, arch, size)}
    if kit.gpu:
        steps["timm compiled" if compiled else "timm eager"] = timm_step(kit, name, arch, size, compiled=compiled)
    rates: dict[str, list[float]] = {label: [] for label in steps}
    for step in steps.values():
        for _ in range(3):
            step()
    for _ in range(ROUNDS):
        for label, step in steps.items():
            rates[label].append(size / kit.seconds(step, repeats=kit.of(8, 1), warm_up=1))
    found = {label: round(statistics.median(values), 1) for label, values in rates.items()}
    activations = count(arch, 10).activations
    return found | {
        "images": size,
        "activations_per_s": f"{found['ours'] * activations:.3g}",
        **{
            f"ours_over_{label.replace(' ', '_')}": round(found["ours"] / found[label], 3)
            for label in steps
            if label != "ours"
        },
    }


def our_step(kit: Kit, arch: Any, size: int) -> Callable[[], Any]:
    """Return a function that takes a step as a training does, with a crop and flip only."""
    state = training(kit, arch, batch_size=size, epochs=1, ema_decay=0.9999)
    state.network.train()
    one, now = batch(kit, size, arch.resolution), stage(state.spec.recipe, arch, 0)
    one = one._replace(images=one.images.to(kit.device))
    return lambda: take_step(state, one, now)


def timm_step(kit: Kit, name: str, arch: Any, size: int, *, compiled: bool) -> Callable[[], Any]:
    """Return the same step of timm's network, optimizer and average."""
    import timm
    from timm.optim import RMSpropTF
    from timm.utils import ModelEmaV3

    net = timm.create_model(name, num_classes=10, drop_rate=0.2, drop_path_rate=0.2)
    net = net.to(kit.device, memory_format=torch.channels_last).train()
    optimizer = RMSpropTF(net.parameters(), lr=1e-3, eps=1e-3, momentum=0.9, weight_decay=1e-5)
    average = ModelEmaV3(net, decay=0.9999)
    one = batch(kit, size, arch.resolution)
    pixels, labels = one.images.to(kit.device), one.labels.to(kit.device)
    mean, std = (torch.tensor(v, device=kit.device)[:, None, None] for v in (arch.pixel_mean, arch.pixel_std))
    forward = torch.compile(net) if compiled else net

    def step() -> None:
        images = (pixels.float() - mean) / std
        with torch.autocast("cuda", torch.bfloat16):
            logits = forward(images)
        functional.cross_entropy(logits.float(), labels, label_smoothing=0.1).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        average.update(net)

    begun = time.perf_counter()
    step()
    kit.wait()
    print(f"timm {name} {'compiled' if compiled else 'eager'}: first step {time.perf_counter() - begun:.1f} s")
    return step
