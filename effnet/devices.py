"""Devices that trainings are priced for: speed, memory and dollars an hour, each number with its source and date.

Throughput times activations is about the same for B0 to B7 on a GPU: these networks are bound by memory traffic, and
that is what activations count (on an RTX 3090 within -5 and +9 %). Multiply-adds a second differ by two between them.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from effnet.errors import ConfigError
from effnet.values import Value, read_mapping


class Device(Value):
    """One GPU."""

    name: Annotated[str, Field(min_length=1, max_length=100, description="for people")]
    memory_gb: Annotated[float, Field(gt=0, le=1e6, description="in units of 10^9 bytes")]
    activations_per_second: Annotated[
        float, Field(gt=0, le=1e18, description="images trained on in a second, times the activations of one")
    ]
    rate_from: Annotated[str, Field(max_length=400, description="source and date of this rate")] = "as stated"
    dollars_per_hour: Annotated[float | None, Field(ge=0, le=1e6)] = None
    price_from: Annotated[str, Field(max_length=400, description="source and date of this price")] = "as stated"


_A100 = 16.6e9
_NVIDIA = "NVIDIA/DeepLearningExamples, PyTorch, AMP: B0 2,489 and B4 331 images/s; looked up 2026-11-27"
_BANDWIDTH = "not measured: the A100's, times the memory bandwidth of the data sheets, {} / 2.04 TB/s; 2026-11-27"
_BLOCKS = "AWS EC2 Capacity Blocks, US East, prices until 2025-01-01, an eighth of the machine"

DEVICES = {
    "rtx3090": Device(
        name="RTX 3090",
        memory_gb=24,
        activations_per_second=11.5e9,
        rate_from="timm's benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv, B0 to B7; looked up 2026-11-27",
    ),
    "a10g": Device(
        name="A10G",
        memory_gb=24,
        activations_per_second=_A100 * 0.6 / 2.04,
        rate_from=_BANDWIDTH.format("0.60"),
        dollars_per_hour=1.006,
        price_from="AWS EC2 g5.xlarge, on demand, us-east-1, 2026-08",
    ),
    "l4": Device(
        name="L4",
        memory_gb=24,
        activations_per_second=_A100 * 0.3 / 2.04,
        rate_from=_BANDWIDTH.format("0.30"),
        dollars_per_hour=0.805,
        price_from="AWS EC2 g6.xlarge, on demand, us-east-1, 2025",
    ),
    "a100-40": Device(
        name="A100 40 GB",
        memory_gb=40,
        activations_per_second=_A100 * 1.555 / 2.04,
        rate_from=_BANDWIDTH.format("1.555"),
        dollars_per_hour=1.844,
        price_from=_BLOCKS,
    ),
    "a100-80": Device(
        name="A100 80 GB",
        memory_gb=80,
        activations_per_second=_A100,
        rate_from=_NVIDIA,
        dollars_per_hour=2.49,
        price_from="upper end of list prices early in 2026 (pricegpu.pages.dev)",
    ),
    "h100": Device(
        name="H100 80 GB",
        memory_gb=80,
        activations_per_second=37e9,
        rate_from="this package's own steps: B0 37.6, B4 40.5, B7 33.8 G (benchmarks/results/2026-11-27-gpu.md)",
        dollars_per_hour=4.916,
        price_from=_BLOCKS,
    ),
    "h200": Device(
        name="H200",
        memory_gb=141,
        activations_per_second=_A100 * 4.8 / 2.04,
        rate_from=_BANDWIDTH.format("4.80"),
        dollars_per_hour=5.408,
        price_from=_BLOCKS,
    ),
}


def find(name: str, base: Path = Path()) -> Device:
    """Return the device of that name, or the one that a YAML or JSON file below `base` describes.

    A file has the fields of `Device`; with `base: NAME` it starts from one of the table, as a recipe does, and a number
    that it gives is said to be stated.

    Raises:
        ConfigError: for a name that is not in the table, or a file that does not describe a device.
    """
    if not name.endswith((".json", ".yaml", ".yml")):
        return _known(name)
    data: dict[str, Any] = read_mapping(base / name)
    if "base" in data:
        from_table = _known(str(data.pop("base"))).model_dump()
        for number, source in (("activations_per_second", "rate_from"), ("dollars_per_hour", "price_from")):
            if number in data:
                del from_table[source]
        data = from_table | data
    return Device.parse(data, name)


def of_gpu(name: str) -> Device | None:
    """Return the device of the table that a GPU's own name means, as `NVIDIA H100 80GB HBM3`; None if unsure."""
    words = set(name.upper().replace("-", " ").split())
    found = [each for each in DEVICES.values() if set(each.name.upper().replace(" GB", "GB").split()) <= words]
    return found[0] if len(found) == 1 else None


def _known(name: str) -> Device:
    if name in DEVICES:
        return DEVICES[name]
    close = difflib.get_close_matches(name.lower(), DEVICES, 1)
    hint = f"; did you mean '{close[0]}'?" if close else ";"
    raise ConfigError(
        f"no device is called '{name:.60}'{hint} known: {', '.join(DEVICES)}; for another, name a YAML file with "
        "memory_gb, activations_per_second and dollars_per_hour"
    )
