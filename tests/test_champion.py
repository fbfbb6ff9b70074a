"""When a new model takes the champion's place."""

from __future__ import annotations

import numpy as np
import pytest

from effnet.champion import Contender, Standing, judge, standing_story


def contender(right: int, macs: int = 1000, of: int = 10_000, name: str = "1") -> Contender:
    """Return one that is right about the first so many images: the better knows all that the worse knows."""
    return Contender(name, np.arange(of) < right, macs)


OLD = contender(9000)


@pytest.mark.parametrize(
    ("new", "takes_over", "word"),
    [
        (contender(9500, 2000), True, "better"),
        (contender(9006, 2000), True, "better"),  # six images more and none less: p 0.03
        (contender(9005, 2000), False, "within noise and not cheaper"),  # five: p 0.06
        (contender(8995, 999), True, "cheaper"),
        (contender(8994, 999), False, "worse"),
        (contender(8500, 1), False, "worse"),
        (OLD, False, "within noise and not cheaper"),
    ],
)
def test_gate(new: Contender, takes_over: bool, word: str) -> None:
    verdict = judge(new, OLD)
    assert verdict.takes_over is takes_over
    assert word in verdict.reason
    assert "on the same 10,000 images" in verdict.reason


def test_what_they_disagree_on_decides_not_what_they_score() -> None:
    hits = np.arange(1000) < 900
    alike = Contender("2", np.arange(1000) < 908, 2000)
    shuffled = Contender("3", np.roll(np.arange(1000) < 908, 100), 2000)  # the same score, other images
    assert judge(alike, Contender("1", hits, 1000)).takes_over
    assert not judge(shuffled, Contender("1", hits, 1000)).takes_over


def test_the_first_is_champion() -> None:
    verdict = judge(OLD, None)
    assert verdict.takes_over
    assert verdict.best == OLD.name


def test_where_the_champion_was_taken_away_the_best_counts_still() -> None:
    worse = judge(contender(8994, 1, name="2"), None, OLD)
    assert not worse.takes_over
    assert worse.best == OLD.name
    assert judge(contender(8995, name="2"), None, OLD) == (
        True,
        "not worse: there is no champion; 1, the best one so far, has 90.00%, this one 89.95%",
        OLD.name,
    )
    assert judge(contender(9500, name="2"), None, OLD).best == "2"


def test_cheaper_and_cheaper_does_not_go_down_and_down() -> None:
    champion = best = contender(9000, 1000, name="0")
    for number in range(1, 30):  # each five images worse than the last: within noise of it, and cheaper
        new = contender(champion.hits.sum() - 5, champion.macs - 10, name=str(number))
        verdict = judge(new, champion, best)
        assert verdict.best == "0"
        if verdict.takes_over:
            champion = new
        else:
            assert "worse than the best champion so far, 0 with 90.00%" in verdict.reason
    assert champion.name == "1"  # one step, and no further


def test_the_best_moves_up() -> None:
    champion, best = contender(8995, 900, name="2"), contender(9000, name="1")
    assert judge(contender(9010, 2000, name="3"), champion, best).best == "3"
    assert judge(contender(9001, 800, name="3"), champion, best).best == "3"
    assert judge(contender(8996, 800, name="3"), champion, best).best == "1"
    by_hand = contender(9300, 5000, name="7")  # an alias set by hand: it is a champion too
    assert judge(contender(9000, 800, name="8"), by_hand, best).best == "7"


def test_better_than_the_champion_is_not_enough_if_a_better_one_was_there() -> None:
    by_hand = contender(6000, name="2")  # an alias set by hand, to a poor one
    verdict = judge(contender(7000, name="3"), by_hand, contender(8000, name="1"))
    assert not verdict.takes_over
    assert verdict.reason.startswith("worse than the best champion so far, 1 with 80.00%")


def test_how_the_members_models_stand_is_told_in_a_sentence() -> None:
    first = Standing(member="B0", model="a-b0", version="1", champion="1", reason="the first of its name")
    other = Standing(member="B1", model="a-b1", version="3", champion="2", reason="worse: top-1 90 % against 95 %")
    assert standing_story([first, other], "B0") == "a-b0 version 1 is champion: the first of its name."
    for others, count in (([first] * 2, "all"), ([other, first, other], "1"), ([other] * 3, "none")):
        of = f"of the {len(others)} other models of the family {count} are champions."
        found = standing_story([first.model_copy(update={"member": "B7"}), *others], "B7")
        assert found == f"a-b0 version 1 is champion: the first of its name; {of}"
    assert standing_story([other], "B1") == (
        "a-b1 version 3 is not champion, version 2 is: worse: top-1 90 % against 95 %."
    )
    assert standing_story([first], "B7") == ""
