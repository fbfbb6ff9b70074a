"""Update all weights in one pass: gather the gradients, take the step, follow with the average.

All weights lie in one buffer, and the network's parameters are views of it. On a CPU the pass goes in pieces that stay
in the cache, because it is bound by memory; on a device in one piece per group, because it is bound by launches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from effnet.config import Recipe
from effnet.models.build import Network

PIECE = 1 << 16  # weights: with gradient, state and average they fit into a core's level-2 cache
MOMENTUM, RMS_DECAY, RMS_EPSILON = 0.9, 0.9, 1e-3  # utils.py, build_optimizer, of the official code
ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8

Reduce = Callable[[Tensor], None]  # sums a tensor over all ranks, in place


class _Group(NamedTuple):
    """Parameters that share a weight decay and a factor of the learning rate."""

    weight_decay: float
    rate: float


class _Piece(NamedTuple):
    """A stretch of the buffer, and the parameters, or the part of one, that lie there."""

    group: _Group
    start: int
    stop: int
    params: Sequence[nn.Parameter]
    part: slice  # of the only parameter; whole if there are several


class Optimizer:
    """The recipe's optimizer and moving average over a network, which must not move to another device afterwards.

    `rmsprop` is TensorFlow's, which the official code trains with. It differs from torch's: the mean square starts at
    1, epsilon is inside the root, and the learning rate is applied before the momentum, so that a change of rate acts
    on new gradients only. Its weight decay is L2: added to the gradient; so is `sgd`'s. `sgd` and `adamw` are torch's.
    """

    def __init__(self, network: Network, recipe: Recipe) -> None:
        self.recipe, self.network = recipe, network
        self.average = copy.deepcopy(network).requires_grad_(False).eval() if recipe.ema_decay else None
        groups = _grouped(network, recipe)
        params = [param for members in groups.values() for param in members]
        self._params = params
        self._weights = _lay_out(params)
        self._averages = _lay_out(_twins(network, self.average, params)) if self.average else None
        self._pieces = list(_cut(groups, PIECE if self._weights.device.type == "cpu" else len(self._weights)))
        self._gathered: Tensor | None = None
        self._kept: Tensor | None = None  # the gradients' buffer, if they stay in one
        self._statistics: list[tuple[Tensor, Tensor]] | None = None  # of the average and of the network
        self._counters: list[tuple[Tensor, Tensor]] = []
        slots = {"rmsprop": ("square", "momentum"), "sgd": ("momentum",), "adamw": ("mean", "square")}
        self._state = {name: torch.zeros_like(self._weights) for name in slots[recipe.optimizer]}
        if recipe.optimizer == "rmsprop":
            self._state["square"].fill_(1.0)

    @torch.no_grad()
    def step(self, rate: float, ema_decay: float, number: int, reduce: Reduce | None = None) -> None:
        """Take a step with the gradients that the parameters carry, and drop them.

        Args:
            rate: learning rate.
            ema_decay: of the average.
            number: steps taken before this one.
            reduce: sums the gradients over ranks first.
        """
        everything = self._gather() if reduce and self._kept is None else self._kept
        if reduce and everything is not None:
            reduce(everything)
        scale = self._clip_scale(everything) if self.recipe.clip_norm else None
        for piece in self._pieces:
            here = slice(piece.start, piece.stop)
            gradient = _gradient(piece) if everything is None else everything[here]
            if scale is not None:
                gradient = gradient * scale
            weights, state = self._weights[here], {name: slot[here] for name, slot in self._state.items()}
            _RULES[self.recipe.optimizer](weights, gradient, state, piece.group, rate * piece.group.rate, number)
            if self._averages is not None:
                self._averages[here].lerp_(weights, 1 - ema_decay)
        self.drop_gradients()
        if self.average:
            self._follow(self.average, ema_decay)

    def keep_gradients(self) -> Tensor:
        """Let the gradients stay in one buffer, which backward passes add to; return it."""
        if self._kept is None:
            self._kept = torch.zeros_like(self._weights)
            start = 0
            for param in self._params:
                param.grad = self._kept[start : start + param.numel()].as_strided(param.shape, param.stride())
                start += param.numel()
        return self._kept

    def drop_gradients(self) -> None:
        """Forget the gradients of backward passes since the last step."""
        if self._kept is not None:
            self._kept.zero_()
            return
        for param in self._params:
            param.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state, each slot as a flat tensor in the order of the buffer."""
        return self._state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load a state; raise ValueError if it is not one of this optimizer over this network."""
        if state.keys() != self._state.keys() or any(
            state[name].shape != slot.shape for name, slot in self._state.items()
        ):
            raise ValueError("the optimizer's state is of another network or optimizer")
        for name, slot in self._state.items():
            slot.copy_(state[name])

    def _gather(self) -> Tensor:
        if self._gathered is None:
            self._gathered = torch.empty_like(self._weights)
        torch.cat([_line(_grad(param), param) for param in self._params], out=self._gathered)
        return self._gathered

    def _follow(self, average: Network, decay: float) -> None:
        """Average the batch norms' statistics as well, as the official code does; counters are copied."""
        if self._statistics is None:  # at the first step: ranks may have exchanged their norms by then
            pairs = list(zip(average.buffers(), self.network.buffers(), strict=True))
            self._statistics = [pair for pair in pairs if pair[0].is_floating_point()]
            self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]
        if self._statistics:
            mine, theirs = zip(*self._statistics, strict=True)
            torch._foreach_lerp_(mine, theirs, 1 - decay)
        if self._counters:
            mine, theirs = zip(*self._counters, strict=True)
            torch._foreach_copy_(mine, theirs)

    def _clip_scale(self, everything: Tensor | None) -> Tensor:
        gradients = [_grad(param) for param in self._params] if everything is None else [everything]
        norm = nn.utils.get_total_norm(gradients)
        return (self.recipe.clip_norm / (norm + 1e-6)).clamp(max=1.0)


def _rmsprop(
    weights: Tensor, gradient: Tensor, state: Mapping[str, Tensor], group: _Group, rate: float, _number: int
) -> None:
    square, momentum = state["square"], state["momentum"]
    if group.weight_decay:
        gradient = gradient.add(weights, alpha=group.weight_decay)
    square.mul_(RMS_DECAY).addcmul_(gradient, gradient, value=1 - RMS_DECAY)
    momentum.mul_(MOMENTUM).addcdiv_(gradient, (square + RMS_EPSILON).sqrt_(), value=rate)
    weights.sub_(momentum)


def _sgd(
    weights: Tensor, gradient: Tensor, state: Mapping[str, Tensor], group: _Group, rate: float, _number: int
) -> None:
    sgd(
        [weights], [gradient], [state["momentum"]], foreach=False, weight_decay=group.weight_decay, momentum=MOMENTUM,
        lr=rate, dampening=0.0, nesterov=True, maximize=False,
    )  # fmt: skip


def _adamw(
    weights: Tensor, gradient: Tensor, state: Mapping[str, Tensor], group: _Group, rate: float, number: int
) -> None:
    adamw(
        [weights], [gradient], [state["mean"]], [state["square"]], [], [torch.tensor(float(number))], foreach=False,
        amsgrad=False, beta1=ADAM_BETAS[0], beta2=ADAM_BETAS[1], lr=rate, weight_decay=group.weight_decay,
        eps=ADAM_EPSILON, maximize=False,
    )  # fmt: skip


_RULES = {"rmsprop": _rmsprop, "sgd": _sgd, "adamw": _adamw}


def _grouped(network: Network, recipe: Recipe) -> dict[_Group, list[nn.Parameter]]:
    """Return the parameters by group. Batch norms are not decayed, biases only if the recipe says so."""
    norms = {
        id(param) for module in network.modules() if isinstance(module, nn.BatchNorm2d) for param in module.parameters()
    }
    groups: dict[_Group, list[nn.Parameter]] = {}
    for name, param in network.named_parameters():
        decayed = id(param) not in norms and (param.ndim > 1 or recipe.decay_biases)
        rate = recipe.layer_decay ** _distance(name, len(network.blocks))
        if name.startswith("classifier."):
            rate *= recipe.head_rate
        groups.setdefault(_Group(recipe.weight_decay if decayed else 0.0, rate), []).append(param)
    return groups


def _distance(name: str, num_blocks: int) -> int:
    """Return how many blocks lie between a parameter and the head."""
    if name.startswith("blocks."):
        return num_blocks - int(name.split(".")[1])
    return num_blocks + 1 if name.startswith("stem.") else 0


def _twins(network: nn.Module, other: nn.Module, params: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Return the other network's parameters in the order of this one's `params`."""
    twins = {id(one): two for one, two in zip(network.parameters(), other.parameters(), strict=True)}
    return [twins[id(param)] for param in params]


def _lay_out(params: Sequence[nn.Parameter]) -> Tensor:
    """Move the parameters into one new buffer, one after the other, each with the strides that it has."""
    buffer = torch.cat([_line(param.detach(), param) for param in params])
    start = 0
    for param in params:
        param.data = buffer[start : start + param.numel()].as_strided(param.shape, param.stride())
        start += param.numel()
    return buffer


def _cut(groups: Mapping[_Group, Sequence[nn.Parameter]], size: int) -> Iterator[_Piece]:
    """Yield stretches of at most about `size` weights: several small parameters, or a part of a large one."""
    start = 0
    for group, members in groups.items():
        waiting: list[nn.Parameter] = []
        length = 0
        for param in members:
            if waiting and length + param.numel() > size:
                yield _Piece(group, start, start + length, waiting, slice(None))
                start, waiting, length = start + length, [], 0
            if param.numel() <= size:
                waiting.append(param)
                length += param.numel()
                continue
            for first in range(0, param.numel(), size):
                last = min(first + size, param.numel())
                yield _Piece(group, start + first, start + last, [param], slice(first, last))
            start += param.numel()
        if waiting:
            yield _Piece(group, start, start + length, waiting, slice(None))
            start += length


def _gradient(piece: _Piece) -> Tensor:
    lines = [_line(_grad(param), param) for param in piece.params]
    return lines[0][piece.part] if len(lines) == 1 else torch.cat(lines)


def _grad(param: nn.Parameter) -> Tensor:
    return torch.zeros_like(param) if param.grad is None else param.grad


def _line(tensor: Tensor, like: Tensor) -> Tensor:
    """Return the numbers as a flat tensor, in the order in which `like` lies in memory."""
    if tensor.stride() != like.stride():
        tensor = torch.empty_like(like).copy_(tensor)
    return tensor.as_strided((tensor.numel(),), (1,))
