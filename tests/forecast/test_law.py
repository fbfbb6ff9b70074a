"""The law against published families, whose largest members it did not see, and against laws that are known."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import norm

from effnet.forecast.law import ELSEWHERE, IMAGENET, RIVALS, Law, Laws, Prior, Sweep, fit, shown, sweep_of

NOISE = 0.0015  # of a published error: some runs of it differ by so much


class Published(NamedTuple):
    """Top-1 errors on ImageNet, in percent, by billions of multiply-adds."""

    costs: tuple[float, ...]
    errors: tuple[float, ...]

    def smallest(self, number: int) -> Sweep:
        seeds = np.full(number, NOISE**2)
        errors = np.array(self.errors[:number]) / 100
        return Sweep(np.array(self.costs[:number]), errors, np.zeros((number, number)), seeds, math.inf)


# facebookresearch/pycls, MODEL_ZOO.md: one recipe of 100 epochs, means of 5 runs.
REGNET_X = Published(
    (0.2, 0.4, 0.6, 0.8, 1.6, 3.2, 4.0, 6.5, 8.0, 12.1, 15.9, 31.7),
    (31.1, 27.3, 25.9, 24.8, 23.0, 21.7, 21.4, 20.8, 20.7, 20.3, 20.0, 19.5),
)
REGNET_Y = Published(
    (0.2, 0.4, 0.6, 0.8, 1.6, 3.2, 4.0, 6.4, 8.0, 12.1, 15.9, 32.3),
    (29.6, 25.9, 24.5, 23.7, 22.0, 21.0, 20.6, 20.1, 20.1, 19.7, 19.6, 19.0),
)
PLAIN_EFFICIENTNET = Published((0.4, 0.7, 1.0, 1.8, 4.2, 9.9), (24.9, 24.1, 23.4, 22.5, 21.2, 21.5))
# arXiv 1905.11946, Table 2: B0 to B7.
EFFICIENTNET = Published((0.39, 0.70, 1.0, 1.8, 4.2, 9.9, 19.0, 37.0), (22.9, 20.9, 19.9, 18.4, 17.1, 16.4, 16.0, 15.7))


def off(family: Published, number: int, place: int) -> float:
    """Return predicted minus reached error of a member, in points, from the smallest so many."""
    laws = fit(family.smallest(number), IMAGENET)
    return 100 * laws.expected.at(family.costs[place]) - family.errors[place]


@pytest.mark.parametrize(
    ("family", "number", "largest", "mean"),
    [
        (REGNET_X, 3, 0.2, 0.1),  # 53 times the largest cost fitted
        (REGNET_X, 4, 0.2, 0.1),
        (REGNET_Y, 3, 0.7, 0.6),
        (REGNET_Y, 4, 0.5, 0.5),
        (EFFICIENTNET, 3, 0.2, 0.2),
        (EFFICIENTNET, 4, 0.5, 0.2),
        (PLAIN_EFFICIENTNET, 4, 0.3, 0.5),
    ],
)
def test_a_few_small_members_foretell_those_up_to_53_times_as_dear(
    family: Published, number: int, largest: float, mean: float
) -> None:
    assert abs(off(family, number, -1)) <= largest
    held_out = range(number, len(family.costs))
    assert np.mean([abs(off(family, number, place)) for place in held_out]) <= mean


@pytest.mark.parametrize(
    ("family", "last", "straight", "powers"),
    [
        (REGNET_X, 5.3, -11.6, -5.9),
        (REGNET_Y, 4.7, -11.5, -6.1),
        (EFFICIENTNET, 2.7, -6.3, -3.8),
        (PLAIN_EFFICIENTNET, 1.0, -1.7, -1.4),
    ],
)
def test_simpler_rules_are_off_by_points(family: Published, last: float, straight: float, powers: float) -> None:
    sweep = family.smallest(4)
    found = [100 * rule(sweep, family.costs[-1]) - family.errors[-1] for rule in RIVALS.values()]
    assert found == pytest.approx([last, straight, powers], abs=0.06)


def within(family: Published, number: int, place: int, prior: Prior) -> tuple[bool, float]:
    """Say whether a member's error lies in its 95 % interval, and how wide half of that is, in points."""
    found = fit(family.smallest(number), prior).at(family.costs[place])
    noisy = 100 * (found + NOISE * np.random.default_rng(3).standard_normal(len(found)))
    low, high = np.quantile(noisy, (0.025, 0.975))
    return bool(low <= family.errors[place] <= high), (high - low) / 2


def test_intervals_hold_the_published_members_and_widen_with_distance() -> None:
    for family in (REGNET_X, REGNET_Y, EFFICIENTNET):
        found = [within(family, 4, place, IMAGENET) for place in range(4, len(family.costs))]
        assert all(inside for inside, _ in found)
        assert 0.4 < found[0][1] < 0.8
        assert 1.2 < found[-1][1] < 2.6
    assert within(REGNET_X, 4, -1, ELSEWHERE)[1] > 1.3 * within(REGNET_X, 4, -1, IMAGENET)[1]


def test_of_the_plain_recipe_the_narrow_prior_misses_one_and_the_wide_one_none() -> None:
    assert [within(PLAIN_EFFICIENTNET, 4, place, IMAGENET)[0] for place in (4, 5)] == [False, True]
    assert [within(PLAIN_EFFICIENTNET, 4, place, ELSEWHERE)[0] for place in (4, 5)] == [True, True]


@pytest.mark.parametrize(
    "points", [pytest.param(3, marks=pytest.mark.slow), 4, pytest.param(6, marks=pytest.mark.slow)]
)
def test_intervals_hold_the_truth_as_often_as_they_say(points: int) -> None:
    """Laws drawn at random, with noise of images that networks share and of seeds, four times beyond the sweep."""
    rng, inside, trials = np.random.default_rng(points), 0, 1000
    costs = 4.0 ** np.linspace(-1, 1, points)
    for _ in range(trials):
        floor, rise = rng.uniform(0.05, 0.3), rng.uniform(0.05, 0.2)
        exponent = 0.0
        while exponent < 0.05:
            exponent = rng.normal(*ELSEWHERE)
        truth = floor + rise * costs**-exponent
        sd, freedom = 0.006, 2 * points
        pooled = sd**2 * rng.chisquare(freedom) / freedom / 3
        shared = 0.004**2 * (0.6 + 0.4 * np.eye(points))
        errors = truth + rng.multivariate_normal(np.zeros(points), shared) + sd / math.sqrt(3) * rng.normal(size=points)
        sweep = Sweep(costs, errors, shared, np.full(points, pooled), freedom)
        low, high = np.quantile(fit(sweep, ELSEWHERE, 600).at(16.0), (0.025, 0.975))
        inside += low <= floor + rise * 16.0**-exponent <= high
    assert 0.92 <= inside / trials <= 0.98


def test_what_a_member_will_show_has_the_noise_of_its_own_seeds_and_images() -> None:
    sweep = REGNET_X.smallest(4)
    laws = fit(sweep, IMAGENET)
    law, few, many = (
        float(np.std(each))
        for each in (
            laws.at(1.6),
            shown(sweep, laws, 1.6, seeds=1, images=500),
            shown(sweep, laws, 1.6, seeds=8, images=50_000),
        )
    )
    assert few == pytest.approx(math.sqrt(law**2 + 0.23 * 0.77 / 500 + laws.shape), rel=0.1)
    assert law < many < 1.3 * law


def test_points_off_every_law_make_the_interval_wider() -> None:
    even = Sweep(
        np.array([1.0, 2, 4, 8, 16]), 0.1 + 0.2 * np.array([1.0, 2, 4, 8, 16]) ** -0.5, np.zeros((5, 5)),
        np.full(5, 0.001**2), math.inf,
    )  # fmt: skip
    bumpy = even._replace(errors=even.errors + 0.008 * np.array([1, -1, 1, -1, 1]))
    smooth, rough = fit(even, ELSEWHERE), fit(bumpy, ELSEWHERE)
    assert smooth.shape == 0
    assert 0.004 < math.sqrt(rough.shape) < 0.02
    assert np.std(rough.at(64)) > 1.5 * np.std(smooth.at(64))


def test_many_precise_points_tell_the_exponent_themselves() -> None:
    costs = 2.0 ** np.arange(9)
    sweep = Sweep(costs, 0.1 + 0.3 * costs**-0.9, np.zeros((9, 9)), np.full(9, 1e-8), math.inf)
    laws = fit(sweep, ELSEWHERE)
    assert laws.expected.exponent == pytest.approx(0.9, abs=0.05)
    assert laws.expected.at(1024) == pytest.approx(0.1 + 0.3 * 1024**-0.9, abs=0.002)


def test_a_law_falls_to_its_floor_and_never_above_1() -> None:
    law = Law(1.0, 0.1, 0.2, 0.5)
    assert law.at(1.0) == pytest.approx(0.3)
    assert law.at(1e12) == pytest.approx(0.1, abs=1e-5)
    assert law.at(1e-9) == 1.0
    laws = Laws(law, np.array([0.1]), np.array([0.2]), np.array([0.5]), 0.0)
    assert laws.at(4.0) == pytest.approx([law.at(4.0)])


def test_a_sweep_of_hits_knows_what_images_and_what_seeds_add() -> None:
    """Images that are hard for all networks shift all errors alike; seeds shift each by itself."""
    rng, images, seeds = np.random.default_rng(7), 4000, 3
    hard = rng.normal(size=images)
    networks = []
    for place, skill in enumerate((0.3, 0.8, 1.2, 1.5)):
        rows = [hard + 0.7 * rng.normal(size=images) < skill + 0.03 * rng.normal() for _ in range(seeds)]
        networks.append((2.0**place, np.stack(rows)))
    sweep = sweep_of(list(reversed(networks)))
    assert list(sweep.costs) == [1, 2, 4, 8]
    assert sweep.errors == pytest.approx([1 - hits.mean() for _, hits in networks])
    for place, skill in enumerate((0.3, 0.8, 1.2, 1.5)):
        chance = norm.cdf((skill - hard) / 0.7)  # that a training is right about each image
        assert sweep.images[place, place] == pytest.approx(float(chance.var()) / images, rel=0.1)
    correlation = sweep.images[0, 1] / math.sqrt(sweep.images[0, 0] * sweep.images[1, 1])
    assert 0.5 < correlation < 1
    assert sweep.freedom == 4 * (seeds - 1)
    assert sweep.error_of(0, 1) < math.sqrt(sweep.covariance[0, 0] + sweep.covariance[1, 1])
    assert sweep.without_largest().costs.tolist() == [1, 2, 4]
