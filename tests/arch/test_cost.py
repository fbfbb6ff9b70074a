"""Counted cost against the published figures and against the modules that are built."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from effnet.arch import zoo
from effnet.arch.cost import Cost, count, count_parts
from effnet.arch.scaling import Coefficients, scale
from effnet.arch.spec import Architecture, Head, Stage, Stem
from effnet.models.build import Network

# Parameters, and multiply-adds of convolutions and classifier. Parameters are those of the official checkpoints, as
# Keras, torchvision and timm count them too; for multiply-adds each has its own convention, and torchvision's is ours.
PUBLISHED = {
    "efficientnet_b0": (5_288_548, 385_814_752),
    "efficientnet_b1": (7_794_184, 686_802_832),
    "efficientnet_b2": (9_109_994, 993_561_872),
    "efficientnet_b3": (12_233_232, 1_827_141_392),
    "efficientnet_b4": (19_341_616, 4_393_771_024),
    "efficientnet_b5": (30_389_784, 10_266_384_752),
    "efficientnet_b6": (43_040_704, 19_067_593_536),
    "efficientnet_b7": (66_347_960, 37_745_884_192),
    "efficientnet_b8": (87_413_142, 62_597_461_568),
    "efficientnet_l2": (480_309_308, 475_703_653_280),
    "efficientnet_lite0": (4_652_008, 385_187_552),
    "efficientnet_lite1": (5_416_680, 600_185_232),
    "efficientnet_lite2": (6_092_072, 859_736_272),
    "efficientnet_lite3": (8_197_096, 1_383_321_872),
    "efficientnet_lite4": (13_006_568, 2_553_034_336),
    "mobilenet_v1": (4_231_976, 568_740_352),
    "mobilenet_v2": (3_504_872, 300_774_272),
    "efficientnet_v2_s": (21_458_488, 8_365_617_152),
    "efficientnet_v2_m": (54_139_356, 24_582_460_384),
    "efficientnet_v2_l": (118_515_272, 56_079_699_008),
    "mobilenet_v4_conv_small": (3_774_024, 186_005_568),
    "mobilenet_v4_conv_medium": (9_715_512, 1_080_244_224),
    "resnet50": (25_557_032, 4_089_184_256),
    "mnasnet_a1": (3_887_038, 311_579_072),
}

# Table 2's and timm's own lists' figures, with the digits that they give.
PAPER_MACS = {"b0": 0.39e9, "b1": 0.70e9, "b2": 1.0e9, "b3": 1.8e9, "b4": 4.2e9, "b5": 9.9e9, "b6": 19e9, "b7": 37e9}
TIMM_ACTIVATIONS = {"b0": 6.75, "b1": 10.88, "b2": 13.83, "b3": 23.83, "b4": 49.49, "b5": 98.86, "b6": 167.39}


def test_published_figures_cover_the_zoo() -> None:
    assert PUBLISHED.keys() == set(zoo.names())


@pytest.mark.parametrize("name", zoo.names())
def test_params_and_macs_are_the_published_ones(name: str) -> None:
    assert count(zoo.get(name))[:2] == PUBLISHED[name]


@pytest.mark.parametrize(("suffix", "macs"), PAPER_MACS.items())
def test_macs_are_the_papers(suffix: str, macs: float) -> None:
    # Its B4 and B5 are 4 % below what any count at their resolution gives.
    assert count(zoo.get(f"efficientnet_{suffix}")).macs == pytest.approx(macs, rel=0.05)


@pytest.mark.parametrize(("suffix", "millions"), TIMM_ACTIVATIONS.items())
def test_activations_are_those_timm_lists(suffix: str, millions: float) -> None:
    # timm does not list the classifier's 1,000
    assert round(count(zoo.get(f"efficientnet_{suffix}")).activations / 1e6, 2) == pytest.approx(millions, abs=0.011)


@pytest.mark.parametrize("name", zoo.names())
def test_count_equals_the_built_module(name: str) -> None:
    arch = zoo.get(name)
    assert count(arch) == measured(arch, 1000)


@pytest.mark.parametrize("name", zoo.names())
def test_parts_add_up(name: str) -> None:
    parts = count_parts(zoo.get(name), 10)
    assert len(parts.stages) == len(zoo.get(name).stages)
    assert Cost(*map(sum, zip(parts.stem, parts.head, *parts.stages, strict=True))) == count(zoo.get(name), 10)


common = {
    "channels": st.integers(1, 6).map(lambda number: 4 * number),
    "repeats": st.integers(1, 3),
    "kernel": st.sampled_from([1, 3, 5]),
    "stride": st.sampled_from([1, 2]),
    "skip": st.booleans(),
}
mbconvs = st.builds(
    Stage, expand_ratio=st.integers(1, 4), se_ratio=st.sampled_from([0.0, 0.25, 1.0]), block=st.just("mbconv"), **common
)
separables = st.builds(Stage, block=st.just("separable"), **common)
bottlenecks = st.builds(Stage, block=st.just("bottleneck"), expand_ratio=st.sampled_from([1, 2, 4]), **common)
fused = st.builds(Stage, block=st.just("fused_mbconv"), expand_ratio=st.integers(1, 4), **common)
kernels = st.sampled_from([0, 3, 5])
uibs = st.builds(
    Stage,
    block=st.just("uib"),
    expand_ratio=st.integers(1, 4),
    start_kernel=st.just(3),
    **common | {"kernel": kernels},
) | st.builds(
    Stage,
    block=st.just("uib"),
    expand_ratio=st.integers(1, 4),
    start_kernel=kernels,
    **common | {"kernel": kernels, "stride": st.just(1)},
)
stages = mbconvs | separables | bottlenecks | fused | uibs
architectures = st.builds(
    Architecture,
    name=st.just("random"),
    resolution=st.integers(32, 49),
    stem=st.builds(Stem, channels=st.integers(1, 16), stride=st.sampled_from([1, 2]), pool=st.booleans()),
    stages=st.lists(stages, min_size=1, max_size=3).map(tuple),
    head=st.builds(Head, channels=st.integers(0, 20)) | st.builds(Head, channels=st.just(12), pool_first=st.just(True)),
    padding=st.sampled_from(["same", "symmetric"]),
    channel_multiple=st.sampled_from([4, 8]),
)


@settings(max_examples=500, deadline=None)
@given(arch=architectures, phi=st.floats(0, 3), num_classes=st.integers(1, 20))
@pytest.mark.slow
def test_count_equals_random_modules_scaled(arch: Architecture, phi: float, num_classes: int) -> None:
    scaled = scale(arch, Coefficients(1.2, 1.1, 1.15).at(phi))
    assert count(scaled, num_classes) == measured(scaled, num_classes)


def measured(arch: Architecture, num_classes: int) -> Cost:
    """Count with hooks on the real module, on tensors that have shapes and no numbers."""
    with torch.device("meta"):
        network = Network(arch, num_classes).eval()
        images = torch.zeros(1, arch.in_channels, arch.resolution, arch.resolution)
    macs = activations = 0

    def hook(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal macs, activations
        activations += output.numel()
        if isinstance(module, nn.Conv2d):
            macs += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            macs += module.weight.numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(hook)
    with torch.no_grad():
        network(images)
    return Cost(sum(parameter.numel() for parameter in network.parameters()), macs, activations)
