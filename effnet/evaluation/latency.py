"""How long a network takes for one image."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

WARM_UP, RUNS = 5, 20  # paper, table 4: average of 20 runs


@torch.inference_mode()
def latency_ms(network: nn.Module, in_channels: int, resolution: int) -> float:
    """Return the mean time in milliseconds for a batch of 1 on one CPU core (paper, table 4).

    The network must be on the CPU and in evaluation mode. Sets torch to one thread for the rest of the process.
    """
    torch.set_num_threads(1)
    image = torch.zeros(1, in_channels, resolution, resolution).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(WARM_UP + RUNS):
        start = time.perf_counter()
        network(image)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.fmean(times[WARM_UP:])
