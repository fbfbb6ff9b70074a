"""Noise: against textbooks and scipy, by properties, and by simulation of what is promised of an interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from effnet.statistics import ALPHA, band, difference, holm, mcnemar, scatter, trend, wilson_interval


def pairs(both: int, only_one: int, only_other: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    one = np.repeat([True, True, False, False], [both, only_one, only_other, neither])
    other = np.repeat([True, False, True, False], [both, only_one, only_other, neither])
    return one, other


counts = st.integers(0, 60)


def test_mcnemar_of_a_textbook_case() -> None:
    # Fagerland, Lydersen, Laake (2013), table 2: 1, 1 / 7, 12 discordant 1 and 7: exact p 0.0703
    assert mcnemar(*pairs(1, 1, 7, 12)) == pytest.approx(0.0703, abs=1e-4)


@given(counts, counts, counts, counts)
def test_mcnemar_looks_only_at_images_that_one_of_them_knows(both: int, one: int, other: int, neither: int) -> None:
    if not both + one + other + neither:
        return
    p = mcnemar(*pairs(both, one, other, neither))
    assert 0 < p <= 1
    assert p == pytest.approx(mcnemar(*pairs(both, other, one, neither)))
    assert p == pytest.approx(mcnemar(*pairs(both + 500, one, other, neither + 20)))
    assert p == pytest.approx(scipy.stats.binomtest(one, one + other).pvalue if one + other else 1.0)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_a_difference_turns_round_with_its_sides_and_is_never_certain(a: int, b: int, images: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    one, other = draw.random((a, images)) < 0.7, draw.random((b, images)) < 0.6
    found, turned = difference(one, other), difference(other, one)
    assert found.lead == pytest.approx(one.mean() - other.mean())
    assert (found.noise, found.p) == pytest.approx((turned.noise, turned.p))
    assert found.noise > 0
    assert 0 <= found.p <= 1
    assert found.seeds == min(a, b)


def test_seeds_that_agree_to_the_last_image_leave_the_noise_of_the_images() -> None:
    one, other = pairs(357, 1, 0, 1)  # one image of 359
    found = difference(np.array([one, one]), np.array([other, other]))
    assert found.lead == pytest.approx(1 / 359)
    assert found.noise > found.lead
    assert found.p > ALPHA


def test_copies_of_one_seed_do_not_multiply_the_images() -> None:
    one, other = pairs(700, 60, 40, 200)
    single = difference(one, other)
    copies = difference(np.array([one] * 4), np.array([other] * 4))
    assert copies.noise == pytest.approx(single.noise, rel=0.01)


def arms(draw: np.random.Generator, gap: float, images: int, seeds: int, scatter: float) -> list[np.ndarray]:
    """Draw the hits of two networks: images that are hard for both, and seeds that are lucky or not."""
    hard = draw.normal(0, 1.5, images)
    return [
        np.array([hard + draw.normal(0, 1, images) < 2 + skill + luck for luck in draw.normal(0, scatter, seeds)])
        for skill in (gap, 0)
    ]


@pytest.mark.parametrize("gap", [0.0, 0.3])
@pytest.mark.parametrize(("seeds", "images", "scatter"), [(1, 359, 0.0), (2, 718, 0.1), (3, 718, 0.0), (4, 718, 0.1)])
def test_intervals_hold_what_they_promise(gap: float, seeds: int, images: int, scatter: float) -> None:
    draw, spread = np.random.default_rng(7), math.sqrt(1 + 1.5**2 + scatter**2)
    truth = scipy.stats.norm.cdf((2 + gap) / spread) - scipy.stats.norm.cdf(2 / spread)
    found = [difference(*arms(draw, gap, images, seeds, scatter)) for _ in range(400)]
    covered = sum(abs(each.lead - truth) <= each.noise for each in found) / len(found)
    assert 0.93 <= covered <= 0.985  # 95 %, and three standard errors of 400
    if not gap:
        assert sum(each.p <= ALPHA for each in found) / len(found) <= 0.075


@pytest.mark.parametrize(("seeds", "images", "scatter"), [(1, 359, 0.0), (3, 359, 0.1), (3, 2000, 0.1)])
def test_bands_hold_what_they_promise(seeds: int, images: int, scatter: float) -> None:
    draw = np.random.default_rng(3)
    truth = scipy.stats.norm.cdf(2 / math.sqrt(1 + 1.5**2 + scatter**2))
    bands = [band(list(arms(draw, 0, images, seeds, scatter)[0].mean(1)), images) for _ in range(400)]
    covered = sum(each.low <= truth <= each.high for each in bands) / len(bands)
    assert covered >= 0.92  # scores alone cannot say what seeds add within an image: wide, never narrow


@pytest.mark.parametrize(
    ("seeds", "images", "scatter"), [(1, 2000, 0.0), (2, 2000, 0.02), (3, 1000, 0.1), (5, 400, 0.2)]
)
def test_what_a_comparison_sees_is_found_four_times_in_five(seeds: int, images: int, scatter: float) -> None:
    draw, normal = np.random.default_rng(2), scipy.stats.norm()
    wide = math.sqrt(1.5**2 + 1 + scatter**2)
    seen = np.mean([difference(*arms(draw, 0.0, images, seeds, scatter)).sees() for _ in range(200)])
    gap = wide * normal.ppf(normal.cdf(2 / wide) + seen) - 2  # whose true lead it is
    found = [difference(*arms(draw, gap, images, seeds, scatter)) for _ in range(400)]
    assert np.mean([each.lead for each in found]) == pytest.approx(seen, rel=0.1)
    assert 0.65 < np.mean([each.p <= ALPHA for each in found]) < 0.9  # with two seeds, whose scatter is a guess, 0.7
    assert found[0].sees(6) > found[0].sees(1) > found[0].noise


def test_bands_are_wilsons_and_students() -> None:
    assert band([81 / 263], 263)[1:] == pytest.approx(wilson_interval(81 / 263, 263))
    students = scipy.stats.t.interval(0.95, 2, loc=0.51, scale=0.01 / 3**0.5)
    assert band([0.5, 0.51, 0.52], 10**9)[1:] == pytest.approx(students, abs=1e-4)
    assert band([0.8, 0.8, 0.8], 100)[1:] == pytest.approx(wilson_interval(0.8, 100))  # seeds multiply no images


@pytest.mark.parametrize(
    ("images", "points"),
    [(30, 11.1), (240, 3.8), (500, 2.6)],
)
def test_how_far_a_top_1_of_90_percent_is_known(images: int, points: float) -> None:
    low, high = wilson_interval(0.9, images)
    assert 50 * (high - low) == pytest.approx(points, abs=0.051)


def test_wilson_interval_of_a_textbook_case() -> None:
    # 81 of 263: Newcombe (1998), table I, method 3: 0.2553 to 0.3662
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(1.0, 20)[1] == 1.0
    for samples in range(1, 200):  # the ends, where rounding shows
        assert wilson_interval(0.0, samples)[0] == 0.0
        assert wilson_interval(1.0, samples)[1] == 1.0
    assert wilson_interval(0.0, 20)[0] == pytest.approx(0.0, abs=1e-12)


def test_holm_of_a_worked_case() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )


@given(st.dictionaries(st.integers(), st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(p_values: dict[int, float]) -> None:
    corrected = holm(p_values)
    assert list(corrected) == list(p_values)
    for key, p in p_values.items():
        assert p <= corrected[key] <= min(1.0, len(p_values) * p) or corrected[key] == pytest.approx(
            max(corrected[other] for other in p_values if p_values[other] <= p)
        )
    ranked = sorted(p_values, key=lambda key: p_values[key])
    assert [corrected[key] for key in ranked] == sorted(corrected.values())


@settings(max_examples=20)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_holm_of_no_differences_rarely_finds_one(number: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    found = sum(min(holm(dict(enumerate(draw.random(number)))).values()) <= ALPHA for _ in range(400)) / 400
    assert found <= 0.10  # 5 % in any of them, and more than four standard errors


def test_hits_of_different_images_are_refused() -> None:
    with pytest.raises(ValueError, match="different images"):
        difference(np.ones(3, bool), np.ones(4, bool))


def family(
    draw: np.random.Generator, seeds: int, images: int, scatter: float, rise: float, members: int = 8
) -> list[np.ndarray]:
    """Draw the hits of networks, each a little better than the one before if there is a rise."""
    hard = draw.normal(0, 1.5, images)
    return [
        np.array([hard + draw.normal(0, 1, images) < 2 + rise * step + luck for luck in draw.normal(0, scatter, seeds)])
        for step in range(members)
    ]


@pytest.mark.parametrize("rise", [0.0, 0.1])
@pytest.mark.parametrize(
    ("members", "seeds", "images", "scatter"),
    [(8, 1, 500, 0.0), (8, 2, 500, 0.2), (3, 2, 2000, 0.3), (2, 2, 2000, 0.3), (3, 3, 2000, 0.2), (8, 2, 2000, 0.3)],
)
def test_trends_hold_what_they_promise(members: int, seeds: int, images: int, scatter: float, rise: float) -> None:
    spread, places = math.sqrt(1 + 1.5**2 + scatter**2), range(members)
    truth = [scipy.stats.norm.cdf((2 + rise * step) / spread) for step in places]
    wanted = np.polyfit(places, truth, 1)[0]
    draw, rounds, held = np.random.default_rng(3), 300, 0
    for _ in range(rounds):
        found = trend(family(draw, seeds, images, scatter, rise, members), places)
        assert found is not None
        held += abs(found.slope - wanted) <= found.noise
    assert held / rounds >= 0.91, held / rounds  # 0.95, and three standard errors of 300 rounds are 0.04


def test_a_trend_is_the_straight_line_through_the_means() -> None:
    hits = family(np.random.default_rng(0), 3, 400, 0.2, 0.2)
    found = trend(hits, range(8))
    assert found is not None
    assert found.slope == pytest.approx(np.polyfit(range(8), [each.mean() for each in hits], 1)[0])
    assert found.seeds == 3
    assert trend(hits, [math.log2(5985)] * 8) is None  # no rounding error is a slope


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_trend_of_two_networks_is_their_difference(seeds: int) -> None:
    hits = family(np.random.default_rng(4), seeds, 300, 0.2, 0.2, members=2)
    found, gap = trend(hits, [3.0, 5.0]), difference(hits[1], hits[0], scatter(each.mean(1) for each in hits))
    assert found is not None
    assert (2 * found.slope, 2 * found.noise) == pytest.approx((gap.lead, gap.noise), rel=0.02)


@pytest.mark.parametrize("right", [True, False])
def test_a_trend_is_never_certain(right: bool) -> None:
    found = trend([np.full((2, 50), right)] * 3, [math.log2(macs) for macs in (100, 333, 700)])
    assert found is not None
    assert abs(found.slope) < 1e-9 < 0.001 < found.noise
    one = trend([np.array([[False]]), np.array([[True]])], [0, 1])
    assert one is not None
    assert one.noise > one.slope == 1


def test_two_seeds_of_many_networks_say_what_two_of_one_cannot() -> None:
    hits = family(np.random.default_rng(1), 2, 2000, 0.1, 0.1)
    pooled = scatter(each.mean(1) for each in hits)
    assert pooled is not None
    assert pooled.freedom == 8
    points = np.mean([each.mean(1).var(ddof=1) for each in hits])
    assert pooled.at(float(np.mean(hits))) == pytest.approx(points, rel=0.5)  # the scatter that was put in
    assert scatter([[0.9], [0.8]]) is None
    alone, together = difference(hits[7], hits[0]), difference(hits[7], hits[0], pooled)
    assert alone.lead == together.lead
    assert together.noise < alone.noise
    scores = [float(score) for score in hits[7].mean(1)]
    wide, narrow = band(scores, 2000), band(scores, 2000, pooled)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_members_that_are_nearly_always_right_do_not_blur_those_that_are_not() -> None:
    wrong = [(60, 66), (30, 28), (2, 0)]  # of 2,003 images, by two seeds
    top1 = [[1 - number / 2003 for number in pair] for pair in wrong]
    pooled = scatter(top1)
    assert pooled is not None
    assert math.sqrt(pooled.at(np.mean(top1[0]))) < 0.006
    hits = [np.array([np.arange(2003) >= number for number in pair]) for pair in wrong]
    gap = difference(hits[2], hits[0], pooled)
    assert gap.lead > gap.noise


def test_equal_networks_with_two_seeds_are_seldom_told_apart_by_the_pooled_scatter() -> None:
    draw, rounds, wrong = np.random.default_rng(5), 400, 0
    for _ in range(rounds):
        hits = family(draw, 2, 500, 0.15, 0.0)
        wrong += difference(hits[7], hits[0], scatter(each.mean(1) for each in hits)).p <= ALPHA
    assert wrong / rounds <= 0.08  # 0.05, and three standard errors of 400 rounds are 0.03
