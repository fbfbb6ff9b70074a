"""Winners, ties and the rule for them."""

from __future__ import annotations

import numpy as np

from effnet.search.decision import Finalist, decide


def rows(*rights: int, of: int, shift: int = 0) -> np.ndarray:
    """Return hits of several seeds, each right about so many images; the easy ones first."""
    return np.array([np.roll(np.arange(of) < right, shift) for right in rights])


def test_a_clear_winner_wins() -> None:
    found = decide({"a": Finalist(rows(900, 910, 900, of=1000), 200), "b": Finalist(rows(800, 810, 800, of=1000), 100)})
    assert (found.winner, found.best, found.runner_up, found.tie) == ("a", "a", "b", False)
    assert round(found.lead, 6) == 0.1
    assert found.told().endswith("more than noise")


def test_within_noise_the_one_with_the_least_penalty_is_taken_and_it_says_tie() -> None:
    found = decide({"a": Finalist(rows(900, 940, of=1000), 200), "b": Finalist(rows(890, 930, of=1000), 100)})
    assert (found.winner, found.best, found.tie) == ("b", "a", True)
    assert "within noise, a tie" in found.told()


def test_seeds_that_agree_to_the_last_image_are_no_certainty() -> None:
    # .9972 against .9944 of 359 images, both seeds: one image
    found = decide({"a": Finalist(rows(358, 358, of=359), 200), "b": Finalist(rows(357, 357, of=359), 100)})
    assert found.tie
    assert found.noise > found.lead > 0
    assert found.winner == "b"


def test_one_seed_is_told_as_one() -> None:
    found = decide({"a": Finalist(rows(900, of=1000), 2), "b": Finalist(rows(828, of=1000), 1)})
    assert not found.tie
    assert (found.winner, found.seeds) == ("a", 1)
    assert "one seed cannot say what another would find" in found.told()
    assert "more than noise" not in found.told()


def test_the_same_images_tell_more_than_as_many_others() -> None:
    paired = decide({"a": Finalist(rows(320, of=359), 2), "b": Finalist(rows(308, of=359), 1)})
    assert not paired.tie  # twelve images that one alone knows, none the other
    apart = decide({"a": Finalist(rows(320, of=359), 2), "b": Finalist(rows(308, of=359, shift=51), 1)})
    assert apart.tie


def test_many_finalists_make_it_harder() -> None:
    best, other = rows(330, of=359), rows(324, of=359)  # p 0.031: six images, none the other way
    two = decide({"a": Finalist(best, 2), "b": Finalist(other, 1)})
    assert not two.tie
    four = decide({"a": Finalist(best, 2)} | {name: Finalist(other, 1) for name in "bcd"})
    assert four.tie
    assert four.winner == "b"


def test_one_alone_wins() -> None:
    found = decide({"a": Finalist(rows(5, of=10), 1)})
    assert (found.winner, found.runner_up, found.tie) == ("a", None, False)
    assert decide({"a": Finalist(rows(5, 5, of=10), 2), "b": Finalist(rows(5, 5, of=10), 1)}).winner == "b"


def test_it_says_a_tie_whenever_noise_decides_even_if_the_second_is_worse_for_certain() -> None:
    best = np.arange(1000) < 600
    second, third = best.copy(), best.copy()
    second[:8] = False  # eight images, none the other way
    third[:60], third[600:651] = False, True  # sixty, and fifty-one the other way
    given = {"a": Finalist(best[None], 3), "b": Finalist(second[None], 2), "c": Finalist(third[None], 1)}
    found = decide(given)
    assert (found.winner, found.best, found.runner_up, found.tie) == ("c", "a", "c", True)
    assert round(found.lead, 6) == 0.009 < found.noise
    assert "a tie" in found.told()


def test_equals_are_seldom_told_apart() -> None:
    draw, rounds, wrong = np.random.default_rng(2), 300, 0
    for _ in range(rounds):
        hard = draw.normal(0, 1.5, 400)
        luck = draw.normal(0, 0.15, (3, 2))
        hits = [np.array([hard + draw.normal(0, 1, 400) < 2 + each for each in row]) for row in luck]
        wrong += not decide({place: Finalist(each, place) for place, each in enumerate(hits)}).tie
    assert wrong / rounds <= 0.08  # 0.05 by construction, and two and a half standard errors
