"""Prices of stages against sums written out plainly."""

from __future__ import annotations

import pytest

from effnet.arch import zoo
from effnet.arch.cost import count
from effnet.arch.scaling import PAPER
from effnet.config import FamilyConfig, FitConfig, MembersConfig, Recipe, SearchConfig, SearchedBaseline, StudyConfig
from effnet.family import plan_members
from effnet.plan import A100_MACS, Speed, price, steady

B0 = zoo.get("efficientnet_b0")
MACS = count(B0).macs


def prices(config: FamilyConfig) -> dict[str, object]:
    members = plan_members(B0, config, PAPER, 1000)
    return {stage.stage: stage for stage in price(config, B0, PAPER, members, num_classes=1000, images=1000)}


def test_members_cost_their_macs_times_epochs_times_images() -> None:
    members = MembersConfig(phi=(0,))
    config = FamilyConfig(
        family="f", baseline="efficientnet_b0", coefficients=PAPER, members=members, recipe=Recipe(epochs=10)
    )
    (stage,) = prices(config).values()
    assert stage[:4] == ("members", 1, 10 * 1000, MACS * 10 * 1000)
    assert stage.hours(steady(A100_MACS, "")) == pytest.approx(MACS * 10_000 / 0.96e12 / 3600)  # type: ignore[attr-defined]


def test_images_and_multiply_adds_cost_each_its_own() -> None:
    config = FamilyConfig(family="f", baseline="efficientnet_b0", coefficients=PAPER, recipe=Recipe(epochs=10))
    members = plan_members(B0, config, PAPER, 1000)
    (stage,) = price(config, B0, PAPER, members, num_classes=1000, images=1000)
    seconds = sum(10 * 1000 * (0.002 + member.macs * 1e-12) for member in members)
    assert stage.hours(Speed(0.002, 1e-12, "")) == pytest.approx(seconds / 3600)


def test_every_stage_of_the_config_has_a_price() -> None:
    config = FamilyConfig(
        family="f",
        baseline=SearchedBaseline(search=SearchConfig(trials=20, epochs=3, target_macs=MACS)),
        study=StudyConfig(factors=(2,), strategies=("depth", "width"), seeds=3, epochs=4),
        fit=FitConfig(step=0.1, maximum=1.4, tolerance=0.1, max_candidates=16, epochs=16, halving=4, seeds=2),
    )
    found = prices(config)
    assert list(found) == ["search", "study", "fit", "members"]
    assert found["search"][:4] == ("search", 20, 20 * 3 * 1000, 20 * 3 * 1000 * MACS)
    assert found["study"].trainings == 9  # type: ignore[attr-defined]  # the baseline once, two ways, three seeds
    assert 3 * 4 * 1000 * MACS * 4 < found["study"].macs < 3 * 4 * 1000 * MACS * 5.01  # type: ignore[attr-defined]
    # 10 networks of the grid for 4 epochs, 3 of them anew for 16; the paper's, and a second seed of all four
    assert found["fit"].macs == pytest.approx((10 * 4 + 8 * 16) * 1000 * MACS * 2)  # type: ignore[attr-defined]
    assert found["fit"].note == "1 of 10 candidates grows in depth, width and resolution"  # type: ignore[attr-defined]
    assert found["fit"].trainings == 10 + 8  # type: ignore[attr-defined]


def test_halving_and_control_are_priced() -> None:
    from effnet.config import SearchConfig
    from effnet.plan import _price_of_search

    plain = _price_of_search(SearchConfig(trials=10, batch=4, epochs=6, target_macs=1000), 100)
    assert plain[:4] == ("search", 10, 10 * 6 * 100, 10 * 6 * 100 * 1000.0)
    halved = _price_of_search(SearchConfig(trials=10, batch=4, epochs=6, halving=3, target_macs=1000), 100)
    # batches of 4, 4, 2: 2, 2 and 1 trials are trained for 6 epochs, 5 for 2
    assert halved[:4] == ("search", 10, (5 * 6 + 5 * 2) * 100, (5 * 6 + 5 * 2) * 100 * 1000.0)
    both = _price_of_search(SearchConfig(trials=10, batch=4, epochs=6, control=True, target_macs=1000), 100)
    assert both[:4] == ("search", 20, 2 * plain.images, 2 * plain.macs)
