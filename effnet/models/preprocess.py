"""From pixels to a network's input."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from effnet.arch.spec import Architecture


def normalize(images: Tensor, arch: Architecture) -> Tensor:
    """Return uint8 (N, C, H, W) images as float32 with the architecture's pixel mean and spread taken out."""
    mean, std = (_channels(values, images.device) for values in (arch.pixel_mean, arch.pixel_std))
    return (images.float() - mean) / std


@lru_cache(maxsize=16)  # to upload them waits for a device
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)[:, None, None]
