"""The grid over α, β, γ (paper, section 3.3, step 1): which candidates are worth training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from effnet.arch.cost import count
from effnet.arch.scaling import PAPER, Coefficients, scale
from effnet.arch.spec import Architecture
from effnet.config import FitConfig
from effnet.errors import ConfigError


class Candidate(NamedTuple):
    """A point of the grid that is trained: the baseline at φ = 1 under these coefficients."""

    coefficients: Coefficients
    architecture: Architecture
    macs: int


class Grid(NamedTuple):
    """What became of the whole grid; every point is counted."""

    candidates: tuple[Candidate, ...]
    points: int  # all combinations of the grid
    duplicates: int  # points that build a network which another point builds too
    off_cost: int  # networks whose counted MACs miss the wanted ratio
    left_out: int  # networks that would do, beyond max_candidates


def enumerate_grid(baseline: Architecture, num_classes: int, config: FitConfig, resolution_multiple: int) -> Grid:
    """Return the candidates of the grid, in rising order of (α, β, γ).

    Of several points that build the same network the one closest to the wanted cost by α·β²·γ² stands for all.

    Raises:
        ConfigError: if no point has the wanted cost.
    """
    wanted = config.cost_ratio * count(baseline, num_classes).macs
    axis = [1 + config.step * index for index in range(round((config.maximum - 1) / config.step) + 1)]
    points = [Coefficients(*(round(value, 6) for value in point)) for point in itertools.product(axis, repeat=3)]
    networks: dict[str, Candidate] = {}
    for point in points:
        arch = scale(baseline, point.at(1), resolution_multiple=resolution_multiple)
        known = networks.get(arch.key())
        if known is None or _miss(point, config) < _miss(known.coefficients, config):
            networks[arch.key()] = Candidate(point, arch, count(arch, num_classes).macs)
    fitting = sorted(c for c in networks.values() if abs(c.macs / wanted - 1) <= config.tolerance)
    if not fitting:
        nearest = min(networks.values(), key=lambda c: abs(c.macs / wanted - 1))
        raise ConfigError(
            f"fit: none of {len(networks)} networks of the grid costs {config.cost_ratio:g} times the baseline within "
            f"{config.tolerance:.0%}; the nearest costs {nearest.macs * config.cost_ratio / wanted:.2f} times: raise "
            "fit.tolerance or lower fit.step"
        )
    chosen = _spread(fitting, config.max_candidates)
    return Grid(
        candidates=tuple(chosen),
        points=len(points),
        duplicates=len(points) - len(networks),
        off_cost=len(networks) - len(fitting),
        left_out=len(fitting) - len(chosen),
    )


def paper_candidate(baseline: Architecture, num_classes: int, resolution_multiple: int) -> Candidate:
    """Return the paper's own α = 1.2, β = 1.1, γ = 1.15, whatever it costs here."""
    arch = scale(baseline, PAPER.at(1), resolution_multiple=resolution_multiple)
    return Candidate(PAPER, arch, count(arch, num_classes).macs)


def _miss(point: Coefficients, config: FitConfig) -> float:
    return abs(point.cost_ratio - config.cost_ratio)


def _spread(candidates: Sequence[Candidate], most: int) -> list[Candidate]:
    """Return at most `most` of the candidates, evenly spread over their order."""
    if len(candidates) <= most:
        return list(candidates)
    return [candidates[index * len(candidates) // most] for index in range(most)]
