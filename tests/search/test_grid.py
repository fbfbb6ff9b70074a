"""The grid over α, β, γ: every point is accounted for, and the best one wins."""

from __future__ import annotations

import pytest

from effnet.arch import zoo
from effnet.arch.cost import count
from effnet.arch.scaling import PAPER, scale
from effnet.config import FitConfig
from effnet.errors import ConfigError
from effnet.search.grid import enumerate_grid, paper_candidate

B0 = zoo.get("efficientnet_b0")
FIT = FitConfig(step=0.1, maximum=1.4, tolerance=0.1, max_candidates=1000)


def test_every_point_is_accounted_for() -> None:
    grid = enumerate_grid(B0, 1000, FIT, 8)
    assert grid.points == 125
    assert grid.points == grid.duplicates + grid.off_cost + len(grid.candidates) + grid.left_out
    assert grid.left_out == 0
    assert grid.duplicates > 0


def test_candidates_differ_and_cost_what_was_asked() -> None:
    grid = enumerate_grid(B0, 1000, FIT, 8)
    base = count(B0).macs
    assert len({candidate.architecture.key() for candidate in grid.candidates}) == len(grid.candidates)
    for candidate in grid.candidates:
        assert 1.8 <= count(candidate.architecture).macs / base <= 2.2
        rebuilt = scale(B0, candidate.coefficients.at(1), resolution_multiple=8)
        assert rebuilt.key() == candidate.architecture.key()


def test_of_equal_networks_the_point_closest_to_the_cost_stands_for_all() -> None:
    # Depths of 1.1 to 1.4 round up to the same repeats on this baseline of one block per stage.
    arch = B0.model_copy(update={"stages": tuple(s.model_copy(update={"repeats": 1}) for s in B0.stages)})
    grid = enumerate_grid(arch, 1000, FIT.model_copy(update={"tolerance": 0.2}), 8)
    deep = [candidate for candidate in grid.candidates if candidate.coefficients.alpha > 1]
    assert deep
    for candidate in deep:
        rivals = [candidate.coefficients._replace(alpha=alpha) for alpha in (1.1, 1.2, 1.3, 1.4)]
        assert candidate.coefficients == min(rivals, key=lambda rival: abs(rival.cost_ratio - 2))


def test_most_candidates_are_spread_over_the_grid() -> None:
    whole = enumerate_grid(B0, 1000, FIT, 8)
    some = enumerate_grid(B0, 1000, FIT.model_copy(update={"max_candidates": 3}), 8)
    assert len(some.candidates) == 3
    assert some.left_out == len(whole.candidates) - 3
    assert set(some.candidates) <= set(whole.candidates)


def test_grid_without_candidates_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"raise fit\.tolerance or lower fit\.step"):
        enumerate_grid(B0, 1000, FitConfig(step=0.5, maximum=1.5, tolerance=0.01), 8)


def test_the_papers_own_point_can_always_be_compared() -> None:
    found = paper_candidate(B0, 1000, 8)
    assert found.coefficients == PAPER
    assert found.macs == count(found.architecture).macs
