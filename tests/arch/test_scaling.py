"""Compound scaling: equation 3 and the official rounding."""

from __future__ import annotations

import hashlib
import math
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet.arch import zoo
from effnet.arch.cost import count, count_blocks, count_parts
from effnet.arch.scaling import (
    DEPTH,
    PAPER,
    PAPER_SPLIT,
    RESOLUTION,
    STRATEGIES,
    WIDTH,
    Coefficients,
    Multipliers,
    Strategy,
    compound,
    fast,
    round_filters,
    round_repeats,
    round_resolution,
    same_network,
    scale,
    shares_of_cost,
)
from effnet.arch.spec import Architecture
from effnet.errors import ConfigError


@pytest.mark.parametrize(
    ("filters", "width", "wanted"),
    [
        (32, 1.0, 32),
        (32, 1.1, 32),
        (16, 1.1, 16),
        (24, 1.1, 24),
        (40, 1.1, 48),
        (32, 2.0, 64),
        (80, 1.2, 96),
        (7, 1.0, 8),
    ],
)
def test_filters_are_rounded_as_in_the_official_code(filters: int, width: float, wanted: int) -> None:
    assert round_filters(filters, width) == wanted


@given(filters=st.integers(1, 4096), width=st.floats(0.1, 8), multiple=st.sampled_from([1, 2, 4, 8]))
def test_filters_never_fall_below_ninety_percent(filters: int, width: float, multiple: int) -> None:
    rounded = round_filters(filters, width, multiple)
    assert rounded % multiple == 0
    assert rounded >= 0.9 * filters * width
    assert rounded <= max(multiple, filters * width + multiple)


def test_repeats_are_rounded_up_but_not_by_float_noise() -> None:
    assert round_repeats(2, 1.1) == 3
    assert round_repeats(3, 2.0000000000000004) == 6
    assert round_repeats(3, 1.2**1) == 4


def test_resolution_goes_to_the_nearest_multiple() -> None:
    assert round_resolution(224, 1.15) == 258
    assert round_resolution(224, 1.15, 8) == 256
    assert round_resolution(4, 0.1, 8) == 8


def test_one_unit_of_phi_about_doubles_the_cost() -> None:
    assert PAPER.cost_ratio == pytest.approx(1.92, abs=0.01)  # paper: "about 2"
    base, scaled = zoo.get("efficientnet_b0"), scale(zoo.get("efficientnet_b0"), PAPER.at(1))
    # Depth is rounded up, so the counted cost lies above the continuous 1.92.
    assert 1.9 < count(scaled).macs / count(base).macs < 2.6


def test_at_zero_is_the_identity() -> None:
    for name in zoo.names():
        arch = zoo.get(name)
        assert scale(arch, Coefficients(1.3, 1.2, 1.1).at(0)).key() == arch.key()


def test_published_members_are_reproduced_from_the_table() -> None:
    b1 = zoo.get("efficientnet_b1")
    assert (b1.resolution, b1.head.dropout) == (240, 0.2)
    assert [stage.repeats for stage in b1.stages] == [2, 3, 3, 4, 4, 5, 2]


def test_the_documents_table_is_what_the_code_counts() -> None:
    """docs/paper.md: members as published beside B0 scaled by the equation."""
    text = (Path(__file__).parents[2] / "docs/paper.md").read_text()
    b0 = zoo.get("efficientnet_b0")
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in re.findall(r"^\| B\d .*$", text, re.M)]
    assert [row[0] for row in rows] == [f"B{phi}" for phi in range(8)]
    for phi, row in enumerate(rows):
        published, multipliers = count(zoo.get(f"efficientnet_b{phi}")), PAPER.at(phi)
        scaled = scale(b0, multipliers)
        cost = count(scaled)
        depth, width, pixels = (float(number) for number in row[1].split(", "))
        implied = (math.log(depth, 1.2), math.log(width, 1.1), math.log(pixels / 224, 1.15))
        times, ratio = published.macs / count(b0).macs, cost.macs / published.macs
        assert row[2:4] == [f"{published.params / 1e6:.1f} M", f"{published.macs / 1e9:.2f} G"]
        assert row[4] == f"{multipliers.depth:.2f}, {multipliers.width:.2f}, {scaled.resolution}"
        assert row[5:8] == [f"{cost.params / 1e6:.1f} M", f"{cost.macs / 1e9:.2f} G", f"{ratio:.2f}"]
        told = [float(number) for number in [*row[8].split(", "), row[9]]]
        assert told == pytest.approx([*implied, math.log(times, PAPER.cost_ratio)], abs=0.006)
    assert [float(row[7]) > 1.4 for row in rows[1:5]] == [True] * 4  # far below the equation
    for phi, paper in ((4, 4.2e9), (5, 9.9e9)):
        assert count(zoo.get(f"efficientnet_b{phi}")).macs / paper == pytest.approx(1.042, abs=0.006)
    assert 2 * count(b0).activations / count(b0).macs == pytest.approx(0.035, abs=0.001)  # norms, as timm counts them


def test_alpha_up_to_a_quarter_is_one_network_on_b0() -> None:
    b0 = zoo.get("efficientnet_b0")
    found = [scale(b0, Multipliers(depth=alpha)) for alpha in (1.001, 1.05, 1.1, 1.2, 1.25)]
    assert all(same_network(found[0], other) for other in found)
    assert not same_network(found[0], scale(b0, Multipliers(depth=1.26)))
    assert not same_network(found[0], b0)


def test_lite_keeps_stem_head_and_ends() -> None:
    arch = zoo.get("efficientnet_lite0")
    scaled = scale(arch, Multipliers(depth=2.0, width=2.0))
    assert scaled.stem.channels == 32
    assert scaled.head.channels == 1280
    assert [stage.repeats for stage in scaled.stages] == [1, 4, 4, 6, 6, 8, 1]


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_multipliers_are_refused(bad: float) -> None:
    with pytest.raises(ConfigError, match="width multiplier must be a number above 0"):
        scale(zoo.get("efficientnet_b0"), Multipliers(width=bad))


def test_resolution_below_the_stride_is_refused() -> None:
    with pytest.raises(ConfigError, match="below the network's total stride 32"):
        scale(zoo.get("efficientnet_b0"), Multipliers(resolution=0.1))


def test_multipliers_that_lead_out_of_the_world_are_refused() -> None:
    b0 = zoo.get("efficientnet_b0")
    for multipliers, told in (
        (Multipliers(resolution=0.1), "resolution 22 is below the network's total stride 32"),
        (Multipliers(resolution=100), "a resolution of 22400 is above the limit of 4096"),
        (Multipliers(width=1000), "a width of 1280000 is above the limit of 65536"),
        (Multipliers(depth=1000), "a stage's depth of 4000 is above the limit of 1000"),
    ):
        with pytest.raises(ConfigError) as caught:
            scale(b0, multipliers)
        assert told in str(caught.value)


def test_scaled_bottlenecks_keep_whole_middles() -> None:
    for width in (0.3, 0.77, 1.1, 1.37):
        scaled = scale(zoo.get("resnet50"), Multipliers(width=width))
        assert all(stage.channels % 8 == 0 and stage.channels % stage.expand_ratio == 0 for stage in scaled.stages)
        assert Architecture.parse(scaled.model_dump(mode="json"), "here") == scaled


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_strategies_spend_what_they_are_given(strategy: Strategy) -> None:
    assert strategy.depth + 2 * strategy.width + 2 * strategy.resolution == pytest.approx(1)
    assert strategy.at(1) == Multipliers(1, 1, 1)
    b0 = zoo.get("efficientnet_b0")
    ratio = count(scale(b0, strategy.at(8))).macs / count(b0).macs
    assert 7 < ratio < 10.5  # depth is rounded up


def test_single_dimensions_leave_the_others_alone() -> None:
    assert DEPTH.at(4) == Multipliers(4, 1, 1)
    assert WIDTH.at(4) == Multipliers(1, 2, 1)
    assert RESOLUTION.at(4) == Multipliers(1, 1, 2)


def test_compound_strategy_is_the_equation() -> None:
    assert compound(PAPER).at(PAPER.cost_ratio**2.5) == pytest.approx(PAPER.at(2.5))
    for bad in (Coefficients(1, 1, 1), Coefficients(0.9, 1.2, 1.2)):
        with pytest.raises(ConfigError, match="must each be at least 1"):
            compound(bad)


def test_fast_rule_is_mostly_width_and_its_activations_grow_slowest() -> None:
    # arXiv 2103.06877, section 4.3: depth s^((1 - a)/2), width s^(a/2), resolution s^((1 - a)/4) with a = 0.8
    assert fast().at(16) == pytest.approx(Multipliers(16**0.1, 16**0.4, 16**0.05))
    b0 = zoo.get("efficientnet_b0")
    activations = {strategy.name: count(scale(b0, strategy.at(16))).activations for strategy in STRATEGIES.values()}
    assert activations["width"] < activations["dWr"] < activations["compound"] < activations["depth"]
    with pytest.raises(ConfigError, match=r"within 0\.\.1"):
        fast(1.1)


def test_scaled_networks_and_their_costs_are_as_they_were_before_scaling_was_made_quicker() -> None:
    source = random.Random(0)
    names = [*(f"efficientnet_{size}" for size in ("b0", "b4", "l2", "lite1")), "mobilenet_v1", "mobilenet_v2"]
    baselines = [zoo.get(name) for name in (*names, "resnet50", "mnasnet_a1")]
    found = hashlib.sha256()
    for number in range(1000):
        multipliers = Multipliers(*(source.choice((1.0, source.uniform(0.5, 2))) for _ in range(3)))
        dropout = source.choice((None, 0.1, 0.25))
        arch = scale(source.choice(baselines), multipliers, dropout=dropout, name=f"n{number}")
        found.update(repr((arch.key(), count(arch), count_parts(arch, 10), count_blocks(arch))).encode())
    assert found.hexdigest() == "33a524435871bc5abfd027829ed97a792b966d5533252819bf544782ff10d442"


def test_mobilenet_v4_gets_deeper_evenly() -> None:
    arch = zoo.get("mobilenet_v4_conv_small")
    blocks = [scale(arch, Multipliers(depth=depth)).num_blocks for depth in (1, 1.2, 1.44, 2)]
    assert blocks == [17, 18, 20, 29]  # of these five are plain convolutions
    deep = scale(arch, Multipliers(depth=2))
    assert [stage.repeats for stage in deep.stages if stage.block == "fused_mbconv"] == [1] * 5


def test_same_network_sees_through_names_and_dropout() -> None:
    b0 = zoo.get("efficientnet_b0")
    lite = zoo.get("efficientnet_lite0")
    assert same_network(b0, scale(b0, Multipliers(), name="again", dropout=0.5))
    assert same_network(lite, scale(lite, Multipliers(width=1.01)))
    assert not same_network(b0, scale(b0, Multipliers(depth=1.01)))
    assert not same_network(b0, lite)


def test_shares_are_of_the_log_of_cost_and_none_without_growth() -> None:
    shares = shares_of_cost(Multipliers(2.0, 2.0, 2.0), 32.0)
    assert shares == pytest.approx((0.2, 0.4, 0.4))
    assert shares_of_cost(Multipliers(1.0, 1.0, 1.0), 1.0) is None


def test_the_papers_split_of_the_cost_is_that_of_its_coefficients() -> None:
    shares = shares_of_cost(PAPER.at(1), PAPER.cost_ratio)
    assert shares is not None
    assert tuple(PAPER_SPLIT) == pytest.approx(tuple(shares), abs=5e-5)
    assert sum(PAPER_SPLIT) == pytest.approx(1, abs=1e-3)
