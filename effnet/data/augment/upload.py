"""Numbers that the host worked out, on their way to a device without anything waiting for them."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def uploaded(numbers: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array on a device. To a GPU it goes through pinned memory: from other memory a copy would block."""
    here = torch.from_numpy(numbers)
    return here.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else here
