"""Compound scaling: from one network to a family (paper section 3, equation 3)."""

from __future__ import annotations

import math
from typing import NamedTuple

from effnet.arch.spec import Architecture
from effnet.errors import ConfigError


class Multipliers(NamedTuple):
    """How many times deeper, wider and finer than the baseline."""

    depth: float = 1.0
    width: float = 1.0
    resolution: float = 1.0


class Coefficients(NamedTuple):
    """The paper's α, β, γ: what one more unit of φ multiplies depth, width and resolution by."""

    alpha: float
    beta: float
    gamma: float

    @property
    def cost_ratio(self) -> float:
        """α·β²·γ²: how many times the cost of the baseline φ = 1 has, before rounding (paper: about 2)."""
        return self.alpha * self.beta**2 * self.gamma**2

    def at(self, phi: float) -> Multipliers:
        """Return depth α^φ, width β^φ, resolution γ^φ (paper, equation 3)."""
        return Multipliers(self.alpha**phi, self.beta**phi, self.gamma**phi)


PAPER = Coefficients(1.2, 1.1, 1.15)  # paper, section 3.3, step 1


def round_filters(filters: int, multiplier: float, multiple: int = 8) -> int:
    """Scale a number of filters: nearest multiple, never below 90 % of the exact value.

    Source: round_filters in efficientnet_model.py of the official code (there with multiple 8).
    """
    exact = filters * multiplier
    rounded = max(multiple, int(exact + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * exact else rounded


def round_repeats(repeats: int, multiplier: float) -> int:
    """Scale a stage's repeats, rounding up (round_repeats in efficientnet_model.py of the official code)."""
    # α^φ of exactly 2 may come out as 2.0000000000000004; the ceiling must not turn that into one block more.
    return math.ceil(round(repeats * multiplier, 9))


def round_resolution(resolution: int, multiplier: float, multiple: int = 1) -> int:
    """Scale a resolution to the nearest multiple. The official code has no rule: its sizes were set by hand."""
    return max(multiple, math.floor(resolution * multiplier / multiple + 0.5) * multiple)


def scale(
    arch: Architecture,
    multipliers: Multipliers,
    *,
    resolution_multiple: int = 1,
    resolution: int | None = None,
    dropout: float | None = None,
    name: str | None = None,
) -> Architecture:
    """Return the network scaled by the multipliers, with the official rounding.

    Stages, stem and head that the architecture marks as fixed stay as they are.

    Args:
        arch: the baseline.
        multipliers: depth, width and resolution, each > 0.
        resolution_multiple: pixels that a scaled resolution is rounded to.
        resolution: pixels to use instead of the scaled resolution (the published family sets them by hand).
        dropout: dropout before the classifier; the baseline's if not given.
        name: label of the result; the baseline's if not given.

    Raises:
        ConfigError: if a multiplier is not a positive number, or the result is no valid architecture.
    """
    for label, value in multipliers._asdict().items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{label} multiplier must be a number above 0 (got {value})")
    depth, width, fineness = multipliers
    multiple = arch.channel_multiple

    def filters(channels: int, scaled: bool) -> int:
        return round_filters(channels, width, multiple) if scaled and channels and width != 1 else channels

    head = arch.head
    data = {
        "name": name or arch.name,
        "resolution": resolution or round_resolution(arch.resolution, fineness, resolution_multiple),
        "stem": arch.stem.model_copy(update={"channels": filters(arch.stem.channels, arch.stem.scale_width)}),
        "stages": tuple(
            stage.model_copy(
                update={
                    "channels": filters(stage.channels, True),
                    "repeats": round_repeats(stage.repeats, depth) if stage.scale_depth else stage.repeats,
                }
            )
            for stage in arch.stages
        ),
        "head": head.model_copy(
            update={
                "channels": filters(head.channels, head.scale_width),
                "dropout": head.dropout if dropout is None else dropout,
            }
        ),
    }
    # model_copy skips validation, which keeps scaling cheap; the one rule that scaling can break is checked here.
    scaled = arch.model_copy(update=data)
    if scaled.resolution < scaled.total_stride:
        raise ConfigError(
            f"{scaled.name}: resolution {scaled.resolution} is below the network's total stride {scaled.total_stride}"
        )
    return scaled
