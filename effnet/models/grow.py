"""A larger network that computes what a smaller one does: more channels and more blocks, with its weights.

Net2Net (arXiv 1511.05641, section 3), applied to networks with residual connections, depthwise convolutions and
squeeze-and-excitation:

- *Width*: a channel that is new is a copy of an old one, and what reads a channel that is there k times takes a part of
  it from each: on average 1/k, and 1 in all. The channels of a stage are copied alike in all of its blocks, since
  residual connections add them; norms, depthwise kernels and gates follow their channels.
- *Depth*: new blocks stand last in their stage and leave their input as it is. With a residual connection they are
  copies of the block before them whose last norm is 0. Separable blocks have none: those are identities.

Copies that stay equal would learn the same for ever; so the parts that a reader takes of them differ a little.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from effnet.arch.growth import check_grows, passes_input
from effnet.arch.spec import Architecture, Block
from effnet.models.build import Network, build

NOISE = 0.02  # standard deviation of the parts that readers take of copies, as a share of a part


def grow(state: Mapping[str, Tensor], small: Architecture, large: Architecture, seed: int) -> dict[str, Tensor]:
    """Return weights of a larger network with which it computes, in evaluation mode at one side, what the smaller does.

    Logits agree but for rounding (1e-4). At another side the larger network may pad images otherwise.

    Args:
        state: the smaller network's state dict, as effnet names it, on the CPU; only read.
        small: its architecture.
        large: with at least as many channels and blocks in each part, and equal in what else decides the function.
        seed: decides which channels are copied, what readers take of each copy, and blocks that can copy none.

    Returns:
        The larger network's state dict: every tensor of it, none of which shares memory with `state`.

    Raises:
        ConfigError: if `large` cannot be grown from `small`, with the stage and what is in the way.
    """
    check_grows(small, large)
    generator = torch.Generator().manual_seed(seed)
    grown = build(large, len(state["classifier.weight"]), seed=seed).state_dict()
    for part in _parts(small, large, generator):
        for name in [name for name in state if name.startswith(f"{part.old}.")]:
            grown[part.new + name.removeprefix(part.old)] = _widened(state[name], part, generator)
    _add_blocks(grown, small, large)
    return grown


def grown_network(network: Network, large: Architecture, seed: int) -> Network:
    """Return the larger network that computes what `network` does, in evaluation mode; see `grow`."""
    state = grow(network.state_dict(), network.architecture, large, seed)
    with torch.device("meta"):
        grown = Network(large, network.classifier.out_features)
    grown.load_state_dict(state, assign=True)
    return grown.eval()


class _Part(NamedTuple):
    """A convolution with its norm, or the classifier; which old channel each channel is a copy of."""

    old: str  # module in the smaller network
    new: str  # in the larger one
    reads: Tensor | None  # (channels,) int64; none: each channel reads itself (depthwise), or the image
    writes: Tensor | None  # none: classes


def _parts(small: Architecture, large: Architecture, generator: torch.Generator) -> Iterator[_Part]:
    """Yield all parts that both networks have, from image to classes."""
    writes = _copies(small.stem.channels, large.stem.channels, generator)
    yield _Part("stem.conv", "stem.conv", None, writes)
    for (old, before), (new, after) in _pairs(small, large):
        reads = writes
        if not passes_input(before):  # else both are added, and must be copied alike
            writes = _copies(before.spec.channels, after.spec.channels, generator)
        for name, inner_reads, inner_writes in _inside(before, after, reads, writes, generator):
            yield _Part(f"blocks.{old}.{name}", f"blocks.{new}.{name}", inner_reads, inner_writes)
    if small.head.channels:
        reads, writes = writes, _copies(small.head.channels, large.head.channels, generator)
        yield _Part("head", "head", reads, writes)
    yield _Part("classifier", "classifier", writes, None)


def _inside(
    before: Block, after: Block, reads: Tensor, writes: Tensor, generator: torch.Generator
) -> Iterator[tuple[str, Tensor | None, Tensor]]:
    """Yield a block's parts: module, what it reads, what it writes."""
    kind = before.spec.block
    if kind == "separable":
        yield "branch.depthwise", None, reads
        yield "branch.pointwise", reads, writes
    elif kind == "bottleneck":
        first, second = (_copies(before.mid_channels, after.mid_channels, generator) for _ in range(2))
        yield "branch.reduce", reads, first
        yield "branch.spatial", first, second
        yield "branch.expand", second, writes
        yield "shortcut", reads, writes  # where it is a convolution
    elif kind == "fused_mbconv" and before.spec.expand_ratio == 1:
        yield "branch.project", reads, writes
    else:
        if kind == "uib":
            yield "branch.start", None, reads  # where there is one
        middle = reads
        if before.spec.expand_ratio != 1 or kind == "uib":
            middle = _copies(before.mid_channels, after.mid_channels, generator)
            yield "branch.expand", reads, middle
        yield "branch.depthwise", None, middle  # where there is one
        if before.se_channels:
            squeezed = _copies(before.se_channels, after.se_channels, generator)
            yield "branch.squeeze_excite.reduce", middle, squeezed
            yield "branch.squeeze_excite.expand", squeezed, middle
        yield "branch.project", middle, writes


def _pairs(small: Architecture, large: Architecture) -> Iterator[tuple[tuple[int, Block], tuple[int, Block]]]:
    """Yield the blocks that both networks have, each with its place in either."""
    olds, news = _by_stage(small), _by_stage(large)
    for old, new in zip(olds, news, strict=True):
        yield from zip(old, new[: len(old)], strict=True)


def _by_stage(arch: Architecture) -> list[list[tuple[int, Block]]]:
    blocks = list(enumerate(arch.blocks()))
    return [[each for each in blocks if each[1].stage == stage] for stage in range(len(arch.stages))]


def _copies(old: int, new: int, generator: torch.Generator) -> Tensor:
    """Return which of `old` channels each of `new` is a copy of: the old ones, then others, as evenly as possible."""
    rounds = [torch.arange(old), *(torch.randperm(old, generator=generator) for _ in range(-(-new // old) - 1))]
    return torch.cat(rounds)[:new]


def _widened(tensor: Tensor, part: _Part, generator: torch.Generator) -> Tensor:
    """Return a part's tensor, (out, in, ...) or (out,), with the channels of the larger network."""
    if not tensor.ndim:
        return tensor.clone()
    wide = tensor.clone() if part.writes is None else tensor[part.writes]
    if tensor.ndim == 1 or part.reads is None:
        return wide
    shares = _shares(part.reads, len(wide), generator)
    return (wide[:, part.reads].double() * shares.reshape(*shares.shape, *[1] * (tensor.ndim - 2))).to(tensor.dtype)


def _shares(reads: Tensor, readers: int, generator: torch.Generator) -> Tensor:
    """Return the part that each reader takes of each channel, (readers, channels) in float64.

    They add up to 1 over a channel and its copies; a channel without copies is read whole.
    """
    noise = 1 + NOISE * torch.randn(readers, len(reads), dtype=torch.float64, generator=generator)
    sums = torch.zeros(readers, int(reads.max()) + 1, dtype=torch.float64).index_add_(1, reads, noise)
    return noise / sums[:, reads]


def _add_blocks(grown: dict[str, Tensor], small: Architecture, large: Architecture) -> None:
    """Make a larger network's further blocks leave their input as it is."""
    for old, new in zip(_by_stage(small), _by_stage(large), strict=True):
        place, last = new[len(old) - 1]
        for added, block in new[len(old) :]:
            if block.spec.block == "separable":
                _make_identity(grown, f"blocks.{added}.branch", large.norm_epsilon)
                continue
            if passes_input(last):  # else it has other shapes, and the new one stays as drawn
                _copy_block(grown, f"blocks.{place}.", f"blocks.{added}.")
            end = "expand" if block.spec.block == "bottleneck" else "project"
            for name in ("weight", "bias"):
                grown[f"blocks.{added}.branch.{end}.norm.{name}"].zero_()


def _copy_block(grown: dict[str, Tensor], source: str, target: str) -> None:
    for name in [name for name in grown if name.startswith(source)]:
        grown[target + name.removeprefix(source)] = grown[name].clone()


def _make_identity(grown: dict[str, Tensor], branch: str, epsilon: float) -> None:
    """Let a separable block return what it gets, which an activation made that changes nothing the second time.

    Its norms' statistics stay at mean 0, variance 1, as they were built.
    """
    depthwise = grown[f"{branch}.depthwise.conv.weight"].zero_()
    depthwise[:, :, depthwise.shape[2] // 2, depthwise.shape[3] // 2] = 1
    pointwise = grown[f"{branch}.pointwise.conv.weight"].zero_()
    pointwise[:, :, 0, 0] = torch.eye(len(pointwise))
    for part in ("depthwise", "pointwise"):
        grown[f"{branch}.{part}.norm.weight"].fill_(1 + epsilon).sqrt_()
