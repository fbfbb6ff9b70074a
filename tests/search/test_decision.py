"""Winners, ties and the rule for them."""

from __future__ import annotations

import pytest
import scipy.stats

from effnet.search.decision import Finalist, decide


def test_a_clear_winner_wins() -> None:
    found = decide({"a": Finalist([0.90, 0.91, 0.90], 200), "b": Finalist([0.80, 0.81, 0.80], 100)}, 1000)
    assert (found.winner, found.best, found.runner_up, found.tie) == ("a", "a", "b", False)
    assert found.lead == pytest.approx(0.1)


def test_within_noise_the_cheaper_is_taken_and_it_says_tie() -> None:
    found = decide({"a": Finalist([0.90, 0.94], 200), "b": Finalist([0.89, 0.93], 100)}, 1000)
    assert (found.winner, found.best, found.tie) == ("b", "a", True)


def test_noise_of_seeds_is_welchs() -> None:
    one, other = [0.90, 0.92, 0.91, 0.95], [0.85, 0.86, 0.90, 0.84]
    found = decide({"a": Finalist(one, 1), "b": Finalist(other, 1)}, 1000)
    test = scipy.stats.ttest_ind(one, other, equal_var=False)
    interval = test.confidence_interval(0.95)
    assert found.lead - found.noise == pytest.approx(interval.low)
    assert found.lead + found.noise == pytest.approx(interval.high)
    assert found.tie == (test.pvalue > 0.05)


def test_noise_of_one_seed_is_that_of_counting() -> None:
    finalists = {"a": Finalist([0.90], 2), "b": Finalist([0.88], 1)}
    assert decide(finalists, 100).tie
    assert not decide(finalists, 100_000).tie
    assert decide(finalists, 100_000).winner == "a"


def test_one_alone_wins() -> None:
    found = decide({"a": Finalist([0.5], 1)}, 10)
    assert (found.winner, found.runner_up, found.tie) == ("a", None, False)
    assert decide({"a": Finalist([0.5, 0.5], 2), "b": Finalist([0.5, 0.5], 1)}, 10).winner == "b"
