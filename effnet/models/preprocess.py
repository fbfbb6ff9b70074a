"""From pixels to what a network eats."""

from __future__ import annotations

import torch
from torch import Tensor

# MEAN_RGB and STDDEV_RGB of main.py and efficientnet_builder.py in the official code, on the 0..255 scale
MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


def normalize(images: Tensor) -> Tensor:
    """Return uint8 (N, 3, H, W) images as float32 with the mean and spread of ImageNet's pixels taken out."""
    mean = torch.tensor(MEAN, device=images.device)[:, None, None]
    std = torch.tensor(STD, device=images.device)[:, None, None]
    return (images.float() - mean) / std
