"""What a form changes of a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from effnet.change import Change, changed, family_of, settle_config
from effnet.config import FamilyConfig, PoolCompute, load_baseline
from effnet.errors import ConfigError
from effnet.shipped import CONFIGS, shipped_configs
from effnet.values import read_mapping

BASE = Path("/there")


def settled(config: Any, **change: Any) -> FamilyConfig:
    return settle_config(config, Change(**change), BASE)[0]


@pytest.mark.parametrize("name", shipped_configs())
def test_a_config_by_name_is_its_file_and_begins_where_that_lies(name: str) -> None:
    path = CONFIGS / f"{name}.yaml"
    found, base = settle_config(name, Change(), BASE)
    assert (found, base) == (FamilyConfig.parse(read_mapping(path), name), CONFIGS)
    assert family_of(name, None) == found.family
    assert settle_config(read_mapping(path), Change(), BASE) == (found, BASE)
    assert settle_config(found, Change(), BASE) == (found, BASE)


def test_images_replace_those_of_the_config_in_the_same_kind() -> None:
    assert settled("photos", images="mine").data.source.model_dump() == {
        "kind": "folder",
        "train": "/there/mine",  # the config's own folder is no place for a person's images
        "val": None,
    }
    assert settled("digits", images="s3://b/x").data.source.model_dump()["train"] == "s3://b/x"
    given = {"kind": "parquet", "train": "old", "val": "old-val", "image": "picture"}
    data = read_mapping(CONFIGS / "digits.yaml") | {"data": {"source": given, "val": 0.3}}
    found = settled(data, images="new/*.parquet").data
    assert found.source.model_dump() == given | {"train": "new/*.parquet", "val": None, "label": "label"}
    assert found.val == 0.3


def test_members_replace_members() -> None:
    scaled = settled("digits", phi=(0, 1.5))
    assert (scaled.members.phi, scaled.members.published) == ((0, 1.5), ())
    published = settled("digits", networks=("efficientnet_lite0", "efficientnet_lite1"))
    assert published.members.published == ("efficientnet_lite0", "efficientnet_lite1")
    assert (published.baseline, published.coefficients) == ("efficientnet_lite0", None)
    again = settled("photos", phi=(0, 1), recipe="modern")
    assert (again.members.published, again.weights, again.recipe.base) == ((), None, "modern")


def test_compute_and_name_are_chosen() -> None:
    found = settled("digits", family="mine", compute="work pool effnet-gpu")
    assert isinstance(found.compute, PoolCompute)
    assert (found.family, found.compute.work_pool) == ("mine", "effnet-gpu")
    assert settled(found, compute="this machine").compute.model_dump()["kind"] == "local"
    assert family_of("digits", {"family": "mine"}) == family_of({"family": "a"}, Change(family="mine")) == "mine"


def test_an_empty_form_changes_nothing() -> None:
    data = read_mapping(CONFIGS / "digits.yaml")
    assert changed(data, Change()) == data


@pytest.mark.parametrize(
    ("config", "change", "told"),
    [
        ("numbers", {}, "config: none is called 'numbers'; there are digits"),
        ({"family": "x", "baseline": "a", "sed": 1}, {}, "config: unknown key 'sed'"),
        ("digits", {"networks": ("efficientnet_b99",)}, "efficientnet_b99"),
        ("digits", {"phi": (1, 0)}, "config digits: members: phi must rise"),
        ({"data": "x"}, {"images": "mine"}, "config: family: missing"),
        ({"data": {"source": "folder"}}, {"images": "mine"}, "config: family: missing"),
        ({"members": [0, 1]}, {"phi": (0, 1)}, "config: family: missing"),
        ({"members": {"published": {"a": 1}}}, {"phi": (0, 1)}, "config: family: missing"),
        ("digits", {"family": "Mine"}, "config digits: family: must be lower-case letters"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_line(config: Any, change: dict[str, Any], told: str) -> None:
    def settle() -> None:
        found, base = settle_config(config, Change(**change), BASE)
        load_baseline(found, base)

    with pytest.raises(ConfigError) as caught:
        settle()
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
