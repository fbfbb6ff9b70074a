"""The device that a person names."""

from __future__ import annotations

import re

import torch

from effnet.errors import ConfigError

_NAME = re.compile(r"cpu|cuda(:(?P<index>\d{1,3}))?")


def device_of(name: str | None) -> torch.device:
    """Return the device of a name: cpu, cuda, cuda:1; by default the first GPU, where there is one.

    Raises:
        ConfigError: if it is no such name, or this machine has no such GPU.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if (match := _NAME.fullmatch(name)) is None:
        raise ConfigError(f"--device {name[:80]}: no such device; write cpu, cuda, or cuda:1 for the second GPU")
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: torch finds no GPU on this machine; write cpu")
    if (number := torch.cuda.device_count()) <= int(match["index"] or 0):
        raise ConfigError(f"--device {name}: this machine has {number} GPUs, counted from cuda:0")
    return torch.device(name)
