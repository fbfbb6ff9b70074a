"""Forward and backward passes as CUDA graphs: what is captured, kept and copied, with a graph that the CPU plays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from effnet.arch.spec import Architecture
from effnet.config import Recipe
from effnet.models.build import Network, Noise, build
from effnet.train.optim import Optimizer
from effnet.train.passes import GraphedPasses, Inputs, Passes
from effnet.train.teacher import TeacherNetwork


class Trainee:
    """A network with its passes and optimizer, and perhaps a teacher."""

    def __init__(self, arch: Architecture, *, taught: bool = False) -> None:
        self.network: Network = build(arch, 10, seed=0).train()
        self.recipe = Recipe(batch_size=8, epochs=1)
        self.optimizer = Optimizer(self.network, self.recipe)
        self.gradients = self.optimizer.keep_gradients()
        teacher = TeacherNetwork(build(arch, 10, seed=1), arch) if taught else None
        self.passes = Passes(self.network, self.recipe, bfloat16=False, class_weights=None, teacher=teacher)


class PlayedGraph:
    """Replays a captured pass by running it again; a capture itself runs nothing, so its effects are undone."""

    now: PlayedGraph | None = None
    captures = 0

    def __init__(self) -> None:
        self.given: Inputs | None = None
        self.loss: torch.Tensor | None = None
        self.trainee: Trainee | None = None

    def replay(self) -> None:
        assert self.trainee is not None
        assert self.given is not None
        assert self.loss is not None
        self.loss.copy_(self.trainee.passes(self.given))


@pytest.fixture(params=[False, True], ids=["alone", "taught"])
def played(
    baseline: Architecture, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> tuple[Trainee, GraphedPasses]:
    trainee = Trainee(baseline, taught=request.param)

    @contextlib.contextmanager
    def capture(graph: PlayedGraph, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"  # other threads decode meanwhile
        PlayedGraph.captures += 1
        before = [buffer.clone() for buffer in trainee.network.buffers()], trainee.gradients.clone()
        PlayedGraph.now = graph
        yield
        PlayedGraph.now = None
        for buffer, kept in zip(trainee.network.buffers(), before[0], strict=True):
            buffer.copy_(kept)
        trainee.gradients.copy_(before[1])

    def passes(inputs: Inputs) -> torch.Tensor:
        loss = trainee.passes(inputs)
        if graph := PlayedGraph.now:
            graph.given, graph.loss, graph.trainee = inputs, loss, trainee
        return loss

    class NoStream:
        def wait_stream(self, _other: Any) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "CUDAGraph", PlayedGraph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "Stream", NoStream)
    monkeypatch.setattr(torch.cuda, "current_stream", NoStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: contextlib.nullcontext())
    PlayedGraph.captures = 0
    return trainee, GraphedPasses(passes, trainee.network, trainee.gradients)  # type: ignore[arg-type]


def inputs(trainee: Trainee, images: int, seed: int, *, mixed: bool = False) -> Inputs:
    random = torch.Generator().manual_seed(seed)
    network, side = trainee.network, trainee.network.architecture.resolution

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=random)

    labels = (drawn(images) * 10).long()
    noise = Noise(drawn(images, len(network.blocks)), drawn(images, network.classifier.in_features))
    more = ((drawn(images) * 10).long(), drawn(images)) if mixed else (None, None)
    return Inputs(drawn(images, 3, side, side), labels, noise, *more)


def test_graphs_train_what_plain_passes_train(played: tuple[Trainee, GraphedPasses], baseline: Architecture) -> None:
    """Several micro-batches a step, a smaller last one, mixed and plain images, and another dropout half-way."""
    mine, graphs = played
    theirs = Trainee(baseline, taught=mine.passes._teacher is not None)
    for number in range(6):
        for trainee in (mine, theirs):
            trainee.network.dropout.p = 0.1 if number < 3 else 0.3
        for seed, (images, mixed) in enumerate([(4, False), (4, False), (3, False), (4, True)]):
            given = inputs(mine, images, 10 * number + seed, mixed=mixed)
            found, wanted = graphs(given).clone(), theirs.passes(given)
            assert torch.equal(found, wanted)
        assert torch.equal(mine.gradients, theirs.gradients)
        for trainee in (mine, theirs):
            trainee.optimizer.step(0.01, 0.9, number)
    for one, two in zip(mine.network.state_dict().values(), theirs.network.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_a_graph_is_captured_where_shapes_or_dropout_change(played: tuple[Trainee, GraphedPasses]) -> None:
    trainee, graphs = played
    for seed in range(3):
        graphs(inputs(trainee, 4, seed))
    assert PlayedGraph.captures == 1
    trainee.network.dropout.p = 0.4
    graphs(inputs(trainee, 4, 9))
    assert PlayedGraph.captures == 2
    graphs(inputs(trainee, 4, 9, mixed=True))
    graphs(inputs(trainee, 3, 9, mixed=True))
    assert PlayedGraph.captures == 4


def test_gradients_that_stay_are_those_that_do_not(baseline: Architecture) -> None:
    kept, fresh = Trainee(baseline), Trainee(baseline)
    fresh.optimizer = Optimizer(fresh.network, fresh.recipe)  # whose gradients are dropped after each step
    for number in range(3):
        for trainee in (kept, fresh):
            for seed in range(2):
                trainee.passes(inputs(trainee, 4, 10 * number + seed))
            trainee.optimizer.step(0.01, 0.9, number)
    for one, two in zip(kept.network.parameters(), fresh.network.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not kept.gradients.any()
