"""Which networks can be grown into which."""

from __future__ import annotations

import re

import pytest

from effnet.arch import zoo
from effnet.arch.growth import check_grows
from effnet.arch.scaling import PAPER, scale
from effnet.arch.spec import Architecture
from effnet.errors import ConfigError


def scaled(name: str, phi: float) -> tuple[Architecture, Architecture]:
    return zoo.get(name), scale(zoo.get(name), PAPER.at(phi), name="large")


GROWN = ["efficientnet_b0", "efficientnet_lite0", "mobilenet_v1", "mobilenet_v2", "resnet50"]
MODERN = ["efficientnet_v2_s", "efficientnet_v2_m", "mobilenet_v4_conv_small", "mobilenet_v4_conv_medium"]


@pytest.mark.parametrize("name", [*GROWN, *MODERN])
def test_these_networks_can_be_grown_by_the_papers_coefficients(name: str) -> None:
    for phi in range(6):
        check_grows(*scaled(name, phi))


def test_but_not_one_without_residual_connections_where_it_gets_deeper() -> None:
    with pytest.raises(ConfigError, match="large cannot be grown from mnasnet_a1: stage 1: blocks cannot be added, as"):
        check_grows(*scaled("mnasnet_a1", 1))


def test_nor_the_lite_ones_where_the_first_stage_gets_as_wide_as_the_stem() -> None:
    told = "large cannot be grown from efficientnet_lite0: stage 1: with 32 channels in and 32 out its first block gets"
    with pytest.raises(ConfigError, match=re.escape(told)):
        check_grows(*scaled("efficientnet_lite0", 6))
