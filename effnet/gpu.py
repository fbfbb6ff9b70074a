"""What code for tensors on a GPU shares: kernels if they can be compiled, and uploads that nothing waits for."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor


def kernels(module: str, tensor: Tensor) -> ModuleType | None:
    """Return a module of Triton kernels for a tensor on a GPU; None elsewhere, or if Triton is not there."""
    return _imported(module) if tensor.is_cuda else None


@cache
def _imported(module: str) -> ModuleType | None:
    try:
        return import_module(module)
    except ImportError:  # torch for CUDA brings Triton along; other builds may not
        return None


def uploaded(numbers: Tensor, device: torch.device) -> Tensor:
    """Return numbers of the host on a device. To a GPU they go through pinned memory: another copy would block."""
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers.to(device)
