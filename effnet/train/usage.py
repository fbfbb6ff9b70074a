"""Where a training's time goes: waiting for data, and what of the machine it uses."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TypeVar

import psutil
import torch

from effnet.train.distributed import World
from effnet.train.nvml import find_meter

_T = TypeVar("_T")


class Clock:
    """Measures one epoch at a time.

    Args:
        started: Unix seconds at which the process began.
        device: where the network is.
    """

    def __init__(self, started: float, device: torch.device) -> None:
        self._started, self._device, self._process = started, device, psutil.Process()
        self._meter = find_meter(device) if device.type == "cuda" else None
        if device.type == "cuda" and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats(device)  # this process may have trained another network before
        self.begin()

    def seconds(self) -> float:
        """Return the seconds since the process began."""
        return time.time() - self._started

    def begin(self) -> None:
        """Begin an epoch."""
        self._begun, self._waited, self._cpu = time.perf_counter(), 0.0, self._cpu_seconds()
        if self._meter:
            self._meter.begin()

    def waiting(self, batches: Iterator[_T]) -> Iterator[_T]:
        """Yield the batches, adding up the time spent waiting for them."""
        while True:
            if self._meter:
                self._meter.look()
            asked = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def usage(self, images: int) -> dict[str, float]:
        """Return the epoch's numbers so far: rates, shares between 0 and 1, bytes; of a GPU see effnet.train.nvml.

        Args:
            images: that all ranks together trained on since `begin`.
        """
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        wall = time.perf_counter() - self._begun
        found = {
            "images_per_second": images / wall,
            "data_wait": self._waited / wall,
            "cpu_cores_used": (self._cpu_seconds() - self._cpu) / wall,
            "memory_bytes": float(self._process.memory_info().rss),
        }
        if self._device.type == "cuda":
            found["gpu_memory_bytes"] = float(torch.cuda.max_memory_allocated(self._device))
        return found | (self._meter.numbers() if self._meter else {})

    def _cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def with_all_energy(usage: dict[str, float], images: int, world: World) -> dict[str, float]:
    """Return an epoch's numbers with the energy of the GPUs of all ranks, in all and per image, if each measured it.

    Args:
        usage: this rank's numbers.
        images: that all ranks together trained on.
        world: all ranks, each of which calls this.
    """
    if world.device.type != "cuda":
        return usage
    energy = torch.tensor(usage.get("gpu_energy_joules", math.nan), dtype=torch.float64, device=world.device)
    world.sum_(energy)
    rest = {name: value for name, value in usage.items() if name != "gpu_energy_joules"}
    if not math.isfinite(joules := float(energy)):
        return rest
    return rest | {"gpu_energy_joules": joules, "joules_per_image": joules / images}
