"""The largest member within a budget."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effnet.arch import zoo
from effnet.arch.budget import Budget, largest
from effnet.arch.cost import count
from effnet.arch.scaling import PAPER, STRATEGIES, Strategy, compound, scale
from effnet.errors import ConfigError

B0 = zoo.get("efficientnet_b0")


@settings(max_examples=40, deadline=None)
@given(
    times=st.floats(1, 16),
    name=st.sampled_from(["efficientnet_b0", "mobilenet_v1", "mobilenet_v2", "resnet50"]),
    strategy=st.sampled_from(list(STRATEGIES.values())),
)
def test_the_member_fits_and_a_little_more_does_not(times: float, name: str, strategy: Strategy) -> None:
    baseline = zoo.get(name)
    macs = int(times * count(baseline).macs)
    found = largest(baseline, strategy, Budget(macs=macs))
    assert found.cost == count(found.architecture)
    assert found.cost.macs <= macs
    more = scale(baseline, strategy.at(2 ** (found.octaves + 2e-6)))
    assert more.key() == found.architecture.key() or count(more).macs > macs


def test_every_bound_is_kept() -> None:
    found = largest(B0, compound(PAPER), Budget(params=10**7, macs=10**10, activations=10**8))
    assert found.cost.params <= 10**7 < 1.2 * found.cost.params  # this bound is the one that binds
    found = largest(B0, compound(PAPER), Budget(params=10**9, macs=10**10, activations=2 * 10**7))
    assert found.cost.activations <= 2 * 10**7 < 1.2 * found.cost.activations


def test_a_budget_of_the_baseline_gives_at_least_the_baseline() -> None:
    found = largest(B0, compound(PAPER), Budget(macs=count(B0).macs))
    assert found.architecture.key() == B0.key()


def test_the_baseline_is_scaled_down_where_it_must() -> None:
    found = largest(B0, compound(PAPER), Budget(macs=100 * 10**6), num_classes=10, resolution_multiple=32)
    assert found.octaves < 0
    assert found.architecture.resolution % 32 == 0
    assert found.cost == count(found.architecture, 10)


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (Budget(), "a budget needs at least one bound"),
        (Budget(macs=1000), "no member of efficientnet_b0's family by compound fits the budget; the smallest has"),
        (Budget(macs=10**18), "scaling efficientnet_b0 by compound ends before the budget is reached"),
    ],
)
def test_impossible_budgets_are_told(budget: Budget, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        largest(B0, compound(PAPER), budget)
    assert told in str(caught.value)
