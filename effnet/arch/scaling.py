"""Compound scaling: from one network to a family (paper section 3, equation 3)."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from effnet.arch.spec import MAX_CHANNELS, MAX_REPEATS, MAX_RESOLUTION, Architecture, check_architecture
from effnet.errors import ConfigError


class Multipliers(NamedTuple):
    """How many times deeper, wider and finer than the baseline."""

    depth: float = 1.0
    width: float = 1.0
    resolution: float = 1.0

    def told(self) -> str:
        """Return a name for what they make: `d1.4 w1.2 r1.3`."""
        return f"d{self.depth:g} w{self.width:g} r{self.resolution:g}"


class Coefficients(NamedTuple):
    """The paper's α, β, γ: what one more unit of φ multiplies depth, width and resolution by."""

    alpha: float
    beta: float
    gamma: float

    @property
    def cost_ratio(self) -> float:
        """α·β²·γ²: the cost at φ = 1, as a multiple of the baseline's, before rounding (paper: about 2)."""
        return self.alpha * self.beta**2 * self.gamma**2

    def at(self, phi: float) -> Multipliers:
        """Return depth α^φ, width β^φ, resolution γ^φ (paper, equation 3)."""
        return Multipliers(self.alpha**phi, self.beta**phi, self.gamma**phi)


PAPER = Coefficients(1.2, 1.1, 1.15)  # paper, section 3.3, step 1
PAPER_SPLIT = Multipliers(0.2794, 0.2922, 0.4284)  # of the cost: see `split_of_cost`


class Strategy(NamedTuple):
    """How a family spends a factor s of cost: depth s^depth, width s^width, resolution s^resolution.

    Cost grows with depth · width² · resolution², so the exponents obey depth + 2 width + 2 resolution = 1.
    """

    name: str
    depth: float
    width: float
    resolution: float

    def at(self, cost_factor: float) -> Multipliers:
        """Return the multipliers that make the baseline about `cost_factor` times as costly, before rounding."""
        return Multipliers(cost_factor**self.depth, cost_factor**self.width, cost_factor**self.resolution)


DEPTH = Strategy("depth", 1.0, 0.0, 0.0)
WIDTH = Strategy("width", 0.0, 0.5, 0.0)
RESOLUTION = Strategy("resolution", 0.0, 0.0, 0.5)


def compound(coefficients: Coefficients) -> Strategy:
    """Return the paper's rule as a strategy: `at(cost_ratio^φ)` gives what `coefficients.at(φ)` gives.

    Raises:
        ConfigError: if a coefficient is below 1, or all are 1.
    """
    if min(coefficients) < 1 or coefficients.cost_ratio <= 1:
        raise ConfigError(f"α, β, γ must each be at least 1, and one of them above 1 (got {tuple(coefficients)})")
    unit = math.log(coefficients.cost_ratio)
    return Strategy("compound", *(math.log(value) / unit for value in coefficients))


def fast(width_share: float = 0.8) -> Strategy:
    """Return the fast rule of Dollar, Singh and Girshick (arXiv 2103.06877): most of the cost goes into width.

    Activations, which run time tracks, then grow with about the square root of the cost. A share of 0.8 is the
    recommended dWr, 1/3 spends evenly (dwr), 1 is width alone.

    Raises:
        ConfigError: if the share is not within 0..1.
    """
    if not 0 <= width_share <= 1:
        raise ConfigError(f"the width's share must be within 0..1 (got {width_share})")
    rest = 1 - width_share
    return Strategy("dWr", rest / 2, width_share / 2, rest / 4)


STRATEGIES = {
    strategy.name: strategy
    for strategy in (compound(PAPER), DEPTH, WIDTH, RESOLUTION, fast(), compound(PAPER)._replace(name="paper"))
}


def round_filters(filters: int, multiplier: float, multiple: int = 8) -> int:
    """Scale a number of filters: nearest multiple, never below 90 % of the exact value.

    Source: round_filters in efficientnet_model.py of the official code (there with multiple 8).
    """
    exact = filters * multiplier
    rounded = max(multiple, int(exact + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * exact else rounded


def round_repeats(repeats: int, multiplier: float, rounding: Literal["up", "nearest"] = "up") -> int:
    """Scale a stage's repeats, rounding up (round_repeats in efficientnet_model.py of the official code), or to the
    nearest, halves up, and never below one (scaler.py of pycls).
    """
    # α^φ of exactly 2 may come out as 2.0000000000000004; the ceiling must not add a block for that.
    exact = round(repeats * multiplier, 9)
    return math.ceil(exact) if rounding == "up" else max(1, math.floor(exact + 0.5))


def round_resolution(resolution: int, multiplier: float, multiple: int = 1) -> int:
    """Scale a resolution to the nearest multiple. The official code has no rule: its sizes were set by hand."""
    return max(multiple, math.floor(resolution * multiplier / multiple + 0.5) * multiple)


def scale(
    arch: Architecture,
    multipliers: tuple[float, float, float],
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
        multipliers: depth, width and resolution, each > 0: Multipliers, or any three numbers in this order.
        resolution_multiple: pixels that a scaled resolution is rounded to.
        resolution: pixels to use instead of the scaled resolution (the published family sets them by hand).
        dropout: dropout before the classifier; the baseline's if not given.
        name: label of the result; the baseline's if not given.

    Raises:
        ConfigError: if a multiplier is not a positive number, or the result is not a valid architecture.
    """
    check_architecture(arch)
    depth, width, fineness = _checked(multipliers)
    multiple = arch.channel_multiple

    stem, head, rounding = arch.stem, arch.head, arch.depth_rounding
    stages = []
    for stage in arch.stages:
        # a bottleneck's middle width must divide its channels
        own = math.lcm(multiple, stage.expand_ratio) if stage.block == "bottleneck" else multiple
        channels = stage.channels if width == 1 else round_filters(stage.channels, width, own)
        repeats = round_repeats(stage.repeats, depth, rounding) if stage.scale_depth else stage.repeats
        stages.append(stage.replaced(channels=channels, repeats=repeats))
    if width != 1 and stem.scale_width:
        stem = stem.replaced(channels=round_filters(stem.channels, width, multiple))
    if width != 1 and head.scale_width and head.channels:
        head = head.replaced(channels=round_filters(head.channels, width, multiple))
    if dropout is not None:
        head = head.replaced(dropout=dropout)
    scaled = arch.replaced(
        name=name or arch.name,
        resolution=resolution or round_resolution(arch.resolution, fineness, resolution_multiple),
        stem=stem,
        stages=tuple(stages),
        head=head,
    )
    _check_limits(scaled)
    return scaled


def _checked(multipliers: Any) -> Multipliers:
    try:
        depth, width, resolution = multipliers
        checked = Multipliers(depth, width, resolution)
        numbers = [math.isfinite(value) and value > 0 for value in checked]
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"multipliers must be three numbers: depth, width, resolution (got {multipliers!r:.60})"
        ) from error
    for label, value, good in zip(Multipliers._fields, checked, numbers, strict=True):
        if not good:
            raise ConfigError(f"{label} multiplier must be a number above 0 (got {value})")
    return checked


def _check_limits(arch: Architecture) -> None:
    """Refuse what scaling can make invalid; model_copy validates nothing, which keeps scaling cheap."""
    if arch.resolution < arch.total_stride:
        raise ConfigError(
            f"{arch.name}: resolution {arch.resolution} is below the network's total stride {arch.total_stride}"
        )
    channels = max(arch.stem.channels, arch.head.channels, *[stage.channels for stage in arch.stages])
    repeats = max([stage.repeats for stage in arch.stages])
    if arch.resolution <= MAX_RESOLUTION and channels <= MAX_CHANNELS and repeats <= MAX_REPEATS:
        return
    for label, value, limit in (
        ("a resolution", arch.resolution, MAX_RESOLUTION),
        ("a width", channels, MAX_CHANNELS),
        ("a stage's depth", repeats, MAX_REPEATS),
    ):
        if value > limit:
            raise ConfigError(f"{arch.name}: {label} of {value} is above the limit of {limit}; scale less")


def realised(baseline: Architecture, scaled: Architecture) -> Multipliers:
    """Return how many times deeper (blocks), wider (sum of the stages' channels) and finer (pixels) a network is."""
    channels = [sum(stage.channels for stage in arch.stages) for arch in (scaled, baseline)]
    return Multipliers(
        scaled.num_blocks / baseline.num_blocks, channels[0] / channels[1], scaled.resolution / baseline.resolution
    )


def shares_of_cost(multipliers: Multipliers, cost_factor: float) -> Multipliers | None:
    """Return depth's, width's and resolution's shares of the log of cost; by the paper's rule 0.28, 0.29 and 0.43.

    They add up to about 1: cost is not quite depth · width² · resolution². Of a network that costs what the baseline
    does there are none.

    Args:
        multipliers: as `realised` returns them.
        cost_factor: counted multiply-adds, times the baseline's.
    """
    if cost_factor == 1:
        return None
    depth, width, resolution = (math.log(value) / math.log(cost_factor) for value in multipliers)
    return Multipliers(depth, 2 * width, 2 * resolution)


def split_of_cost(baseline: Architecture, scaled: Architecture, cost_factor: float) -> Multipliers | None:
    """Return how depth, width and resolution share a network's additional cost; the shares add up to 1.

    They are those of `shares_of_cost`, of what rounding made. Where nothing grew there are none.

    Args:
        baseline: that was scaled.
        scaled: what was made of it.
        cost_factor: its counted multiply-adds, times the baseline's.
    """
    shares = shares_of_cost(realised(baseline, scaled), cost_factor)
    if shares is None or not any(shares):
        return None
    return Multipliers(*(share / sum(shares) for share in shares))


def same_network(one: Architecture, other: Architecture) -> bool:
    """Say whether two members are the same network after rounding; name and dropout may differ."""
    dropout = {"head": other.head.model_copy(update={"dropout": one.head.dropout})}
    return one.key() == other.model_copy(update=dropout).key()
