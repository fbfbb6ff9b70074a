"""Device memory of a training step and of an evaluation, against the model of it."""

from __future__ import annotations

import torch

from effnet.arch.cost import count
from effnet.memory import training_bytes
from effnet.train.schedule import stage
from effnet.train.step import take_step
from gpukit.kit import Findings, Kit, batch, network, training

SIZES = {"b0": 128, "b4": 32, "b7": 8}


def run(kit: Kit) -> Findings:
    """Measure the peak of two steps of each member."""
    found = Findings()
    for name, size in SIZES.items() if kit.gpu else [("b0", 2)]:
        arch = network(f"efficientnet_{name}", kit.of(None, 32))
        state = training(kit, arch, batch_size=size, epochs=1, ema_decay=0.9999)
        state.network.train()
        one, now = batch(kit, size, arch.resolution), stage(state.spec.recipe, arch, 0)
        take_step(state, one, now)
        if kit.gpu:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            take_step(state, one, now)
            peak = torch.cuda.max_memory_allocated() - before
            activations = count(arch, 10).activations
            modelled = training_bytes(arch, 10, size) - training_bytes(arch, 10, 0)
            found.numbers[name] = {
                "images": size,
                "bytes_per_image": round(peak / size),
                "bytes_per_activation": round(peak / size / activations, 2),
                "over_the_model": round(peak / modelled, 3),
                "reserved_over_peak": round(torch.cuda.max_memory_reserved() / torch.cuda.max_memory_allocated(), 2),
            }
            del state, one
            torch.cuda.empty_cache()
    return found
