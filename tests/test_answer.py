"""Which member to use, and whether size pays."""

from __future__ import annotations

import re

import numpy as np
import pytest

from effnet.answer import answer, growth
from effnet.champion import Contender
from effnet.statistics import ALPHA, difference, holm, mcnemar


def member(name: str, macs: int, *rights: int, of: int = 1000) -> Contender:
    return Contender(name, np.array([np.arange(of) < right for right in rights]), macs)


NEAR = [member("B0", 100, 800, 805), member("B1", 200, 900, 930), member("B2", 400, 905, 935)]


def test_where_size_is_not_shown_to_pay_the_cheapest_that_noise_cannot_tell_from_the_best() -> None:
    found = answer(NEAR, size_pays=False, chance=0.1)
    assert found.member == "B1"
    assert "1,000 images cannot tell it from B2, the best (91.5% and 92.0%" in found.because
    assert "0.50 times the multiply-adds" in found.because


def test_what_these_images_and_seeds_would_have_shown_is_told_where_they_decide_nothing() -> None:
    told = answer([member("B0", 1, 900, 902), member("B1", 2, 903, 905)], size_pays=False, chance=0.1).because
    assert re.search(r"2 trainings of each would show \d+\.\d points, four times in five", told)


def test_where_size_pays_the_best_and_the_cheapest_within_noise_beside_it() -> None:
    found = answer(NEAR, size_pays=True, chance=0.1)
    assert found.member == "B2"
    assert found.because.startswith("it has the best top-1, 92.0%, and size pays here; where cost counts, B1 (91.5%, ")


def test_a_best_one_that_nothing_cheaper_comes_near() -> None:
    found = answer([member("B0", 100, 800, 805), member("B1", 200, 900, 905)], size_pays=False, chance=0.1)
    assert found.member == "B1"
    assert "it has the best top-1, 90.2%" in found.because


def test_the_only_one() -> None:
    assert "only member" in answer([member("B0", 100, 800)], size_pays=False, chance=0.1).because


def test_size_pays() -> None:
    found = growth([member("B0", 100, 800, 805), member("B1", 200, 850, 855), member("B2", 400, 900, 905)])
    assert found is not None
    assert found.told.startswith("Size pays here: +5.00 points of top-1 per doubling of multiply-adds (95 % interval +")
    assert "B2 against B0: +10.00 ± " in found.told
    assert found.per_doubling == pytest.approx(0.05)
    assert 0 < found.low < 0.05 < found.high


def test_size_does_not_pay() -> None:
    flat = growth([member("B0", 100, 900, 901), member("B1", 200, 901, 900)])
    assert flat is not None
    assert flat.told.startswith("No gain by size is shown here")
    falling = growth([member("B0", 100, 900, 901), member("B1", 200, 800, 801)])
    assert falling is not None
    assert falling.told.startswith("Size costs accuracy here")


def test_one_training_of_each_is_told() -> None:
    found = growth([member("B0", 100, 800), member("B1", 200, 900)])
    assert found is not None
    assert "one training of each" in found.told


def test_members_of_one_cost_have_no_growth() -> None:
    assert growth([member("B0", 100, 800), member("B1", 100, 900)]) is None


def test_the_best_one_may_be_the_cheapest() -> None:
    found = answer([member("B0", 100, 900, 905), member("B1", 200, 800, 805)], size_pays=False, chance=0.1)
    assert found.because == "it has the best top-1, 90.2%, and is the cheapest"


def test_always_right_is_no_evidence_that_size_does_anything() -> None:
    found = growth([member(name, macs, 50, 50, of=50) for name, macs in (("B0", 100), ("B1", 333), ("B2", 700))])
    assert found is not None
    assert found.told.startswith("No gain by size is shown here")
    one = growth([member("B0", 100, 0, of=1), member("B1", 200, 1, of=1)])
    assert one is not None
    assert not one.pays


def test_what_the_printed_interval_shows_to_be_worse_is_not_within_noise_however_many_members() -> None:
    others = [member(f"B{number}", 200 + number, 960, of=1000) for number in range(1, 8)]
    cheap, best = member("B0", 100, 955), member("B8", 400, 962)
    assert difference(best.hits, cheap.hits).lead > difference(best.hits, cheap.hits).noise
    raw = {each.name: mcnemar(best.hits[0], each.hits[0]) for each in (cheap, *others)}
    assert raw["B0"] <= ALPHA < holm(raw)["B0"]  # corrected, it would pass for as good
    assert answer([cheap, *others, best], size_pays=False, chance=0.1).member == "B1"


def test_a_family_that_learned_nothing_is_told() -> None:
    family = [member("B0", 100, 26, 24, of=100), member("B1", 200, 25, 27, of=100)]
    found = answer(family, size_pays=False, chance=0.25)
    assert found.member == "B1"
    assert "no member is shown to beat naming the commonest class every time (25.0%): train longer" in found.because
    assert "commonest" not in answer(family, size_pays=False, chance=0.1).because
