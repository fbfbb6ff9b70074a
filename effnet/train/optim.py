"""Optimizers of the recipes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from effnet.config import Recipe


class RMSPropTF(torch.optim.Optimizer):
    """RMSProp as TensorFlow computes it, which the official EfficientNet code trains with.

    It differs from torch's: the mean square starts at 1, epsilon is inside the root, and the learning rate is applied
    before the momentum, so that a change of rate acts on new gradients only. Weight decay is L2: added to the gradient.

    Source: tf.train.RMSPropOptimizer(learning_rate, 0.9, momentum=0.9, epsilon=0.001) in utils.py of the official code.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        decay: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "decay": decay,
            "momentum": momentum,
            "epsilon": epsilon,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002 - closures are not supported
        """Take one step with the gradients that the parameters carry."""
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if params:
                self._step(params, group)

    def _step(self, params: list[Tensor], group: dict[str, Any]) -> None:
        for param in params:
            if not self.state[param]:
                self.state[param] = {"mean_square": torch.ones_like(param), "momentum": torch.zeros_like(param)}
        squares = [self.state[param]["mean_square"] for param in params]
        momenta = [self.state[param]["momentum"] for param in params]
        grads = [param.grad for param in params if param.grad is not None]
        if group["weight_decay"]:
            grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
        torch._foreach_mul_(squares, group["decay"])
        torch._foreach_addcmul_(squares, grads, grads, 1 - group["decay"])
        roots = torch._foreach_add(squares, group["epsilon"])
        torch._foreach_sqrt_(roots)
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_addcdiv_(momenta, grads, roots, group["lr"])
        torch._foreach_sub_(params, momenta)


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimizer. Batch norms and biases are not decayed."""
    decayed = [param for param in network.parameters() if param.ndim > 1]
    free = [param for param in network.parameters() if param.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    if recipe.optimizer == "rmsprop":
        return RMSPropTF(groups, lr=recipe.learning_rate)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True, foreach=True)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, foreach=True)
