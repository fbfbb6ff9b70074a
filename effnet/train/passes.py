"""A micro-batch through the network and back: plain, or on a GPU as a CUDA graph.

A small network's step is a thousand kernels of a few microseconds each, and launching them one by one takes longer than
running them. A graph is captured once for every shape and launched whole afterwards.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from effnet.config import Recipe
from effnet.models.build import Network, Noise
from effnet.train.teacher import TeacherNetwork, soft_losses

_WARM_UP = 2  # passes before a capture: libraries choose their kernels and allocate in the first ones


class Inputs(NamedTuple):
    """A micro-batch of n images, on the network's device."""

    images: Tensor  # float32 (n, 3, H, W), normalised and mixed
    labels: Tensor  # int64 (n,)
    noise: Noise
    other_labels: Tensor | None = None  # of the images that were mixed in
    share: Tensor | None = None  # float32 (n,): of the image itself, where another was mixed in


class Buffers:
    """A copy of the batch norms' statistics, from before a forward pass changes them."""

    def __init__(self, network: Network) -> None:
        self._now = list(network.buffers())
        self._kept = [buffer.clone() for buffer in self._now]

    def keep(self) -> None:
        """Copy the current statistics."""
        torch._foreach_copy_(self._kept, self._now)

    def put_back(self) -> None:
        """Restore the copied statistics."""
        torch._foreach_copy_(self._now, self._kept)


class Passes:
    """Forward and backward passes of a network that is trained.

    Args:
        network: to train, in training mode when it is used.
        recipe: its batch size, label smoothing.
        bfloat16: whether the forward pass is under autocast to bfloat16.
        class_weights: float32 (classes,), of losses; or none.
        teacher: whose answers to the same images are learnt as well; or none.
    """

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        *,
        bfloat16: bool,
        class_weights: Tensor | None,
        teacher: TeacherNetwork | None = None,
    ) -> None:
        self._network, self._recipe, self._teacher = network, recipe, teacher
        self._bfloat16, self._class_weights = bfloat16, class_weights
        self._device = next(network.parameters()).device

    def __call__(self, inputs: Inputs) -> Tensor:
        """Add the images' share of the gradient to the weights'; return the sum of their losses, on the device."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            # First, so that its memory is free again before the network keeps any.
            taught = self._teacher(inputs.images) if self._teacher else None
            logits = self._network(inputs.images, inputs.noise)
        logits = logits.float()
        losses = self._losses(logits, inputs.labels)
        if inputs.other_labels is not None and inputs.share is not None:
            others = self._losses(logits, inputs.other_labels)
            losses = inputs.share * losses + (1 - inputs.share) * others
        if taught is not None:
            weight, soft = self._recipe.teacher_weight, soft_losses(logits, taught, self._recipe.temperature)
            losses = (1 - weight) * losses + weight * self._weighed(soft, inputs)
        loss = losses.sum()
        (loss / self._recipe.batch_size).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self._recipe.label_smoothing
        losses = functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
        return losses if self._class_weights is None else losses * self._class_weights[labels]

    def _weighed(self, losses: Tensor, inputs: Inputs) -> Tensor:
        """Weigh losses that are of no label by those of the images' labels."""
        if self._class_weights is None:
            return losses
        weights = self._class_weights[inputs.labels]
        if inputs.other_labels is not None and inputs.share is not None:
            weights = inputs.share * weights + (1 - inputs.share) * self._class_weights[inputs.other_labels]
        return losses * weights


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: Inputs  # the graph reads them
    loss: Tensor  # the graph writes it


class GraphedPasses:
    """The same passes as a CUDA graph, captured anew where the inputs' shapes or the dropout change.

    The gradients must stay where they are (Optimizer.keep_gradients): a graph adds to these. Nothing in the passes may
    depend on the host, nor meet another rank.
    """

    def __init__(self, passes: Passes, network: Network, gradients: Tensor) -> None:
        self._passes, self._network, self._gradients = passes, network, gradients
        self._captured: _Captured | None = None
        self._key: tuple[object, ...] = ()

    def __call__(self, inputs: Inputs) -> Tensor:
        """As `Passes`; the returned tensor is overwritten by the next call."""
        key = (tuple(inputs.images.shape), inputs.share is not None, self._network.dropout.p)
        if self._captured is None or key != self._key:
            self._captured = None  # another stage of progressive learning: its memory goes first
            self._captured, self._key = self._capture(inputs), key
        for mine, given in zip(_tensors(self._captured.inputs), _tensors(inputs), strict=True):
            mine.copy_(given)
        self._captured.graph.replay()
        return self._captured.loss

    def _capture(self, inputs: Inputs) -> _Captured:
        mine = _copied(inputs)
        buffers, gradients = Buffers(self._network), self._gradients.clone()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    self._passes(mine)
                buffers.put_back()
                self._gradients.copy_(gradients)
        finally:  # also where the training is to stop: what is restored then must not be overtaken
            torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # It first gives back what the passes above left in the allocator's cache. Threads that decode allocate pinned
        # memory meanwhile: only this thread's calls are of the capture.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            loss = self._passes(mine)
        return _Captured(graph, mine, loss)


def _tensors(inputs: Inputs) -> list[Tensor]:
    parts = (inputs.images, inputs.labels, *inputs.noise, inputs.other_labels, inputs.share)
    return [part for part in parts if part is not None]


def _copied(inputs: Inputs) -> Inputs:
    noise = Noise(*(part.clone() for part in inputs.noise))
    other, share = (None if part is None else part.clone() for part in (inputs.other_labels, inputs.share))
    return Inputs(inputs.images.clone(), inputs.labels.clone(), noise, other, share)
