"""Configs as short as they can be written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from effnet.config import FamilyConfig, load_config
from effnet.report.recipe import config_yaml
from effnet.shipped import shipped_config, shipped_configs


@pytest.mark.parametrize("name", shipped_configs())
def test_a_short_config_is_the_same_config(name: str) -> None:
    config = load_config(shipped_config(name))
    text = config_yaml(config, config.recipe)
    assert FamilyConfig.parse(yaml.safe_load(text), name) == config.model_copy(update={"store": ".effnet"})
    whole = yaml.safe_dump(config.model_dump(mode="json"))
    assert len(text) < 0.7 * len(whole)


@pytest.mark.parametrize(
    "recipe", ["{base: finetune}", "{base: finetune, epochs: 15}", "{base: paper, ema_decay: 0.99}", "{epochs: 3}"]
)
def test_what_was_stated_stays_stated(recipe: str, tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(f"family: it\nbaseline: efficientnet_b0\nrecipe: {recipe}\n")
    config = load_config(path)
    again = FamilyConfig.parse(yaml.safe_load(config_yaml(config, config.recipe)), "it")
    assert again == config
    for images in (500, 50_000):
        assert again.recipe.sized(images) == config.recipe.sized(images)
