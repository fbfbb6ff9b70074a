"""The factorised hierarchical space of MnasNet (arXiv 1807.11626, section 4.1) around a reference network.

A network is cut into stages; each stage has one kind of block, repeated, and its own choices. The reference gives what
is not searched: stem, head, strides, and the filters and depths that choices are relative to.
"""

from __future__ import annotations

import itertools
import math
import random
from typing import Any, Literal, NamedTuple, TypeAlias

from effnet.arch import zoo
from effnet.arch.scaling import round_filters
from effnet.arch.spec import Architecture, Stage

# MobileNetV2's filters and depths (arXiv 1801.04381, table 2), at the strides and between the stem and head of B0.
_FILTERS, _DEPTHS = (16, 24, 32, 64, 96, 160, 320), (1, 2, 3, 4, 3, 3, 1)


Kind: TypeAlias = Literal["mbconv", "fused_mbconv", "uib"]


class Choices(NamedTuple):
    """What a stage may choose from. MnasNet's own filters are 0.75, 1 and 1.25 times the reference's.

    With these alone B0 is not in the space, as its 112 and 192 filters are 7/6 and 6/5 of MobileNetV2's: both
    ratios are added here.
    """

    kernels: tuple[int, ...] = (3, 5)
    expand_ratios: tuple[int, ...] = (1, 3, 6)
    se_ratios: tuple[float, ...] = (0.0, 0.25)
    skips: tuple[bool, ...] = (True, False)
    filters: tuple[float, ...] = (0.75, 1.0, 7 / 6, 1.2, 1.25)
    depths: tuple[int, ...] = (-1, 0, 1)
    # Beyond MnasNet. Kinds without squeeze-and-excitation ignore its choice, kinds with one kernel the last two.
    blocks: tuple[Kind, ...] = ("mbconv",)
    start_kernels: tuple[int, ...] = (0,)  # of a uib: its first depthwise convolution; 0: none
    middles: tuple[bool, ...] = (True,)  # whether a uib has a depthwise convolution in the middle

    @classmethod
    def of(cls, blocks: tuple[Kind, ...]) -> Choices:
        """Return the choices with these kinds of block, and all four forms of a `uib` (arXiv 2404.10518, figure 4)."""
        if "uib" in blocks:
            return cls(blocks=blocks, start_kernels=(0, 3, 5), middles=(True, False))
        return cls(blocks=blocks)


Genes = tuple[tuple[int, ...], ...]  # per stage, per field of Choices that is searched: which of the choices
_MNASNETS = len(("kernels", "expand_ratios", "se_ratios", "skips", "filters", "depths"))


class Space:
    """All networks that the choices make of a reference.

    Args:
        reference: the skeleton: what a stage does not choose is that of its own.
        choices: of every stage.
    """

    def __init__(self, reference: Architecture, choices: Choices | None = None) -> None:
        self.reference, self.choices = reference, choices or Choices()
        # Fields that came later have genes where they are a choice alone: so that other spaces' genes stay the same.
        self._searched = [
            (name, options)
            for place, (name, options) in enumerate(self.choices._asdict().items())
            if place < _MNASNETS or len(options) > 1
        ]
        # There are few stages, and a search builds thousands of networks from them: the stage of each gene, and the
        # first gene that made it.
        self._known: list[dict[tuple[int, ...], tuple[Stage, tuple[int, ...]]]] = [{} for _ in reference.stages]
        self._first: list[dict[Stage, tuple[int, ...]]] = [{} for _ in reference.stages]

    @property
    def size(self) -> int:
        """Return the number of genes; some make the same network."""
        per_stage = math.prod(len(options) for _, options in self._searched)
        return int(per_stage ** len(self.reference.stages))

    def draw(self, source: random.Random) -> Genes:
        """Draw genes, each choice uniformly."""
        return tuple(
            tuple(source.randrange(len(options)) for _, options in self._searched) for _ in self.reference.stages
        )

    def mutate(self, genes: Genes, source: random.Random) -> Genes:
        """Change one choice of one stage to another."""
        stage, field = source.randrange(len(genes)), source.randrange(len(self._searched))
        options = len(self._searched[field][1])
        if options == 1:
            return self.mutate(genes, source)
        changed = list(genes[stage])
        changed[field] = (changed[field] + source.randrange(1, options)) % options
        return (*genes[:stage], tuple(changed), *genes[stage + 1 :])

    def build(self, genes: Genes, name: str = "candidate") -> Architecture:
        """Return the network of genes."""
        stages = tuple(self._remembered(*pair)[0] for pair in enumerate(genes))
        return self.reference.replaced(name=name, stages=stages)

    def simplest(self, genes: Genes) -> Genes:
        """Return canonical genes: the same for all genes that make the same network."""
        return tuple(self._remembered(*pair)[1] for pair in enumerate(genes))

    def find(self, arch: Architecture) -> Genes | None:
        """Return genes that make the network; None if it is not in the space."""
        if len(arch.stages) != len(self.reference.stages):
            return None
        found = []
        for own, wanted in zip(self.reference.stages, arch.stages, strict=True):
            options = itertools.product(*(range(len(values)) for _, values in self._searched))
            match = next((genes for genes in options if self._stage(own, genes) == wanted), None)
            if match is None:
                return None
            found.append(match)
        genes = tuple(found)
        return genes if self.build(genes).key() == arch.key() else None

    def _remembered(self, index: int, genes: tuple[int, ...]) -> tuple[Stage, tuple[int, ...]]:
        known = self._known[index]
        if genes not in known:
            stage = self._stage(self.reference.stages[index], genes)
            known[genes] = stage, self._first[index].setdefault(stage, genes)
        return known[genes]

    def _stage(self, own: Stage, genes: tuple[int, ...]) -> Stage:
        chosen: dict[str, Any] = {name: options[0] for name, options in self.choices._asdict().items()}
        chosen |= {name: options[index] for (name, options), index in zip(self._searched, genes, strict=True)}
        block, start = chosen["blocks"], chosen["start_kernels"] if chosen["blocks"] == "uib" else 0
        # A stride needs a depthwise convolution, so that without the first the middle one stays there.
        middle = block != "uib" or chosen["middles"] or (own.stride != 1 and not start)
        return own.model_copy(
            update={
                "block": block,
                "kernel": chosen["kernels"] if middle else 0,
                "start_kernel": start,
                "expand_ratio": chosen["expand_ratios"],
                "se_ratio": chosen["se_ratios"] if block == "mbconv" else 0.0,
                "skip": chosen["skips"],
                "channels": round_filters(own.channels, chosen["filters"], self.reference.channel_multiple),
                "repeats": max(1, own.repeats + chosen["depths"]),
            }
        )


def imagenet_space(choices: Choices | None = None) -> Space:
    """Return the space around MobileNetV2's filters and depths, which EfficientNet-B0 lies in."""
    b0 = zoo.get("efficientnet_b0")
    stages = tuple(
        stage.model_copy(update={"channels": filters, "repeats": depth})
        for stage, filters, depth in zip(b0.stages, _FILTERS, _DEPTHS, strict=True)
    )
    return Space(b0.model_copy(update={"name": "mnasnet_space", "stages": stages}), choices)
