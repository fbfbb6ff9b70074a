"""The kernels for GPUs against torch's own operations, run by Triton's interpreter on the CPU."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are imported, which here happens first in this process

from effnet.arch import zoo
from effnet.arch.spec import Architecture
from effnet.models import blocks, kernels
from effnet.models.blocks import SqueezeExcite
from effnet.models.build import Network, Noise, build

ACTIVATIONS = {"none": lambda z: z, "silu": functional.silu, "relu": functional.relu, "relu6": functional.relu6}
SHAPES = [(3, 24, 5, 7), (2, 144, 4, 4), (5, 16, 9, 9), (2, 320, 3, 3), (1, 1, 2, 2)]


def images(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 1
    return drawn.contiguous(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_norm_and_activation_are_torchs(act: str, shape: tuple[int, ...]) -> None:
    mine = nn.BatchNorm2d(shape[1], 1e-3, 0.01)
    mine.weight.data.uniform_(0.5, 2)
    mine.bias.data.normal_()
    mine.running_mean += 0.5  # type: ignore[operator]
    theirs = copy.deepcopy(mine)
    x, residual = images(shape), images(shape, 1)
    x2, residual2 = (one.detach().clone().requires_grad_() for one in (x, residual))
    drop = torch.tensor([0.0, 1.25, 1.25, 0.0, 1.25])[: shape[0]]
    found = kernels.norm_act(x, mine, act, drop, residual)
    wanted = ACTIVATIONS[act](theirs(x2)) * drop[:, None, None, None] + residual2
    gradient = images(shape, 2).detach()
    found.backward(gradient)
    wanted.backward(gradient)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x.grad, x2.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(residual.grad, residual2.grad)
    for (name, one), two in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-4, msg=name)
    for (name, one), two in zip(mine.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6, msg=name)


def test_statistics_far_from_zero_are_exact_once_the_running_mean_is_near() -> None:
    norm = nn.BatchNorm2d(16, momentum=0.1)
    norm.running_mean += 1000.0  # type: ignore[operator]
    x = images((4, 16, 8, 8)).detach() + 1000.0
    found = kernels.norm_act(x.contiguous(memory_format=torch.channels_last), norm, "none")
    wanted = functional.batch_norm(x.double(), None, None, training=True).float()
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("act", ["silu", "relu"])
@pytest.mark.parametrize("shape", [(3, 48, 5, 6), (2, 144, 1, 1)])
def test_squeeze_and_excitation_is_torchs(act: str, shape: tuple[int, ...]) -> None:
    arch = zoo.get("efficientnet_b0").model_copy(update={"activation": act})
    module = SqueezeExcite(arch, shape[1], 8)
    x, gradient = images(shape), images(shape, 1).detach()
    x2 = x.detach().clone().requires_grad_()
    found = kernels.squeeze_excite(x, module.reduce, module.expand, act)
    found.backward(gradient)
    gradients = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]
    module.zero_grad()
    wanted = module(x2)
    wanted.backward(gradient)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x.grad, x2.grad, rtol=1e-4, atol=1e-5)
    for one, (name, two) in zip(gradients, module.named_parameters(), strict=True):
        torch.testing.assert_close(one, two.grad, rtol=1e-4, atol=1e-5, msg=name)


def passed(network: Network, pixels: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    logits = network(pixels, noise)
    logits.square().sum().backward()
    return logits.detach(), torch.cat([one.grad.flatten() for one in network.parameters() if one.grad is not None])


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v2", "resnet50"])
def test_a_network_of_kernels_is_the_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = zoo.get(name)
    first = whole.stages[: 2 if name == "resnet50" else 3]  # whose third one is wide
    narrow = [stage.model_copy(update={"repeats": min(stage.repeats, 2)}) for stage in first]
    arch = Architecture.model_validate(
        whole.model_dump() | {"resolution": 16, "stages": [stage.model_dump() for stage in narrow]}
    )
    mine, theirs = build(arch, 10, seed=0), build(arch, 10, seed=0)
    pixels = images((4, 3, 16, 16)).detach()
    noise = Noise(torch.rand(4, len(mine.blocks)), torch.rand(4, mine.classifier.in_features))
    wanted = passed(theirs, pixels, noise)
    used = []

    def as_on_a_gpu(x: Tensor) -> object:
        used.append(x.shape)
        return kernels

    monkeypatch.setattr(blocks, "_kernels", as_on_a_gpu)
    found = passed(mine, pixels, noise)
    assert len(used) > len(mine.blocks)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-3, atol=1e-3)
    assert float(functional.cosine_similarity(found[1], wanted[1], dim=0)) > 0.99999
    for one, two in zip(mine.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
    mine.eval()
    theirs.eval()
    torch.testing.assert_close(mine(pixels), theirs(pixels), rtol=1e-3, atol=1e-3)
