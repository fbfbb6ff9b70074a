"""Optimizers and the moving average against formulas written out plainly, and against torch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from effnet.arch.spec import Architecture
from effnet.config import Recipe
from effnet.models.build import Network, build
from effnet.train import optim
from effnet.train.optim import Optimizer

WHERE = {"rmsprop": 0.06, "sgd": 0.1, "adamw": 0.01}


@pytest.fixture
def network(baseline: Architecture) -> Network:
    return build(baseline, 10, seed=0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def give_gradients(network: Network, step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    found = {}
    for name, param in network.named_parameters():
        # contiguous, so not with the strides of all weights
        param.grad = torch.randn(param.shape, generator=generator)
        found[name] = param.grad.clone()
    return found


def run(network: Network, recipe: Recipe, steps: int = 4) -> Optimizer:
    optimizer = Optimizer(network, recipe)
    for step in range(steps):
        give_gradients(network, step)
        optimizer.step(WHERE[recipe.optimizer] / (step + 1), 0.9, step)
    return optimizer


def is_norm(name: str) -> bool:
    return ".norm." in name


def test_rmsprop_is_tensorflows(network: Network) -> None:
    # tf.train.RMSPropOptimizer: ms starts at 1; ms = d*ms + (1-d)*g²; mom = m*mom + lr*g/sqrt(ms + eps); w -= mom
    expected = {name: param.detach().double() for name, param in network.named_parameters()}
    square = {name: torch.ones_like(weight) for name, weight in expected.items()}
    momentum = {name: torch.zeros_like(weight) for name, weight in expected.items()}
    optimizer = Optimizer(network, Recipe(weight_decay=0.01))
    for step in range(5):
        rate = 0.1 / (step + 1)
        for name, gradient in give_gradients(network, step).items():
            decay = 0.01 if gradient.ndim > 1 else 0.0
            full = gradient.double() + decay * expected[name]
            square[name] = 0.9 * square[name] + 0.1 * full**2
            momentum[name] = 0.9 * momentum[name] + rate * full / torch.sqrt(square[name] + 1e-3)
            expected[name] = expected[name] - momentum[name]
        optimizer.step(rate, 0.9, step)
    for name, param in network.named_parameters():
        assert torch.allclose(param.double(), expected[name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_sgd_and_adamw_are_torchs(network: Network, kind: str) -> None:
    other = copy.deepcopy(network)
    groups = [
        {"params": [p for n, p in other.named_parameters() if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for n, p in other.named_parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    theirs: torch.optim.Optimizer = (
        torch.optim.SGD(groups, lr=1, momentum=0.9, nesterov=True) if kind == "sgd" else torch.optim.AdamW(groups, lr=1)
    )
    run(network, Recipe(optimizer=kind, weight_decay=0.05))  # type: ignore[arg-type]
    for step in range(4):
        give_gradients(other, step)
        for group in theirs.param_groups:
            group["lr"] = WHERE[kind] / (step + 1)
        theirs.step()
    for (name, mine), their in zip(network.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine, their, rtol=1e-5, atol=1e-6), name


def test_norms_are_never_decayed_and_biases_if_the_recipe_says_so(network: Network) -> None:
    def moved(recipe: Recipe) -> set[str]:
        mine = copy.deepcopy(network)
        with torch.no_grad():
            for param in mine.parameters():
                param.fill_(1.0)
        optimizer = Optimizer(mine, recipe)
        for param in mine.parameters():
            param.grad = torch.zeros_like(param)
        optimizer.step(0.1, 0.9, 0)
        return {name for name, param in mine.named_parameters() if not torch.equal(param, torch.ones_like(param))}

    names = {name for name, _ in network.named_parameters()}
    weights = {name for name, param in network.named_parameters() if param.ndim > 1}
    assert moved(Recipe(weight_decay=0.1)) == weights
    assert moved(Recipe(weight_decay=0.1, decay_biases=True)) == {name for name in names if not is_norm(name)}
    assert moved(Recipe(weight_decay=0.0)) == set()


def test_earlier_blocks_learn_more_slowly_if_the_recipe_says_so(network: Network) -> None:
    before = {name: param.detach().clone() for name, param in network.named_parameters()}
    optimizer = Optimizer(network, Recipe(optimizer="sgd", weight_decay=0, layer_decay=0.5))
    for param in network.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step(1.0, 0.9, 0)
    after = dict(network.named_parameters())
    steps = {name: float((before[name] - after[name].detach()).mean()) for name in before}
    assert steps["classifier.weight"] == pytest.approx(1.9)  # Nesterov's first step
    assert steps["blocks.2.branch.project.conv.weight"] == pytest.approx(1.9 * 0.5, rel=1e-4)
    assert steps["blocks.0.branch.project.conv.weight"] == pytest.approx(1.9 * 0.5**3, rel=1e-4)
    assert steps["stem.conv.conv.weight"] == pytest.approx(1.9 * 0.5**4, rel=1e-4)


def test_the_classifier_learns_faster_by_head_rate(network: Network) -> None:
    before = {name: param.detach().clone() for name, param in network.named_parameters()}
    optimizer = Optimizer(network, Recipe(optimizer="sgd", weight_decay=0, head_rate=10.0))
    for param in network.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step(0.1, 0.9, 0)
    for name, param in network.named_parameters():
        factor = 10 if name.startswith("classifier.") else 1
        assert float((before[name] - param.detach()).mean()) == pytest.approx(0.19 * factor, rel=1e-3), name


def test_gradients_are_clipped_by_their_common_norm(network: Network) -> None:
    before = torch.cat([param.detach().flatten().clone() for param in network.parameters()])
    optimizer = Optimizer(network, Recipe(optimizer="sgd", weight_decay=0, clip_norm=2.0))
    for param in network.parameters():
        param.grad = torch.full_like(param, 3.0)
    optimizer.step(1.0, 0.9, 0)
    moved = before - torch.cat([param.detach().flatten() for param in network.parameters()])
    assert float(moved.norm()) == pytest.approx(1.9 * 2.0, rel=1e-4)


@pytest.mark.parametrize("kind", WHERE)
def test_pieces_change_nothing(network: Network, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other, third = copy.deepcopy(network), copy.deepcopy(network)
    recipe = Recipe(optimizer=kind, weight_decay=0.05, clip_norm=1.0)  # type: ignore[arg-type]
    run(network, recipe)
    monkeypatch.setattr(optim, "PIECE", 100)  # large parameters are cut, small ones put together
    small = run(other, recipe)
    monkeypatch.setattr(optim, "PIECE", 1 << 30)
    whole = Optimizer(third, recipe)
    for step in range(4):
        give_gradients(third, step)
        whole.step(WHERE[kind] / (step + 1), 0.9, step, reduce=lambda _gradients: None)
    assert small.average is not None
    assert whole.average is not None
    for one, two, three in zip(network.parameters(), other.parameters(), third.parameters(), strict=True):
        assert torch.equal(one, two)
        assert torch.allclose(one, three, rtol=1e-5, atol=1e-7)  # the norm's sum has another order
    for one, two in zip(small.average.parameters(), whole.average.parameters(), strict=True):
        assert torch.allclose(one, two, rtol=1e-5, atol=1e-7)


def test_state_goes_on_and_a_foreign_one_is_refused(network: Network) -> None:
    straight = copy.deepcopy(network)
    run(straight, Recipe(), steps=6)
    first = run(network, Recipe(), steps=3)
    again = copy.deepcopy(network)
    optimizer = Optimizer(again, Recipe())
    optimizer.load_state_dict(first.state_dict())
    for step in range(3, 6):
        give_gradients(again, step)
        optimizer.step(WHERE["rmsprop"] / (step + 1), 0.9, step)
    for one, two in zip(straight.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(ValueError, match="of another network or optimizer"):
        optimizer.load_state_dict(Optimizer(copy.deepcopy(network), Recipe(optimizer="sgd")).state_dict())


def test_average_follows_weights_and_statistics(network: Network) -> None:
    optimizer = Optimizer(network, Recipe(weight_decay=0))
    assert optimizer.average is not None
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    for step in range(3):
        give_gradients(network, step)
        for name, buffer in network.named_buffers():
            buffer.add_(1 if name.endswith("tracked") else 0.5)
        optimizer.step(0.05, 0.8, step)
        for name, value in network.state_dict().items():
            expected[name] = 0.8 * expected[name] + 0.2 * value if value.is_floating_point() else value
    for name, value in optimizer.average.state_dict().items():
        assert torch.allclose(value, expected[name], rtol=1e-5, atol=1e-6), name
    assert Optimizer(copy.deepcopy(network), Recipe(ema_decay=0)).average is None
