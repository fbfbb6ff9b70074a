"""Whether a network can be grown into a larger one that computes the same: what effnet.models.grow needs of the two."""

from __future__ import annotations

from collections.abc import Iterator

from effnet.arch.spec import Architecture, Block, Head, Stage, Stem
from effnet.errors import ConfigError

# What may differ: sizes, and what no evaluation depends on.
_FREE = {
    *("name", "resolution", "stem", "stages", "head", "stochastic_depth", "stochastic_depth_rule", "norm_momentum"),
    *("initialization", "channel_multiple", "depth_rounding"),
}
_FREE_PARTS = {"channels", "repeats", "dropout", "scale_width", "scale_depth"}
_IDEMPOTENT = ("relu", "relu6")  # a second time they change nothing


def check_grows(small: Architecture, large: Architecture) -> None:
    """Raise ConfigError in one line, naming the stage, unless `large` is `small` with more channels or blocks."""
    if problem := next(_problems(small, large), None):
        raise ConfigError(f"{large.name} cannot be grown from {small.name}: {problem}")


def same_weights(small: Architecture, large: Architecture) -> bool:
    """Say whether nothing is to be grown: the weights of two networks, of which one can be grown, have equal shapes."""
    return _sizes(small) == _sizes(large)


def passes_input(block: Block) -> bool:
    """Say whether a block adds its input, as it is, to what it computes: both then have the same channels."""
    return block.residual and block.stride == 1 and block.in_channels == block.spec.channels


def _sizes(arch: Architecture) -> list[int]:
    return [arch.stem.channels, arch.head.channels, *(n for each in arch.stages for n in (each.channels, each.repeats))]


def _problems(small: Architecture, large: Architecture) -> Iterator[str]:
    yield from _differences(small.model_dump(exclude=_FREE), large.model_dump(exclude=_FREE), "the network")
    yield from _part_problems(small.stem, large.stem, "the stem")
    yield from _part_problems(small.head, large.head, "the head")
    if bool(small.head.channels) != bool(large.head.channels):
        yield "one of them has a convolution in its head, the other has none"
    if len(small.stages) != len(large.stages):
        yield f"it has {len(large.stages)} stages, not {len(small.stages)}"
        return
    for number, (one, other) in enumerate(zip(_first_blocks(small), _first_blocks(large), strict=True), 1):
        yield from _stage_problems(one, other, f"stage {number}", large.activation)


def _stage_problems(one: Block, other: Block, label: str, activation: str) -> Iterator[str]:
    """Yield what is in the way of growing a stage, given by its first block."""
    yield from _part_problems(one.spec, other.spec, label)
    if other.spec.repeats < one.spec.repeats:
        yield f"{label}: {other.spec.repeats} blocks are fewer than {one.spec.repeats}"
    if passes_input(one) != passes_input(other):
        change = "loses its residual connection" if passes_input(one) else "gets a residual connection"
        yield f"{label}: with {other.in_channels} channels in and {other.spec.channels} out its first block {change}"
    if other.spec.repeats > one.spec.repeats and (reason := _cannot_add(other.spec, activation)):
        yield f"{label}: blocks cannot be added, as {reason}"


def _part_problems(one: Stem | Stage | Head, other: Stem | Stage | Head, label: str) -> Iterator[str]:
    yield from _differences(one.model_dump(exclude=_FREE_PARTS), other.model_dump(exclude=_FREE_PARTS), label)
    if other.channels < one.channels:
        yield f"{label}: {other.channels} channels are fewer than {one.channels}"


def _first_blocks(arch: Architecture) -> list[Block]:
    found: dict[int, Block] = {}
    for block in arch.blocks():
        found.setdefault(block.stage, block)
    return list(found.values())


def _differences(one: dict[str, object], other: dict[str, object], label: str) -> Iterator[str]:
    for name, value in one.items():
        if other[name] != value:
            yield f"{label}: {name} is {other[name]}, not {value}"


def _cannot_add(stage: Stage, activation: str) -> str:
    """Say why a further block of a stage cannot leave its input as it is; empty if it can."""
    if stage.block != "separable" and not stage.skip:
        return "they have no residual connections"
    if stage.block in ("separable", "bottleneck") and activation not in _IDEMPOTENT:
        return f"{activation} changes what went through it once more"
    return ""
