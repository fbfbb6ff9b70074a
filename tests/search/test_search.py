"""Spaces, evolution, halving and studies, on toy objectives."""

from __future__ import annotations

import hashlib
import math
import random
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from effnet.arch import zoo
from effnet.arch.cost import count
from effnet.arch.describe import operator
from effnet.arch.scaling import PAPER, Coefficients, compound
from effnet.arch.spec import Architecture
from effnet.config import StudyConfig
from effnet.errors import ConfigError
from effnet.search.evolution import Search, Trial, pareto, reward
from effnet.search.findings import Gain
from effnet.search.halving import Rung, promoted, rank_correlation, rungs, total_epochs
from effnet.search.space import Choices, Genes, Space, imagenet_space
from effnet.search.study import balance, gains, main_way, study_points, study_strategies
from effnet.statistics import Hits

SPACE = imagenet_space()
B0 = zoo.get("efficientnet_b0")


def anything(_arch: Architecture) -> bool:
    return True


def quality(genes: Genes) -> float:
    """A toy objective: how many choices are the right ones."""
    return sum(choice == (stage + field) % 2 for stage, one in enumerate(genes) for field, choice in enumerate(one))


def run(search: Search, trials: int, batch: int, value: Callable[[Genes], float] = quality) -> list[Trial]:
    history: list[Trial] = []
    while len(history) < trials:
        proposals = search.propose(history, batch)
        history += [Trial(len(history) + place, genes, value(genes)) for place, genes in enumerate(proposals)]
    return history


class TestSpace:
    def test_b0_is_in_it(self) -> None:
        genes = SPACE.find(B0)
        assert genes is not None
        assert SPACE.build(genes).key() == B0.key()
        assert count(SPACE.build(genes)) == count(B0)

    def test_b0_is_not_in_mnasnets_own(self) -> None:
        narrow = Space(SPACE.reference, Choices(filters=(0.75, 1.0, 1.25)))
        assert narrow.find(B0) is None
        assert narrow.size == (2 * 3 * 2 * 2 * 3 * 3) ** 7

    def test_other_networks_are_not_in_it(self) -> None:
        assert SPACE.find(zoo.get("resnet50")) is None
        assert SPACE.find(B0.model_copy(update={"resolution": 192})) is None

    def test_every_network_can_be_priced_and_found_again(self) -> None:
        source = random.Random(0)
        for _ in range(200):
            arch = SPACE.build(SPACE.draw(source))
            assert count(arch).macs > 0
            assert Architecture.model_validate(arch.model_dump()) == arch
            found = SPACE.find(arch)
            assert found is not None
            assert SPACE.build(found).key() == arch.key()

    def test_modern_blocks_are_choices(self) -> None:
        space = imagenet_space(Choices.of(("mbconv", "fused_mbconv", "uib")))
        assert space.size == SPACE.size * (3 * 3 * 2) ** 7
        found = set()
        source = random.Random(0)
        for _ in range(100):
            arch = space.build(space.draw(source))
            assert Architecture.model_validate(arch.model_dump()) == arch  # each is valid
            assert count(arch).macs > 0
            found |= {operator(stage).split()[0].rstrip("1346") for stage in arch.stages}
        genes = space.find(arch)
        assert genes is not None
        assert space.build(genes).key() == arch.key()
        assert found == {"MBConv", "Fused-MBConv", "conv", "IB", "ExtraDW", "ConvNext", "FFN"}

    def test_genes_of_mnasnets_space_are_as_they_were_before(self) -> None:
        assert Choices.of(("mbconv",)) == Choices()
        assert SPACE.draw(random.Random(0))[:2] == ((1, 1, 0, 1, 4, 1), (1, 1, 1, 1, 4, 0))
        assert SPACE.mutate(SPACE.draw(random.Random(0)), random.Random(1))[1] == (1, 1, 1, 1, 0, 0)

    def test_a_mutation_changes_one_choice(self) -> None:
        source = random.Random(0)
        genes = SPACE.draw(source)
        for _ in range(200):
            changed = SPACE.mutate(genes, source)
            pairs = zip(sum(genes, ()), sum(changed, ()), strict=True)
            assert sum(one != other for one, other in pairs) == 1
            genes = changed


class TestEvolution:
    def test_the_same_seed_proposes_the_same(self) -> None:
        first = run(Search(SPACE, anything, seed=1, population=10, sample=4), 60, 5)
        assert first == run(Search(SPACE, anything, seed=1, population=10, sample=4), 60, 5)
        assert first != run(Search(SPACE, anything, seed=2, population=10, sample=4), 60, 5)

    @pytest.mark.parametrize(
        ("method", "digest"),
        [
            ("evolution", "a03c28ae9637f7a893835bd4d6eeec3003c3cf8f739fe2f471ef447878c07b22"),
            ("random", "d01f0e5282a2ff9009febb3b11149b4635823bbc8a3d9330dd45eecd699c3368"),
        ],
    )
    def test_proposals_are_as_they_were_before_proposing_was_made_quicker(self, method: str, digest: str) -> None:
        def admits(arch: Architecture) -> bool:
            return 200e6 <= count(arch).macs <= 500e6

        search = Search(SPACE, admits, seed=3, method=method, population=50, sample=10)  # type: ignore[arg-type]
        history = run(search, 600, 50)
        assert hashlib.sha256(repr([trial.genes for trial in history]).encode()).hexdigest() == digest

    def test_another_history_is_read_anew(self) -> None:
        search = Search(SPACE, anything, seed=1, population=10, sample=4)
        history = run(search, 40, 5)
        others = [trial._replace(genes=history[-1 - trial.number].genes) for trial in history]
        for told in (others, history[:15], history):
            fresh = Search(SPACE, anything, seed=1, population=10, sample=4)
            assert search.propose(told, 5) == fresh.propose(told, 5)

    def test_the_order_of_results_within_a_batch_changes_nothing(self) -> None:
        search = Search(SPACE, anything, seed=1, population=10, sample=4)
        history = run(search, 40, 5)
        mixed = history[:]
        random.Random(0).shuffle(mixed)
        assert search.propose(mixed, 5) == search.propose(history, 5)

    def test_a_search_that_was_killed_proposes_the_rest_again(self) -> None:
        search = Search(SPACE, anything, seed=1, population=10, sample=4)
        history = run(search, 40, 5)
        assert search.propose(history[:20], 5) == [trial.genes for trial in history[20:25]]
        with pytest.raises(ValueError, match="missing"):
            search.propose(history[:3] + history[4:], 5)

    def test_no_network_is_proposed_twice_and_all_pass_the_filter(self) -> None:
        def cheap(arch: Architecture) -> bool:
            return count(arch).macs < 300e6

        history = run(Search(SPACE, cheap, seed=0, population=10, sample=4), 100, 10)
        networks = [SPACE.build(trial.genes) for trial in history]
        assert len({arch.key() for arch in networks}) == 100
        assert all(map(cheap, networks))

    def test_the_oldest_dies(self) -> None:
        search = Search(SPACE, anything, seed=0, population=5, sample=5)
        history = run(search, 10, 1)
        best_but_old = [history[0]._replace(reward=100.0), *history[1:]]
        assert search.propose(best_but_old, 3) == search.propose(history, 3)

    def test_it_beats_random_search(self) -> None:
        def mean_best(method: str) -> float:
            found = []
            for seed in range(5):
                search = Search(SPACE, anything, seed=seed, method=method, population=20, sample=8)  # type: ignore[arg-type]
                found.append(max(trial.reward for trial in run(search, 200, 10)))
            return statistics.mean(found)

        assert mean_best("evolution") > mean_best("random") + 3

    def test_an_impossible_window_is_told(self) -> None:
        with pytest.raises(ConfigError, match=r"widen search\.window"):
            Search(SPACE, lambda _arch: False, seed=0).propose([], 1)


def test_reward_is_mnasnets() -> None:
    assert reward(0.76, 400e6, 400e6) == 0.76
    assert reward(0.76, 800e6, 400e6) == pytest.approx(0.76 * 2**-0.07)  # twice the cost: about 5 % less


def test_the_front_has_what_nothing_beats() -> None:
    points = [(1.0, 0.5), (2.0, 0.4), (3.0, 0.9), (3.0, 0.8), (2.0, 0.6), (4.0, 0.9)]
    assert pareto(points) == [0, 4, 2]


class TestHalving:
    def test_rungs_shrink_and_grow(self) -> None:
        assert rungs(32, 16) == [Rung(32, 4), Rung(8, 16)]
        assert rungs(32, 16, 2) == [Rung(32, 4), Rung(16, 8), Rung(8, 16)]
        assert rungs(6, 5) == [Rung(6, 2), Rung(2, 5)]
        assert rungs(2, 16) == [Rung(2, 16)]
        assert rungs(32, 1) == [Rung(32, 1)]
        assert rungs(10, 15, 64) == [Rung(10, 15)]

    @pytest.mark.parametrize("factor", [2, 3, 4, 7, 64])
    @pytest.mark.parametrize("epochs", [1, 3, 4, 5, 8, 15, 16, 90])
    def test_no_rung_is_shorter_than_a_quarter(self, factor: int, epochs: int) -> None:
        for candidates in (1, 2, 3, 10, 33, 200):
            plan = rungs(candidates, epochs, factor)
            assert plan[0].candidates == candidates
            assert plan[-1].epochs == epochs
            assert all(4 * rung.epochs >= epochs for rung in plan)
            assert [rung.epochs for rung in plan] == sorted({rung.epochs for rung in plan})
            assert plan[-1].candidates >= min(candidates, 2)

    def test_it_costs_half_of_training_all(self) -> None:
        assert total_epochs(rungs(32, 16)) == 32 * 4 + 8 * 16
        assert total_epochs(rungs(32, 16)) <= 32 * 16 / 2
        assert total_epochs([Rung(3, 5)]) == 15

    def test_the_best_go_on(self) -> None:
        scores = {"a": (0.5, -1.0), "b": (0.7, -2.0), "c": (0.7, -1.0), "d": (0.1, 0.0)}
        assert promoted(scores, 2) == ["c", "b"]

    def test_rank_correlation(self) -> None:
        assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
        assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
        assert rank_correlation([1, 2], [1, 2]) is None
        assert rank_correlation([1, 1, 1], [1, 2, 3]) is None


class TestStudy:
    @pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v1", "mobilenet_v2", "resnet50"])
    def test_points_cost_the_same_by_every_strategy(self, name: str) -> None:
        baseline = zoo.get(name)
        config = StudyConfig(strategies=("depth", "width", "resolution", "compound"), factors=(2, 4, 8))
        points = study_points(config, PAPER, baseline, num_classes=1000, resolution_multiple=8)
        base = count(baseline).macs
        assert len(points) == 16
        for point in points:
            assert point.factor / 1.5 <= point.macs / base <= point.factor
            assert count(point.architecture).macs == point.macs
        deep = next(point for point in points if (point.strategy, point.factor) == ("depth", 4)).architecture
        assert deep.resolution == baseline.resolution
        assert deep.num_blocks > baseline.num_blocks

    def test_networks_by_their_multipliers_as_in_table_7(self) -> None:
        table = ((4, 1, 1), (1, 2, 1), (1, 1, 2), (1.4, 1.2, 1.3))
        config = StudyConfig(multipliers=table)
        points = study_points(config, PAPER, zoo.get("efficientnet_b0"), num_classes=1000, resolution_multiple=1)
        scaled = [point for point in points if point.factor != 1]
        assert [point.strategy for point in scaled] == ["d4 w1 r1", "d1 w2 r1", "d1 w1 r2", "d1.4 w1.2 r1.3"]
        assert main_way(config) == "d1.4 w1.2 r1.3"
        assert len({point.factor for point in scaled}) == 1
        # Table 7 has 1.8, 1.8, 1.9 and 1.8 billion, more than twice the width or resolution of 0.39 billion can cost
        assert [round(point.macs / 1e9, 1) for point in scaled] == [1.6, 1.4, 1.5, 1.8]
        assert [point.macs for point in points if point.factor == 1] == [count(zoo.get("efficientnet_b0")).macs] * 4

    @pytest.mark.parametrize(
        ("table", "told"),
        [
            (((1, 3, 1), (1.4, 1.2, 1.3)), "d1 w3 r1 costs .* the last, .*; give multipliers of about equal cost"),
            (((1, 2, 1), (1, 1, 1)), "d1 w1 r1 leaves efficientnet_b0 as it is; give larger multipliers"),
        ],
    )
    def test_multipliers_that_cannot_be_compared_are_told(self, table: tuple[Any, ...], told: str) -> None:
        with pytest.raises(ConfigError, match=told):
            study_points(
                StudyConfig(multipliers=table),
                PAPER,
                zoo.get("efficientnet_b0"),
                num_classes=1000,
                resolution_multiple=1,
            )

    def test_gains_are_per_doubling_of_the_counted_cost(self) -> None:
        hits = arms(depth=0.50, width=0.60, resolution=0.70)
        found = {each.dimension: each for each in gains(hits, MACS)}
        assert found["depth"].gain == pytest.approx(0.0)
        assert found["width"].gain == pytest.approx(0.1 / 2)  # four times the cost: two doublings
        assert found["resolution"].gain == pytest.approx(0.2 / math.log2(3))
        assert all(each.noise > 0 for each in found.values())
        assert gains({key: value for key, value in hits.items() if key[0] != "width"}, MACS) == []
        assert gains({("depth", 1.0): hits["depth", 1.0]}, MACS) == []

    def test_balance_says_what_is_starved_what_is_level_and_what_nobody_knows(self) -> None:
        def said(depth: float, width: float, resolution: float, noise: float) -> str:
            values = {"depth": depth, "width": width, "resolution": resolution}
            return balance([Gain(dimension=k, factor=4, gain=v, noise=noise) for k, v in values.items()])

        assert said(0.002, 0.004, 0.005, 0.001).endswith(": balanced")
        assert "resolution is starved; give the baseline more pixels and fewer channels" in said(0, 0.01, 0.03, 0.004)
        assert "depth is starved; give the baseline more blocks" in said(0.03, 0.01, 0, 0.004)
        assert "too wide to say" in said(0.002, 0.004, 0.005, 0.02)

    def test_the_ways_of_a_study(self) -> None:
        config = StudyConfig(strategies=("compound", "paper", "dWr"))
        mine, papers, _ = study_strategies(config, Coefficients(1.4, 1.3, 1.3))
        assert mine == compound(Coefficients(1.4, 1.3, 1.3))
        assert papers == compound(PAPER)._replace(name="paper")


MACS = {
    (way, factor): cost
    for way in ("depth", "width", "resolution")
    for factor, cost in ((1.0, 100), (4.0, 300 if way == "resolution" else 400))
}


def arms(**shares: float) -> dict[tuple[str, float], Hits]:
    """Return hits, (2 seeds, 1,000 images), of a baseline that is right half of the time, and of ways at factor 4."""

    def right(share: float) -> Hits:
        return np.tile(np.arange(1000) < 1000 * share, (2, 1))

    return {
        (way, factor): right(0.5 if factor == 1 else share) for way, share in shares.items() for factor in (1.0, 4.0)
    }
