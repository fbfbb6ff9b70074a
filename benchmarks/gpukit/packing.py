"""Several small trainings on one device: steps per second of 1, 2, 4 and 8 processes together."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from effnet.arch.spec import Architecture
from effnet.train.schedule import stage
from effnet.train.step import take_step
from gpukit.kit import Findings, Kit, batch, training

_DIGITS = Path(__file__).parents[2] / "configs/architectures/efficientnet_digits.yaml"
BATCH = 64


def run(kit: Kit) -> Findings:
    """Start processes, let them run together, add up."""
    found = Findings()
    for processes in kit.of((1, 2, 4, 8), (1, 2)):
        found.numbers[f"{processes}_processes_images_per_s"] = round(_together(kit, processes))
    return found


def _together(kit: Kit, processes: int) -> float:
    seconds = kit.of(3.0, 0.3)
    start = time.time() + kit.of(14.0, 8.0)  # when all have warmed up
    command = [sys.executable, "-c", "import sys; from gpukit.packing import child; child(*sys.argv[1:])"]
    children = [
        subprocess.Popen(
            [*command, str(kit.device), str(kit.folder / f"{processes}-{n}"), str(start), str(seconds)],
            stdout=subprocess.PIPE, text=True,
        )
        for n in range(processes)
    ]  # fmt: skip
    return sum(float(child.communicate()[0].splitlines()[-1]) for child in children)


def child(device: str, folder: str, start: str, seconds: str) -> None:
    """Take steps from a moment on; print images/s."""
    import torch

    torch.set_num_threads(1)
    kit = Kit(torch.device(device), Path(folder))
    arch = Architecture.load(_DIGITS)
    state = training(kit, arch, batch_size=BATCH, epochs=1, ema_decay=0.99)
    state.network.train()
    one, now = batch(kit, BATCH, arch.resolution), stage(state.spec.recipe, arch, 0)
    for _ in range(5):
        take_step(state, one, now)
    kit.wait()
    late = max(0.0, time.time() - float(start))
    time.sleep(max(0.0, float(start) - time.time()))
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < float(seconds):
        take_step(state, one, now)
        kit.wait()
        steps += 1
    print(f"late by {late:.1f} s")
    print(BATCH * steps / (time.perf_counter() - begun))
