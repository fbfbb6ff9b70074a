"""Architectures as values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from torch import nn

from effnet.arch import zoo
from effnet.arch.spec import Architecture, Stage
from effnet.errors import ConfigError
from effnet.models.build import build


@pytest.mark.parametrize("name", zoo.names())
def test_json_round_trip(name: str) -> None:
    arch = zoo.get(name)
    assert Architecture.parse(json.loads(arch.model_dump_json()), "here") == arch


def test_key_is_stable_and_ignores_the_name() -> None:
    arch = zoo.get("efficientnet_b0")
    # A changed key throws away everybody's stored runs: change it only with CACHE_VERSION.
    assert arch.key() == "9ff924cc83975a780c06c71a00cc466daffa2a17f16fde242da2895f0a7610d8"
    assert arch.model_copy(update={"name": "other"}).key() == arch.key()
    assert arch.model_copy(update={"resolution": 225}).key() != arch.key()


def test_fields_that_came_later_are_left_out_of_keys() -> None:
    # As they were before universal inverted bottlenecks and heads that pool first.
    assert zoo.get("mobilenet_v1").key() == "403e95f50ad4ef36cc40afa6e1f74678f9b9394b0b4b53898077b1902e093f2f"
    arch = zoo.get("mobilenet_v4_conv_small")
    others = [
        arch.model_copy(update={"head": arch.head.model_copy(update={"pool_first": False})}),
        arch.model_copy(update={"stages": (*arch.stages[:4], stage(arch, start_kernel=3), *arch.stages[5:])}),
    ]
    assert len({each.key() for each in (arch, *others)}) == 3


def stage(arch: Architecture, **changes: object) -> Stage:
    return arch.stages[4].model_copy(update=changes)


def test_blocks_of_b0_follow_table_1() -> None:
    blocks = zoo.get("efficientnet_b0").blocks()
    assert len(blocks) == 16
    assert [block.in_size for block in blocks if block.stride == 2] == [112, 56, 28, 14]
    assert (blocks[1].mid_channels, blocks[1].se_channels) == (96, 4)  # se_ratio is taken of the input's filters
    assert blocks[-1].drop_rate == pytest.approx(0.0)  # its channels change: no residual branch to drop
    assert blocks[-2].drop_rate == pytest.approx(0.2 * 14 / 16)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("resolution: 2", "resolution 2 is below the network's total stride 4"),
        ("resolution: '8'", "resolution: input should be a valid integer"),
        ("stem: {channels: 0}", "stem.channels: input should be greater than or equal to 1 (got 0)"),
        ("stages: []", "stages: tuple should have at least 1 item"),
        ("stages: [{channels: 4, repeats: 1, kernel: 0}]", "kernel: 0: a mbconv block has one kernel; only uib has"),
        ("stages: [{channels: 4, repeats: 1, start_kernel: 3}]", "start_kernel: a mbconv block has one kernel"),
        ("stages: [{block: fused_mbconv, channels: 4, repeats: 1, se_ratio: 0.25}]", "se_ratio: a fused_mbconv block"),
        (
            "stages: [{block: uib, channels: 4, repeats: 1, stride: 2, kernel: 0}]",
            "stride: a uib without depthwise convolutions cannot have one (got 2)",
        ),
        ("head: {pool_first: true}", "pool_first: without channels there is no convolution"),
        ("colour: red", "unknown key 'colour'"),
        ("activaton: relu", "did you mean 'activation'?"),
    ],
)
def test_files_with_mistakes_are_told_in_one_line(tmp_path: Path, change: str, told: str) -> None:
    lines = {
        "name": "name: x",
        "resolution": "resolution: 8",
        "stem": "stem: {channels: 4}",
        "stages": "stages: [{channels: 4, repeats: 1, stride: 2}]",
    }
    lines[change.split(":")[0]] = change
    path = tmp_path / "arch.yaml"
    path.write_text("\n".join(lines.values()))
    with pytest.raises(ConfigError) as caught:
        Architecture.load(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_network_suggests_the_closest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'efficientnet_b0'"):
        zoo.get("eficientnet_b0")


def test_printed_stages_are_stages() -> None:
    page = (Path(__file__).parents[2] / "docs/paper.md").read_text()
    stages = [Stage.model_validate(each) for each in yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])]
    assert [stage.block for stage in stages] == ["fused_mbconv", "uib"]
    form = {"block": "uib", "channels": 8, "repeats": 1}
    for start, kernel in ((3, 3), (0, 3), (3, 0), (0, 0)):
        assert depthwise_of(Stage.model_validate(form | {"start_kernel": start, "kernel": kernel})) == (
            (start > 0) + (kernel > 0)
        )
    assert Stage.model_validate(form).start_kernel == 0


def depthwise_of(stage: Stage) -> int:
    """Return the depthwise convolutions of a stage's block, as built."""
    reference = zoo.get("mobilenet_v4_conv_small")
    arch = reference.model_copy(update={"stages": (stage,)})
    network = build(arch, 10)
    return sum(isinstance(part, nn.Conv2d) and part.groups > 1 for part in network.modules())
