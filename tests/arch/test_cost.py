"""Counted cost against the published figures and against the modules that are built."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from effnet.arch import zoo
from effnet.arch.cost import Cost, count
from effnet.arch.scaling import Coefficients, scale
from effnet.arch.spec import Architecture, Head, Stage, Stem
from effnet.models.build import build

# Parameters of the published networks: official checkpoints, as Keras and timm count them too.
PARAMS = {
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
    "efficientnet_b5": 30_389_784,
    "efficientnet_b6": 43_040_704,
    "efficientnet_b7": 66_347_960,
    "efficientnet_lite0": 4_652_008,
    "mobilenet_v2": 3_504_872,
    "resnet50": 25_557_032,
}


@pytest.mark.parametrize(("name", "params"), PARAMS.items())
def test_parameters_are_the_published_ones(name: str, params: int) -> None:
    assert count(zoo.get(name)).params == params


@pytest.mark.parametrize(
    ("name", "macs"), [("efficientnet_b0", 0.39e9), ("efficientnet_b7", 37e9), ("resnet50", 4.1e9)]
)
def test_macs_are_the_papers(name: str, macs: float) -> None:
    assert count(zoo.get(name)).macs == pytest.approx(macs, rel=0.03)  # the paper gives two or three digits


@pytest.mark.parametrize(
    "name", ["efficientnet_b0", "efficientnet_lite0", "mobilenet_v1", "mobilenet_v2", "resnet50", "mnasnet_a1"]
)
def test_count_equals_the_built_module(name: str) -> None:
    arch = zoo.get(name)
    assert count(arch) == measured(arch, 1000)


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
stages = mbconvs | separables | bottlenecks
architectures = st.builds(
    Architecture,
    name=st.just("random"),
    resolution=st.integers(32, 49),
    stem=st.builds(Stem, channels=st.integers(1, 16), stride=st.sampled_from([1, 2]), pool=st.booleans()),
    stages=st.lists(stages, min_size=1, max_size=3).map(tuple),
    head=st.builds(Head, channels=st.integers(0, 20)),
    padding=st.sampled_from(["same", "symmetric"]),
    channel_multiple=st.sampled_from([4, 8]),
)


@settings(max_examples=150, deadline=None)
@given(arch=architectures, phi=st.floats(0, 2), num_classes=st.integers(1, 20))
def test_count_equals_random_modules_scaled(arch: Architecture, phi: float, num_classes: int) -> None:
    scaled = scale(arch, Coefficients(1.2, 1.1, 1.15).at(phi))
    assert count(scaled, num_classes) == measured(scaled, num_classes)


def measured(arch: Architecture, num_classes: int) -> Cost:
    """Count with hooks on the real module."""
    network = build(arch, num_classes).eval()
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
        network(torch.zeros(1, arch.in_channels, arch.resolution, arch.resolution))
    return Cost(sum(parameter.numel() for parameter in network.parameters()), macs, activations)
