"""Optimizers, schedules and the moving average against formulas written out plainly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from effnet.arch.spec import Architecture
from effnet.config import Recipe
from effnet.models.build import build
from effnet.train.ema import Ema
from effnet.train.optim import RMSPropTF, make_optimizer
from effnet.train.schedule import learning_rate


def test_rmsprop_is_tensorflows() -> None:
    # tf.train.RMSPropOptimizer: ms starts at 1; ms = d*ms + (1-d)*g²; mom = m*mom + lr*g/sqrt(ms + eps); w -= mom
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    optimizer = RMSPropTF([weight], lr=0.1, decay=0.9, momentum=0.8, epsilon=1e-3, weight_decay=0.01)
    w = weight.detach().double().numpy().copy()
    square, momentum = np.ones(3), np.zeros(3)
    for step in range(5):
        lr = 0.1 / (step + 1)
        optimizer.param_groups[0]["lr"] = lr
        gradient = np.array([0.5, -1.0, 2.0]) * (step - 2)
        weight.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
        full = gradient + 0.01 * w
        square = 0.9 * square + 0.1 * full**2
        momentum = 0.8 * momentum + lr * full / np.sqrt(square + 1e-3)
        w = w - momentum
    assert weight.detach().numpy() == pytest.approx(w, rel=1e-5)


def test_norms_and_biases_are_not_decayed(baseline: Architecture) -> None:
    network = build(baseline, 10)
    decayed, free = make_optimizer(network, Recipe(weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(network.parameters()))


def test_staircase_is_the_papers() -> None:
    recipe = Recipe(schedule="staircase", learning_rate=0.016, batch_size=256, warmup_epochs=5)
    assert learning_rate(recipe, 0, 1000) == pytest.approx(0.016 / 5001)
    assert learning_rate(recipe, 5000, 1000) == pytest.approx(0.016 * 0.97**2)  # epoch 5 is in the third stair
    assert learning_rate(recipe, 23_999, 1000) == pytest.approx(0.016 * 0.97**9)
    assert learning_rate(recipe, 24_000, 1000) == pytest.approx(0.016 * 0.97**10)


def test_cosine_falls_to_nothing_and_the_batch_scales_the_peak() -> None:
    recipe = Recipe(schedule="cosine", learning_rate=0.1, batch_size=128, warmup_epochs=0, epochs=10)
    rates = [learning_rate(recipe, step, 100) for step in range(1000)]
    assert rates[0] == pytest.approx(0.05)
    assert rates == sorted(rates, reverse=True)
    assert rates[500] == pytest.approx(0.025)
    assert rates[-1] < 1e-5


def test_average_follows_with_the_official_ramp(baseline: Architecture) -> None:
    network = build(baseline, 10)
    ema = Ema(network, decay=0.99)
    expected = network.classifier.weight.detach().clone()
    for step in range(20):
        with torch.no_grad():
            network.classifier.weight += 1
        ema.update(network, step)
        decay = min(0.99, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network.classifier.weight.detach()
    assert torch.allclose(ema.network.classifier.weight, expected, rtol=1e-5)
    assert not math.isclose(float(expected.sum()), float(network.classifier.weight.detach().sum()))
