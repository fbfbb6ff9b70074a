"""Learning rate, averaging and progressive learning."""

from __future__ import annotations

import pytest

from effnet.arch import zoo
from effnet.arch.spec import Architecture
from effnet.config import Augment, Recipe
from effnet.recipes import RECIPES
from effnet.train.schedule import adapted, ema_decay, final_ema_decay, learning_rate, stage, warmup_epochs

OFFICIAL_STEPS = 218_949  # 350 epochs of 1,281,167 images in batches of 2,048


def test_staircase_is_the_papers() -> None:
    recipe = Recipe(schedule="staircase", learning_rate=0.016, batch_size=256, warmup_epochs=5, epochs=350)
    assert learning_rate(recipe, 0, 1000) == pytest.approx(0.016 / 5001)
    assert learning_rate(recipe, 5000, 1000) == pytest.approx(0.016 * 0.97**2)  # epoch 5 is in the third stair
    assert learning_rate(recipe, 23_999, 1000) == pytest.approx(0.016 * 0.97**9)
    assert learning_rate(recipe, 24_000, 1000) == pytest.approx(0.016 * 0.97**10)


def test_cosine_falls_to_nothing_and_the_batch_scales_the_peak() -> None:
    recipe = Recipe(schedule="cosine", learning_rate=0.1, batch_size=128, warmup_epochs=0, epochs=10)
    rates = [learning_rate(recipe, step, 100) for step in range(1000)]
    assert rates[0] == pytest.approx(0.05)
    assert rates == sorted(rates, reverse=True)
    assert rates[500] == pytest.approx(0.025)
    assert rates[-1] < 1e-5


def test_the_official_training_is_left_as_it_is() -> None:
    recipe = Recipe(base="paper", batch_size=2048)
    steps = OFFICIAL_STEPS // 350
    assert final_ema_decay(recipe, steps) == 0.9999
    assert warmup_epochs(recipe) == 5
    assert adapted(recipe, steps) == []
    assert learning_rate(recipe, OFFICIAL_STEPS // 2, steps) < learning_rate(recipe, 6 * steps, steps) < 0.128
    assert [ema_decay(recipe, step, steps) for step in (0, 10)] == [0.1, 11 / 20]


def test_a_short_training_says_what_it_does_otherwise() -> None:
    recipe = Recipe(base="paper", epochs=10)
    assert final_ema_decay(recipe, 100) == pytest.approx(0.98)
    assert warmup_epochs(recipe) == 1
    average, warmup = adapted(recipe, 100)
    assert average == "ema_decay 0.9999 becomes 0.98: the training has only 1,000 steps"
    assert warmup == "warmup_epochs 5 becomes 1: the training has only 10 epochs"
    assert final_ema_decay(Recipe(epochs=1), 5) == 0.0


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_starting_points(name: str) -> None:
    recipe = Recipe.parse(name, "here")
    assert recipe == Recipe.parse({"base": name}, "here")
    assert all(
        getattr(recipe, field) == value
        for field, value in RECIPES[name].items()
        if field != "augment"  # type: ignore[index]
    )
    changed = Recipe.parse({"base": name, "epochs": 7, "augment": {"flip": False}}, "here")
    augment = recipe.augment.model_copy(update={"flip": False})
    left_open = tuple(field for field in recipe.left_open if field != "epochs")
    assert changed == recipe.model_copy(update={"epochs": 7, "augment": augment, "left_open": left_open})
    assert Recipe.model_validate_json(changed.model_dump_json(), strict=True) == changed


def test_progressive_learning_grows_to_the_networks_own() -> None:
    arch = zoo.get("efficientnet_b2")  # 260 pixels
    augment = Augment(policy="randaugment", rand_magnitude=10, mixup=0.2, erase=0.4)
    recipe = Recipe(epochs=8, stages=4, first_resolution=0.5, first_strength=0.4, augment=augment)
    found = [stage(recipe, arch, epoch) for epoch in range(8)]
    assert [now.resolution for now in found] == [128, 128, 160, 160, 192, 192, 260, 260]
    assert found[0].dropout == pytest.approx(0.4 * arch.head.dropout)
    assert found[0].augment.rand_magnitude == pytest.approx(4)
    assert found[2].augment.mixup == pytest.approx(0.6 * 0.2)
    assert found[6] == (260, arch.head.dropout, augment)
    assert stage(Recipe(), arch, 0).resolution == 260


def test_stages_of_tiny_networks_are_not_below_their_stride(baseline: Architecture) -> None:
    recipe = Recipe(epochs=2, stages=2, first_resolution=0.1)
    assert stage(recipe, baseline, 0).resolution == baseline.total_stride
