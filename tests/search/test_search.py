"""Spaces, evolution, halving and studies, on toy objectives."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable

import pytest

from effnet.arch import zoo
from effnet.arch.cost import count
from effnet.arch.scaling import DEPTH, PAPER, RESOLUTION, WIDTH, compound
from effnet.arch.spec import Architecture
from effnet.errors import ConfigError
from effnet.search.evolution import Search, Trial, pareto, reward
from effnet.search.halving import Rung, promoted, rank_correlation, rungs, total_epochs
from effnet.search.space import Choices, Genes, Space, imagenet_space
from effnet.search.study import study_points

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
        assert rungs(32, 16) == [Rung(32, 1), Rung(8, 4), Rung(2, 16)]
        assert rungs(6, 4) == [Rung(6, 1), Rung(2, 4)]
        assert rungs(2, 16) == [Rung(2, 16)]
        assert rungs(32, 1) == [Rung(32, 1)]

    def test_it_costs_a_sixth_of_training_all(self) -> None:
        assert total_epochs(rungs(32, 16)) == 32 + 8 * 3 + 2 * 12
        assert total_epochs(rungs(32, 16)) <= 32 * 16 / 6
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
        strategies = (DEPTH, WIDTH, RESOLUTION, compound(PAPER))
        points = study_points(baseline, strategies, (2, 4, 8), num_classes=1000, resolution_multiple=8)
        base = count(baseline).macs
        assert len(points) == 16
        for point in points:
            assert point.factor / 1.5 <= point.macs / base <= point.factor
            assert count(point.architecture).macs == point.macs
        deep = next(point for point in points if (point.strategy, point.factor) == ("depth", 4)).architecture
        assert deep.resolution == baseline.resolution
        assert deep.num_blocks > baseline.num_blocks
