"""From pixels to a network's input."""

from __future__ import annotations

import torch
from torch import Tensor

from effnet.arch.spec import Architecture


def normalize(images: Tensor, arch: Architecture) -> Tensor:
    """Return uint8 (N, C, H, W) images as float32 with the architecture's pixel mean and spread taken out."""
    mean = torch.tensor(arch.pixel_mean, device=images.device)[:, None, None]
    std = torch.tensor(arch.pixel_std, device=images.device)[:, None, None]
    return (images.float() - mean) / std
