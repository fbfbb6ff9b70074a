"""The grid over α, β, γ (paper, section 3.3, step 1): which candidates are worth training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from effnet.arch.budget import Budget, largest
from effnet.arch.cost import count
from effnet.arch.scaling import PAPER, PAPER_SPLIT, Coefficients, Multipliers, compound, realised, scale, split_of_cost
from effnet.arch.spec import Architecture
from effnet.config import FitConfig
from effnet.errors import ConfigError


class Candidate(NamedTuple):
    """A point of the grid that is trained: the baseline at φ = 1 under these coefficients."""

    coefficients: Coefficients
    architecture: Architecture
    macs: int
    grows: int  # in how many of depth, width and resolution it is larger than the baseline, after rounding


class Grid(NamedTuple):
    """What became of the whole grid; every point is counted."""

    candidates: tuple[Candidate, ...]
    points: int  # all combinations of the grid
    duplicates: int  # points that build a network which another point builds too
    off_cost: int  # networks whose counted MACs miss the wanted ratio
    left_out: int  # networks that qualify, beyond max_candidates

    @property
    def compound(self) -> int:
        """Candidates that grow in depth, width and resolution: without one, compound scaling cannot be chosen."""
        return sum(candidate.grows == len(Multipliers._fields) for candidate in self.candidates)

    @property
    def story(self) -> str:
        """How many of the candidates are compound, and what to change if none is."""
        if self.compound:
            grow = "grows" if self.compound == 1 else "grow"
            return f"{self.compound} of {len(self.candidates)} candidates {grow} in depth, width and resolution"
        return (
            f"none of {len(self.candidates)} candidates grows in depth, width and resolution: compound scaling cannot "
            "be chosen here; give the baseline's stages 2 or 3 repeats and smaller multiples (channel_multiple, "
            "resolution_multiple), or set fit.cost_ratio: 4"
        )


def enumerate_grid(baseline: Architecture, num_classes: int, config: FitConfig, resolution_multiple: int) -> Grid:
    """Return the candidates of the grid, in rising order of (α, β, γ).

    Of several points that build the same network, the one whose α·β²·γ² is closest to the wanted cost represents all.

    Raises:
        ConfigError: if no point has the wanted cost.
    """
    base = count(baseline, num_classes).macs
    axis = [1 + config.step * index for index in range(round((config.maximum - 1) / config.step) + 1)]
    points = [Coefficients(*(round(value, 6) for value in point)) for point in itertools.product(axis, repeat=3)]
    networks: dict[str, Candidate] = {}
    for point in points:
        arch = scale(baseline, point.at(1), resolution_multiple=resolution_multiple)
        known = networks.get(arch.key())
        if known is None or _miss(point, config) < _miss(known.coefficients, config):
            networks[arch.key()] = _candidate(baseline, point, arch, num_classes)
    fitting = sorted(c for c in networks.values() if in_window(c.macs, base, config))
    if not fitting:
        nearest = min(networks.values(), key=lambda c: abs(c.macs / base - config.cost_ratio))
        raise ConfigError(
            f"fit: none of {len(networks)} networks of the grid costs {config.cost_ratio:g} times the baseline within "
            f"{config.tolerance:.0%}; the nearest costs {nearest.macs / base:.2f} times: raise "
            "fit.tolerance or lower fit.step"
        )
    chosen = _spread_over_kinds(fitting, config.max_candidates)
    return Grid(
        candidates=tuple(chosen),
        points=len(points),
        duplicates=len(points) - len(networks),
        off_cost=len(networks) - len(fitting),
        left_out=len(fitting) - len(chosen),
    )


def paper_candidate(baseline: Architecture, num_classes: int, config: FitConfig, resolution_multiple: int) -> Candidate:
    """Return the paper's α = 1.2, β = 1.1, γ = 1.15 raised to the power whose network costs what the grid's do.

    That is the largest network within the wanted cost. Rounding may leave it below the window: see `in_window`.
    """
    wanted = config.cost_ratio * count(baseline, num_classes).macs
    found = largest(
        baseline,
        compound(PAPER),
        Budget(macs=round(wanted)),
        num_classes=num_classes,
        resolution_multiple=resolution_multiple,
    )
    coefficients = Coefficients(*compound(PAPER).at(2.0**found.octaves))
    arch = found.architecture.model_copy(update={"name": baseline.name})
    return _candidate(baseline, coefficients, arch, num_classes)


def in_window(macs: int, base: int, config: FitConfig) -> bool:
    """Say whether a network has the wanted cost: others are reported, but never chosen.

    Args:
        macs: its multiply-adds.
        base: the baseline's.
        config: of the grid.
    """
    return abs(macs / (config.cost_ratio * base) - 1) <= config.tolerance


def distance_from_paper(baseline: Architecture, candidate: Candidate, base: int) -> float:
    """Return how far a candidate's split of the cost is from the paper's, 0.28 depth, 0.29 width, 0.43 resolution.

    It is the sum of the distances of the three shares, after rounding, in 0..2.

    Args:
        baseline: that was scaled.
        candidate: what was made of it.
        base: multiply-adds of the baseline.
    """
    found = split_of_cost(baseline, candidate.architecture, candidate.macs / base)
    return sum(abs(one - other) for one, other in zip(found, PAPER_SPLIT, strict=True)) if found else 2.0


def _candidate(baseline: Architecture, point: Coefficients, arch: Architecture, num_classes: int) -> Candidate:
    grows = sum(value > 1 for value in realised(baseline, arch))
    return Candidate(point, arch, count(arch, num_classes).macs, grows)


def _miss(point: Coefficients, config: FitConfig) -> float:
    return abs(point.cost_ratio - config.cost_ratio)


def _spread_over_kinds(candidates: Sequence[Candidate], most: int) -> list[Candidate]:
    """Return at most `most` of the candidates: equally many that grow in three dimensions, in two and in one.

    Places that a kind cannot fill go to the others, compound ones first; within a kind the choice is spread evenly.
    """
    kinds = [[one for one in candidates if one.grows == grows] for grows in (3, 2, 1, 0)]
    places = [0] * len(kinds)
    while sum(places) < min(most, len(candidates)):
        open_ = [place for place, kind in enumerate(kinds) if places[place] < len(kind)]
        places[min(open_, key=lambda place: (places[place], place))] += 1
    return sorted(one for kind, number in zip(kinds, places, strict=True) for one in _spread(kind, number))


def _spread(candidates: Sequence[Candidate], most: int) -> list[Candidate]:
    """Return at most `most` of the candidates, evenly spread over their order."""
    if len(candidates) <= most:
        return list(candidates)
    return [candidates[index * len(candidates) // most] for index in range(most)]
