"""How long a network takes."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

WARM_UP, RUNS = 5, 20  # paper, table 4: average of 20 runs
MAX_BATCH = 256
_SECONDS = 0.15  # of measuring each batch


@torch.inference_mode()
def latency_ms(network: nn.Module, in_channels: int, resolution: int) -> float:
    """Return the mean time in milliseconds for a batch of 1 on one CPU core (paper, table 4).

    The network must be on the CPU and in evaluation mode. Sets torch to one thread for the rest of the process.
    """
    torch.set_num_threads(1)
    image = _images(1, in_channels, resolution, torch.device("cpu"))
    times = []
    for _ in range(WARM_UP + RUNS):
        start = time.perf_counter()
        network(image)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.fmean(times[WARM_UP:])


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
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < _SECONDS or not done:
        network(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        done += 1
    return done * len(images) / spent


def _images(number: int, in_channels: int, resolution: int, device: torch.device) -> torch.Tensor:
    images = torch.zeros(number, in_channels, resolution, resolution, device=device)
    return images.contiguous(memory_format=torch.channels_last)
