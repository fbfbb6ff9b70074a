"""Planning a family, and what makes two builds the same."""

from __future__ import annotations

import pytest

from effnet.arch import zoo
from effnet.arch.cost import count
from effnet.arch.scaling import Coefficients
from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig, ForecastConfig, LocalCompute, StopWhen, StudyConfig
from effnet.family import build_key, plan_members


def test_members_follow_the_equation(config: FamilyConfig, baseline: Architecture) -> None:
    members = plan_members(baseline, config, Coefficients(2.0, 1.5, 1.5), 10)
    assert [member.name for member in members] == ["B0", "B1", "B2"]
    assert members[0].architecture.key() == baseline.key()
    assert [member.architecture.resolution for member in members] == [8, 12, 18]
    assert [[stage.repeats for stage in member.architecture.stages] for member in members] == [[1, 2], [2, 4], [4, 8]]
    assert [member.architecture.head.dropout for member in members] == [0.1, 0.15, 0.2]
    for member in members:
        assert (member.params, member.macs) == count(member.architecture, 10)[:2]


def test_build_key_ignores_where_and_how_fast(config: FamilyConfig, baseline: Architecture) -> None:
    key = build_key(config, baseline, "0" * 16)
    elsewhere = config.model_copy(update={"store": "other", "compute": LocalCompute(parallel=7)})
    assert build_key(elsewhere, baseline, "0" * 16) == key
    assert build_key(config.model_copy(update={"seed": 1}), baseline, "0" * 16) != key
    assert build_key(config, baseline.model_copy(update={"resolution": 10}), "0" * 16) != key
    assert build_key(config, baseline, "1" * 16) != key


def test_families_keep_the_key_that_they_had_before_configs_had_more_fields(
    config: FamilyConfig, baseline: Architecture
) -> None:
    assert build_key(config, baseline, "0123456789abcdef") == "55d720c3e3f2401c"
    forecast = config.model_copy(update={"forecast": ForecastConfig()})
    stopping = config.members.model_copy(update={"stop_when": StopWhen(gain_below=0.2)})
    changed = (forecast, forecast.model_copy(update={"members": stopping}))
    assert len({build_key(each, baseline, "0123456789abcdef") for each in (config, *changed)}) == 3
    study = StudyConfig(multipliers=((1, 2, 1), (1.4, 1.2, 1.3)))
    assert build_key(config.model_copy(update={"study": study}), baseline, "0123456789abcdef") != build_key(
        config.model_copy(update={"study": StudyConfig()}), baseline, "0123456789abcdef"
    )


def test_families_with_a_search_keep_the_key_that_they_had_before_other_blocks() -> None:
    given = {"family": "f", "baseline": {"search": {"trials": 4}}}
    reference = zoo.get("efficientnet_b0")
    assert build_key(FamilyConfig.parse(given, "f.yaml"), reference, "0" * 16) == "17ec18de07286331"
    given = {"family": "f", "baseline": {"search": {"trials": 4, "blocks": ["mbconv", "uib"]}}}
    assert build_key(FamilyConfig.parse(given, "f.yaml"), reference, "0" * 16) != "17ec18de07286331"


def test_families_with_folds_have_keys_of_their_own(baseline: Architecture) -> None:
    given = {"family": "f", "baseline": "efficientnet_b0"}
    configs = [FamilyConfig.parse(given | {"members": {"folds": folds}}, "f.yaml") for folds in (1, 2, 3)]
    keys = [build_key(config, baseline, "0123456789abcdef") for config in configs]
    assert len({*keys}) == 3
    assert keys[0] == build_key(FamilyConfig.parse(given, "f.yaml"), baseline, "0123456789abcdef")


@pytest.mark.parametrize("phi", [(0.0,), (1.0, 3.0)])
def test_any_list_of_phi(config: FamilyConfig, baseline: Architecture, phi: tuple[float, ...]) -> None:
    changed = config.model_copy(update={"members": config.members.model_copy(update={"phi": phi})})
    members = plan_members(baseline, changed, Coefficients(1.2, 1.1, 1.15), 10)
    assert tuple(member.phi for member in members) == phi
