"""From pixels to a network's input."""

from __future__ import annotations

import torch
from torch import Tensor

from effnet.arch.spec import Architecture


def normalize(images: Tensor, arch: Architecture) -> Tensor:
    """Return uint8 (N, C, H, W) images as float32 with the architecture's pixel mean and spread taken out."""
    mean, std = (_channels(values, images.device) for values in (arch.pixel_mean, arch.pixel_std))
    return (images.float() - mean) / std


def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return a number for each channel, (C, 1, 1); on its way to a GPU nothing waits for it."""
    numbers = torch.tensor(values)[:, None, None]
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers.to(device)
