"""From pixels to a network's input."""

from __future__ import annotations

import torch
from torch import Tensor

from effnet.arch.spec import Architecture
from effnet.gpu import uploaded


def normalize(images: Tensor, arch: Architecture) -> Tensor:
    """Return uint8 (N, C, H, W) images as float32 with the architecture's pixel mean and spread taken out."""
    mean, std = channel_values(arch, images.device)
    return (images.float() - mean) / std


def channel_values(arch: Architecture, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return an architecture's pixel mean and spread on a device, float32, (C, 1, 1) or (1, 1, 1)."""
    mean, std = (uploaded(torch.tensor(values)[:, None, None], device) for values in (arch.pixel_mean, arch.pixel_std))
    return mean, std
