"""Networks as frozen values.

An `Architecture` holds everything that decides what a network computes and what it costs, except the number of classes.
`effnet.arch.scaling` turns one into another, `effnet.arch.cost` prices it, `effnet.models.build` makes the module.

The fields' defaults are those of the official EfficientNet code
(tensorflow/tpu, models/official/efficientnet/efficientnet_builder.py and efficientnet_model.py).
"""

from __future__ import annotations

import functools
from numbers import Integral  # includes numpy's integers
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from effnet.errors import ConfigError
from effnet.store import digest
from effnet.values import Value, read_mapping

MAX_CHANNELS, MAX_REPEATS, MAX_RESOLUTION = 65_536, 1_000, 4_096  # no network is this large; mistakes are
Channels = Annotated[int, Field(ge=1, le=MAX_CHANNELS)]
Kernel = Literal[1, 3, 5, 7, 9, 11]
StageKernel = Literal[0, 1, 3, 5, 7, 9, 11]
Stride = Literal[1, 2, 4]
PixelStd = Annotated[float, Field(gt=0)]


class Stem(Value):
    """The first convolution, with norm and activation, and an optional 3x3 stride-2 max pooling."""

    channels: Channels
    kernel: Kernel = 3
    stride: Stride = 2
    pool: bool = False
    scale_width: bool = True  # False: width scaling leaves it alone (EfficientNet-Lite)


class Stage(Value):
    """`repeats` equal blocks; the first one carries the stride and the change of channels.

    Blocks:

    - `mbconv`: MobileNetV2's inverted residual, with squeeze-and-excitation if `se_ratio` > 0.
    - `fused_mbconv`: one full convolution in place of its expansion and depthwise convolution, then the projection;
      with `expand_ratio` 1 that convolution alone, with an activation (EfficientNetV2, arXiv 2104.00298).
    - `uib`: universal inverted bottleneck (MobileNetV4, arXiv 2404.10518): expansion and projection, with a depthwise
      convolution before them (`start_kernel`), between them (`kernel`), at both places or at none. The stride is in the
      middle one, or else in the first.
    - `separable`: MobileNetV1's depthwise and pointwise pair.
    - `bottleneck`: ResNet v1.5; the stride is in the middle convolution, whose width is `channels` / `expand_ratio`.
    """

    block: Literal["mbconv", "fused_mbconv", "uib", "separable", "bottleneck"] = "mbconv"
    channels: Channels
    repeats: Annotated[int, Field(ge=1, le=MAX_REPEATS)]
    kernel: StageKernel = 3  # 0: none, in a uib alone
    start_kernel: StageKernel = 0  # of a uib
    stride: Stride = 1
    expand_ratio: Annotated[int, Field(ge=1, le=16)] = 1
    se_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    skip: bool = True  # False: no residual connection, whatever the shapes
    scale_depth: bool = True  # False: depth scaling leaves it alone (first and last stage of EfficientNet-Lite)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.block != "mbconv" and self.se_ratio:
            raise ValueError(f"se_ratio: a {self.block} block has no squeeze-and-excitation; only mbconv has")
        if self.block != "uib" and (self.start_kernel or not self.kernel):
            label = "start_kernel" if self.start_kernel else "kernel: 0"
            raise ValueError(f"{label}: a {self.block} block has one kernel; only uib has two, or fewer")
        if self.block == "uib" and self.stride != 1 and not (self.start_kernel or self.kernel):
            raise ValueError(f"stride: a uib without depthwise convolutions cannot have one (got {self.stride})")
        if self.block == "separable" and self.expand_ratio != 1:
            raise ValueError(
                f"expand_ratio: must be 1 in a separable block, which has no expansion (got {self.expand_ratio})"
            )
        if self.block == "bottleneck" and self.channels % self.expand_ratio:
            raise ValueError(f"a bottleneck's channels ({self.channels}) must be a multiple of its expand_ratio")
        return self


class Head(Value):
    """What follows the last stage: an optional 1x1 convolution, global average pooling, dropout, the classifier."""

    channels: Annotated[int, Field(ge=0, le=MAX_CHANNELS)] = 0  # 0: no convolution
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    scale_width: bool = True
    pool_first: bool = False  # True: the convolution, its norm and activation come after pooling (MobileNetV4)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.pool_first and not self.channels:
            raise ValueError("pool_first: without channels there is no convolution that could follow pooling")
        return self


class Block(NamedTuple):
    """One block with every number worked out, as `build` and the tests see it."""

    stage: int
    spec: Stage
    in_channels: int
    mid_channels: int
    se_channels: int  # 0: no squeeze-and-excitation
    stride: int
    in_size: int  # pixels of one side of the square input
    residual: bool
    drop_rate: float  # stochastic depth: chance that the residual branch is dropped for a sample


class Architecture(Value):
    """A network as a value: hashable, comparable by `key()`, to and from JSON."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=80)]  # a label; not in key()
    resolution: Annotated[int, Field(ge=1, le=MAX_RESOLUTION)]  # pixels of one side of the square input
    stem: Stem
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=64)]
    head: Head = Head()
    in_channels: Annotated[int, Field(ge=1, le=64)] = 3
    activation: Literal["silu", "relu", "relu6"] = "silu"
    padding: Literal["same", "symmetric"] = "same"  # TensorFlow's SAME, or k // 2 on every side
    norm_epsilon: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.01  # PyTorch's sense: weight of the new batch
    se_base: Literal["input", "expanded"] = "input"  # the filters that se_ratio is a fraction of
    stochastic_depth: Annotated[float, Field(ge=0, lt=1)] = 0.2  # rate at which residual branches are dropped
    # How the rate is spread over blocks i = 0 .. N-1: i / N of it (official code), (i + 1) / N (arXiv 1603.09382,
    # equation 4), or all of it.
    stochastic_depth_rule: Literal["linear", "linear_to_last", "constant"] = "linear"
    initialization: Literal["tensorflow", "kaiming"] = "tensorflow"
    channel_multiple: Annotated[int, Field(ge=1, le=256)] = 8  # width scaling rounds filters to this
    # Depth scaling rounds a stage's repeats up (official code), or to the nearest (pycls), never below one.
    depth_rounding: Literal["up", "nearest"] = "up"
    # What pixels (0..255) are normalised by, one number per input channel or one for all
    pixel_mean: Annotated[tuple[float, ...], Field(min_length=1, max_length=64)] = (123.675, 116.28, 103.53)
    pixel_std: Annotated[tuple[PixelStd, ...], Field(min_length=1, max_length=64)] = (58.395, 57.12, 57.375)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for label, numbers in (("pixel_mean", self.pixel_mean), ("pixel_std", self.pixel_std)):
            if len(numbers) not in (1, self.in_channels):
                raise ValueError(
                    f"{label} has {len(numbers)} numbers for {self.in_channels} input channels; "
                    "give one per channel, or one for all"
                )
        if self.resolution < self.total_stride:
            raise ValueError(
                f"resolution {self.resolution} is below the network's total stride {self.total_stride}; "
                "raise it or lower the strides"
            )
        return self

    @property
    def total_stride(self) -> int:
        """Input pixels per pixel of the last feature map."""
        stride = self.stem.stride * (2 if self.stem.pool else 1)
        for stage in self.stages:
            stride *= stage.stride
        return stride

    @property
    def num_blocks(self) -> int:
        """Blocks in all stages together."""
        return sum(stage.repeats for stage in self.stages)

    def key(self) -> str:
        """Return the sha256 (64 hex digits) of the canonical JSON without the name: equal for equal networks."""
        return _key(self)

    def blocks(self) -> tuple[Block, ...]:
        """Return every block with its shapes, in order."""
        blocks: list[Block] = []
        num_blocks = self.num_blocks
        channels, size = self.stem.channels, self.stem_size()
        for index, stage in enumerate(self.stages):
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                residual = stage.skip and _has_residual(stage, stride, channels)
                drop_rate = self.stochastic_depth * self._drop_share(len(blocks), num_blocks) if residual else 0.0
                blocks.append(
                    Block(
                        stage=index,
                        spec=stage,
                        in_channels=channels,
                        mid_channels=mid_channels(stage, channels),
                        se_channels=se_channels(stage, channels, self.se_base),
                        stride=stride,
                        in_size=size,
                        residual=residual,
                        drop_rate=drop_rate,
                    )
                )
                channels, size = stage.channels, out_size(size, stride)
        return tuple(blocks)

    def _drop_share(self, index: int, num_blocks: int) -> float:
        if self.stochastic_depth_rule == "constant":
            return 1.0
        return (index + (self.stochastic_depth_rule == "linear_to_last")) / num_blocks

    def stem_size(self) -> int:
        """Return the side of the feature map that enters the first stage."""
        size = out_size(self.resolution, self.stem.stride)
        return out_size(size, 2) if self.stem.pool else size

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an architecture from a JSON or YAML file; raise ConfigError in one line if it is not one."""
        return cls.parse(read_mapping(path), str(path))


def check_architecture(given: object) -> None:
    """Raise ConfigError in one line if a caller passed something other than an Architecture."""
    if not isinstance(given, Architecture):
        raise ConfigError(
            "expected an Architecture, as zoo.get('efficientnet_b0') or Architecture.load(path) returns "
            f"(got {given!r:.50})"
        )


def check_classes(num_classes: object) -> None:
    """Raise ConfigError in one line if `num_classes` is not a valid number of classes."""
    if isinstance(num_classes, bool) or not isinstance(num_classes, Integral) or num_classes < 1:
        raise ConfigError(f"num_classes must be a whole number of at least 1 (got {num_classes!r:.60})")


def out_size(size: int, stride: int) -> int:
    """Return ceil(size / stride): what SAME padding and k // 2 padding with an odd kernel both give."""
    return -(-size // stride)


def mid_channels(stage: Stage, in_channels: int) -> int:
    """Return the channels between a block's first and last convolution."""
    if stage.block == "separable":
        return in_channels
    if stage.block == "bottleneck":
        return stage.channels // stage.expand_ratio
    return in_channels * stage.expand_ratio


def se_channels(stage: Stage, in_channels: int, base: str) -> int:
    """Return the squeezed channels; 0 without squeeze-and-excitation (official code: max(1, int(base * ratio)))."""
    if not stage.se_ratio:
        return 0
    return max(1, int((in_channels if base == "input" else mid_channels(stage, in_channels)) * stage.se_ratio))


def _has_residual(stage: Stage, stride: int, in_channels: int) -> bool:
    if stage.block == "separable":
        return False
    # A bottleneck always has one: where shapes differ a 1x1 convolution projects the shortcut.
    return stage.block == "bottleneck" or (stride == 1 and in_channels == stage.channels)


@functools.lru_cache(maxsize=4096)
def _key(arch: Architecture) -> str:
    data = arch.model_dump(mode="json", exclude={"name"})
    # Fields that came later are left out where they change nothing: keys of earlier runs stay.
    if arch.depth_rounding == "up":
        del data["depth_rounding"]
    if not arch.head.pool_first:
        del data["head"]["pool_first"]
    for stage in data["stages"]:
        if not stage["start_kernel"]:
            del stage["start_kernel"]
    return digest(data)
