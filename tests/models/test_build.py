"""Modules: shapes, initial weights, stochastic depth."""

from __future__ import annotations

import math

import pytest
import torch

from effnet.arch import zoo
from effnet.arch.scaling import Multipliers, scale
from effnet.arch.spec import Architecture
from effnet.models.blocks import SqueezeExcite
from effnet.models.build import build

KINDS = ["efficientnet_b0", "mobilenet_v1", "mobilenet_v2", "resnet50", "mnasnet_a1"]
MODERN = ["efficientnet_v2_s", "mobilenet_v4_conv_small", "mobilenet_v4_conv_medium"]


@pytest.mark.parametrize("name", [*KINDS, *MODERN])
def test_logits_have_the_classes_shape(name: str) -> None:
    arch = scale(zoo.get(name), Multipliers(width=0.25), resolution=65)
    logits = build(arch, 7).eval()(torch.zeros(2, 3, 65, 65))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", ["efficientnet_v2_s", "mobilenet_v4_conv_small", "mobilenet_v2"])
@pytest.mark.parametrize("activation", ["silu", "relu", "relu6"])
def test_what_the_classifier_sees_is_the_mean_of_its_maps(name: str, activation: str) -> None:
    arch = scale(zoo.get(name), Multipliers(width=0.25), resolution=65).model_copy(update={"activation": activation})
    network = build(arch, 7, seed=0).eval()
    images = torch.randn(2, 3, 65, 65)
    with torch.no_grad():
        maps = network.maps(images)
        assert maps.shape[2:] == (3, 3)
        assert torch.allclose(maps.mean((2, 3)), network.features(images), atol=1e-5)


def test_seed_decides_the_initial_weights(baseline: Architecture) -> None:
    one, same, other = (build(baseline, 10, seed=seed) for seed in (1, 1, 2))
    weights = [network.classifier.weight for network in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_official_initialisation() -> None:
    network = build(zoo.get("efficientnet_b0"), 1000, seed=0)
    stem = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
    assert float(stem.weight.detach().std()) == pytest.approx(math.sqrt(2 / (32 * 9)), rel=0.1)
    assert float(network.classifier.weight.detach().abs().max()) == pytest.approx(1 / math.sqrt(1000), rel=0.01)
    assert float(network.classifier.bias.detach().abs().max()) == 0


def test_stochastic_depth_drops_samples_in_training_only(baseline: Architecture) -> None:
    # One residual block whose branch is dropped for about half of the samples, and no other randomness.
    stage = baseline.stages[1].model_copy(update={"channels": 8, "stride": 1, "repeats": 2})
    arch = baseline.model_copy(
        update={
            "stages": (stage,),
            "stochastic_depth": 0.9,
            "head": baseline.head.model_copy(update={"dropout": 0.0}),
        }
    )
    assert [block.drop_rate for block in arch.blocks()] == [0.0, 0.45]
    network = build(arch, 10, seed=0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # batch statistics would mix the samples
    image = torch.rand(1, 3, 8, 8).expand(400, -1, -1, -1)
    for module in network.modules():
        if not isinstance(module, torch.nn.BatchNorm2d):
            module.training = True
    torch.manual_seed(0)
    outputs = {tuple(row) for row in network(image).detach().round(decimals=4).tolist()}
    assert len(outputs) == 2  # with the branch (scaled up), or without it
    assert len({tuple(row) for row in network.eval()(image).detach().round(decimals=4).tolist()}) == 1


def test_squeeze_and_excitation_is_one_function_in_training_and_evaluation(baseline: Architecture) -> None:
    module = SqueezeExcite(baseline, channels=24, squeezed=6)
    images, weight = torch.randn(5, 24, 7, 6), torch.randn(5, 24, 7, 6)
    found = []
    for mode in (module.train(), module.eval()):
        x = images.clone().requires_grad_()
        out = mode(x)
        found.append([out, *torch.autograd.grad((out * weight).sum(), [x, *module.parameters()])])
        module.zero_grad()
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
