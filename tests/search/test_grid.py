"""The grid over α, β, γ: every point is accounted for, and the best one wins."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest

from effnet.arch import zoo
from effnet.arch.cost import count
from effnet.arch.scaling import scale
from effnet.arch.spec import Architecture
from effnet.config import FitConfig
from effnet.errors import ConfigError
from effnet.search.grid import distance_from_paper, enumerate_grid, in_window, paper_candidate

B0 = zoo.get("efficientnet_b0")
SMALL = zoo.find("configs/architectures/efficientnet_mnist.yaml", Path(__file__).parents[2])
FIT = FitConfig(step=0.1, maximum=1.4, tolerance=0.1, max_candidates=1000)
FOUR = FitConfig(step=0.1, maximum=2.0, tolerance=0.1, max_candidates=1000, cost_ratio=4.0)


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


def test_kinds_are_spread_evenly_and_counted() -> None:
    whole = enumerate_grid(SMALL, 10, FOUR, 1)
    kinds = Counter(one.grows for one in whole.candidates)
    assert kinds == {1: 3, 2: 28, 3: 17}
    assert whole.compound == 17
    assert whole.story == "17 of 48 candidates grow in depth, width and resolution"
    some = enumerate_grid(SMALL, 10, FOUR.model_copy(update={"max_candidates": 8}), 1)
    assert Counter(one.grows for one in some.candidates) == {1: 2, 2: 3, 3: 3}
    assert list(some.candidates) == sorted(some.candidates)


def test_a_grid_without_compound_candidates_says_what_to_change() -> None:
    grid = enumerate_grid(SMALL, 10, FOUR.model_copy(update={"cost_ratio": 2.0}), 1)
    assert grid.compound == 0
    assert grid.story.startswith(f"none of {len(grid.candidates)} candidates grows in depth, width and resolution")
    assert "fit.cost_ratio: 4" in grid.story


def test_depth_rounded_to_nearest_grows_less_and_is_another_network_to_scale() -> None:
    nearest = B0.model_copy(update={"depth_rounding": "nearest"})
    assert [stage.repeats for stage in scale(B0, (1.2, 1, 1)).stages] == [2, 3, 3, 4, 4, 5, 2]
    assert [stage.repeats for stage in scale(nearest, (1.2, 1, 1)).stages] == [1, 2, 2, 4, 4, 5, 1]
    assert min(stage.repeats for stage in scale(nearest, (0.1, 1, 1)).stages) == 1
    assert nearest.key() != B0.key()
    assert B0.key() == Architecture.parse(B0.model_dump(mode="json", exclude={"depth_rounding"}), "").key()


@pytest.mark.parametrize(("baseline", "config", "multiple"), [(B0, FIT, 8), (SMALL, FOUR, 1)])
def test_the_papers_own_point_is_compared_at_the_candidates_cost(
    baseline: Architecture, config: FitConfig, multiple: int
) -> None:
    found = paper_candidate(baseline, 10, config, multiple)
    base = count(baseline, 10).macs
    assert found.macs == count(found.architecture, 10).macs
    assert found.macs <= config.cost_ratio * base
    rebuilt = scale(baseline, found.coefficients.at(1), resolution_multiple=multiple)
    assert rebuilt.key() == found.architecture.key()
    shares = [math.log(value) for value in found.coefficients]
    assert shares[0] / shares[1] == pytest.approx(math.log(1.2) / math.log(1.1))
    assert in_window(found.macs, base, config) == (found.macs >= (1 - config.tolerance) * config.cost_ratio * base)
    assert not in_window(base, base, config)


def test_the_papers_split_of_the_cost() -> None:
    base = count(SMALL, 10).macs
    grid = enumerate_grid(SMALL, 10, FOUR, 1)
    distance = {one.coefficients: distance_from_paper(SMALL, one, base) for one in grid.candidates}
    assert all(0 <= value <= 2 for value in distance.values())
    alone = [distance[one.coefficients] for one in grid.candidates if one.grows == 1]
    together = [distance[one.coefficients] for one in grid.candidates if one.grows == 3]
    assert max(together) < min(alone)
    paper = paper_candidate(SMALL, 10, FOUR, 1)
    assert distance_from_paper(SMALL, paper, base) < 0.2
