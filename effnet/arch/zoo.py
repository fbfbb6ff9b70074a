"""Networks of the paper and its code, as data."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, NamedTuple

from effnet.arch.scaling import Multipliers, scale
from effnet.arch.spec import Architecture, Head, Stage, Stem
from effnet.errors import ConfigError


class Published(NamedTuple):
    """A row of the published table: not the equation at any φ (docs/paper.md says how far each row is from it)."""

    width: float
    depth: float
    resolution: int
    dropout: float


# tensorflow/tpu, models/official/efficientnet/efficientnet_builder.py, efficientnet_params
EFFICIENTNET = {
    "b0": Published(1.0, 1.0, 224, 0.2),
    "b1": Published(1.0, 1.1, 240, 0.2),
    "b2": Published(1.1, 1.2, 260, 0.3),
    "b3": Published(1.2, 1.4, 300, 0.3),
    "b4": Published(1.4, 1.8, 380, 0.4),
    "b5": Published(1.6, 2.2, 456, 0.4),
    "b6": Published(1.8, 2.6, 528, 0.5),
    "b7": Published(2.0, 3.1, 600, 0.5),
    "b8": Published(2.2, 3.6, 672, 0.5),
    "l2": Published(4.3, 5.3, 800, 0.5),
}

# tensorflow/tpu, models/official/efficientnet/lite/efficientnet_lite_builder.py
EFFICIENTNET_LITE = {
    "lite0": Published(1.0, 1.0, 224, 0.2),
    "lite1": Published(1.0, 1.1, 240, 0.2),
    "lite2": Published(1.1, 1.2, 260, 0.3),
    "lite3": Published(1.2, 1.4, 280, 0.3),
    "lite4": Published(1.4, 1.8, 300, 0.3),
}


def _mbconv(
    expand_ratio: int,
    kernel: int,
    channels: int,
    repeats: int,
    stride: int,
    se_ratio: float = 0.0,
    **other: Any,
) -> Stage:
    return Stage(
        channels=channels,
        repeats=repeats,
        kernel=kernel,
        stride=stride,
        expand_ratio=expand_ratio,
        se_ratio=se_ratio,
        **other,
    )


# Paper, table 1 (stage 6 at 14 x 14, as in version 5 and the code).
_B0_STAGES = (
    _mbconv(1, 3, 16, 1, 1, 0.25),
    _mbconv(6, 3, 24, 2, 2, 0.25),
    _mbconv(6, 5, 40, 2, 2, 0.25),
    _mbconv(6, 3, 80, 3, 2, 0.25),
    _mbconv(6, 5, 112, 3, 1, 0.25),
    _mbconv(6, 5, 192, 4, 2, 0.25),
    _mbconv(6, 3, 320, 1, 1, 0.25),
)

EFFICIENTNET_B0 = Architecture(
    name="efficientnet_b0",
    resolution=224,
    stem=Stem(channels=32),
    stages=_B0_STAGES,
    head=Head(channels=1280),
)

EFFICIENTNET_LITE0 = Architecture(
    name="efficientnet_lite0",
    resolution=224,
    stem=Stem(channels=32, scale_width=False),
    stages=tuple(
        stage.model_copy(update={"se_ratio": 0.0, "scale_depth": 0 < index < len(_B0_STAGES) - 1})
        for index, stage in enumerate(_B0_STAGES)
    ),
    head=Head(channels=1280, scale_width=False),
    activation="relu6",
    pixel_mean=(127.0, 127.0, 127.0),
    pixel_std=(128.0, 128.0, 128.0),
)

# MobileNets (arXiv 1704.04861), table 1.
MOBILENET_V1 = Architecture(
    name="mobilenet_v1",
    resolution=224,
    stem=Stem(channels=32),
    stages=(
        Stage(block="separable", channels=64, repeats=1),
        Stage(block="separable", channels=128, repeats=2, stride=2),
        Stage(block="separable", channels=256, repeats=2, stride=2),
        Stage(block="separable", channels=512, repeats=6, stride=2),
        Stage(block="separable", channels=1024, repeats=2, stride=2),
    ),
    head=Head(dropout=0.001),
    activation="relu6",
    stochastic_depth=0.0,
)

# MobileNetV2 (arXiv 1801.04381), table 2.
MOBILENET_V2 = Architecture(
    name="mobilenet_v2",
    resolution=224,
    stem=Stem(channels=32),
    stages=(
        _mbconv(1, 3, 16, 1, 1),
        _mbconv(6, 3, 24, 2, 2),
        _mbconv(6, 3, 32, 3, 2),
        _mbconv(6, 3, 64, 4, 2),
        _mbconv(6, 3, 96, 3, 1),
        _mbconv(6, 3, 160, 3, 2),
        _mbconv(6, 3, 320, 1, 1),
    ),
    head=Head(channels=1280),
    activation="relu6",
    stochastic_depth=0.0,
)

# Deep residual learning (arXiv 1512.03385), table 1, with the stride in the 3x3 convolution ("v1.5").
RESNET_50 = Architecture(
    name="resnet50",
    resolution=224,
    stem=Stem(channels=64, kernel=7, pool=True),
    stages=tuple(
        Stage(block="bottleneck", channels=channels, repeats=repeats, stride=stride, expand_ratio=4)
        for channels, repeats, stride in ((256, 3, 1), (512, 4, 2), (1024, 6, 2), (2048, 3, 2))
    ),
    head=Head(dropout=0.0),
    activation="relu",
    padding="symmetric",
    norm_epsilon=1e-5,
    norm_momentum=0.1,
    stochastic_depth=0.0,
    initialization="kaiming",
)

# MnasNet (arXiv 1807.11626), figure 7; block strings of tensorflow/tpu, models/official/mnasnet/mnasnet_models.py.
MNASNET_A1 = Architecture(
    name="mnasnet_a1",
    resolution=224,
    stem=Stem(channels=32),
    stages=(
        _mbconv(1, 3, 16, 1, 1, skip=False),
        _mbconv(6, 3, 24, 2, 2),
        _mbconv(3, 5, 40, 3, 2, 0.25),
        _mbconv(6, 3, 80, 4, 2),
        _mbconv(6, 3, 112, 2, 1, 0.25),
        _mbconv(6, 5, 160, 3, 2, 0.25),
        _mbconv(6, 3, 320, 1, 1),
    ),
    head=Head(channels=1280),
    activation="relu",
    stochastic_depth=0.0,
)


def _v2(size: str, resolution: int, dropout: float, stem: int, stages: tuple[Stage, ...]) -> Architecture:
    """Return an EfficientNetV2 (arXiv 2104.00298) as its code has it.

    Source: google/automl, efficientnetv2/effnetv2_configs.py and hparams.py.

    Args:
        size: `s`, `m` or `l`.
        resolution: of evaluation; training starts with smaller images there.
        dropout: before the classifier.
        stem: its channels.
        stages: from the first on.
    """
    return Architecture(
        name=f"efficientnet_v2_{size}",
        resolution=resolution,
        stem=Stem(channels=stem),
        stages=stages,
        head=Head(channels=1280, dropout=dropout),
        norm_momentum=0.1,
        pixel_mean=(128.0, 128.0, 128.0),
        pixel_std=(128.0, 128.0, 128.0),
    )


def _fused(expand_ratio: int, kernel: int, channels: int, repeats: int, stride: int, **other: Any) -> Stage:
    return _mbconv(expand_ratio, kernel, channels, repeats, stride, block="fused_mbconv", **other)


EFFICIENTNET_V2 = {
    "s": _v2(
        "s",
        384,
        0.2,
        24,
        (
            _fused(1, 3, 24, 2, 1),
            _fused(4, 3, 48, 4, 2),
            _fused(4, 3, 64, 4, 2),
            _mbconv(4, 3, 128, 6, 2, 0.25),
            _mbconv(6, 3, 160, 9, 1, 0.25),
            _mbconv(6, 3, 256, 15, 2, 0.25),
        ),
    ),
    "m": _v2(
        "m",
        480,
        0.3,
        24,
        (
            _fused(1, 3, 24, 3, 1),
            _fused(4, 3, 48, 5, 2),
            _fused(4, 3, 80, 5, 2),
            _mbconv(4, 3, 160, 7, 2, 0.25),
            _mbconv(6, 3, 176, 14, 1, 0.25),
            _mbconv(6, 3, 304, 18, 2, 0.25),
            _mbconv(6, 3, 512, 5, 1, 0.25),
        ),
    ),
    "l": _v2(
        "l",
        480,
        0.4,
        32,
        (
            _fused(1, 3, 32, 4, 1),
            _fused(4, 3, 64, 7, 2),
            _fused(4, 3, 96, 7, 2),
            _mbconv(4, 3, 192, 10, 2, 0.25),
            _mbconv(6, 3, 224, 19, 1, 0.25),
            _mbconv(6, 3, 384, 25, 2, 0.25),
            _mbconv(6, 3, 640, 7, 1, 0.25),
        ),
    ),
}


def _conv(kernel: int, channels: int, stride: int) -> Stage:
    """Return a plain convolution, with norm and activation, as a stage that stays single when a network gets deeper."""
    return _fused(1, kernel, channels, 1, stride, skip=False, scale_depth=False)


def _uib(start: int, middle: int, channels: int, stride: int, expand_ratio: int, repeats: int = 1) -> Stage:
    return _mbconv(expand_ratio, middle, channels, repeats, stride, block="uib", start_kernel=start)


def _mobilenet_v4(
    size: str, resolution: int, dropout: float, stochastic_depth: float, stages: tuple[Stage, ...]
) -> Architecture:
    """Return a MobileNetV4 of convolutions alone (arXiv 2404.10518).

    Source: tensorflow/models, official/vision/modeling/backbones/mobilenet.py, and the two configurations
    imagenet_mobilenetv4_conv_*_tpu.yaml. Nearly all stages are a single block: rounded up, any deeper network would
    have twice as many.
    """
    return Architecture(
        name=f"mobilenet_v4_conv_{size}",
        resolution=resolution,
        stem=Stem(channels=32),
        stages=(*stages, _conv(1, 960, 1)),
        head=Head(channels=1280, dropout=dropout, pool_first=True),
        activation="relu",
        stochastic_depth=stochastic_depth,
        depth_rounding="nearest",
    )


MOBILENET_V4_CONV_SMALL = _mobilenet_v4(
    "small",
    224,
    0.3,
    0.0,
    (
        _conv(3, 32, 2),
        _conv(1, 32, 1),
        _conv(3, 96, 2),
        _conv(1, 64, 1),
        _uib(5, 5, 96, 2, 3),
        _uib(0, 3, 96, 1, 2, repeats=4),
        _uib(3, 0, 96, 1, 4),
        _uib(3, 3, 128, 2, 6),
        _uib(5, 5, 128, 1, 4),
        _uib(0, 5, 128, 1, 4),
        _uib(0, 5, 128, 1, 3),
        _uib(0, 3, 128, 1, 4, repeats=2),
    ),
)

MOBILENET_V4_CONV_MEDIUM = _mobilenet_v4(
    "medium",
    256,
    0.2,
    0.075,
    (
        _fused(4, 3, 48, 1, 2),
        _uib(3, 5, 80, 2, 4),
        _uib(3, 3, 80, 1, 2),
        _uib(3, 5, 160, 2, 6),
        _uib(3, 3, 160, 1, 4, repeats=2),
        _uib(3, 5, 160, 1, 4),
        _uib(3, 3, 160, 1, 4),
        _uib(3, 0, 160, 1, 4),
        _uib(0, 0, 160, 1, 2),
        _uib(3, 0, 160, 1, 4),
        _uib(5, 5, 256, 2, 6),
        _uib(5, 5, 256, 1, 4),
        _uib(3, 5, 256, 1, 4, repeats=2),
        _uib(0, 0, 256, 1, 4),
        _uib(3, 0, 256, 1, 4),
        _uib(3, 5, 256, 1, 2),
        _uib(5, 5, 256, 1, 4),
        _uib(0, 0, 256, 1, 4, repeats=2),
        _uib(5, 0, 256, 1, 2),
    ),
)

_BASELINES = {
    arch.name: arch
    for arch in (
        *EFFICIENTNET_V2.values(),
        MOBILENET_V1,
        MOBILENET_V2,
        MOBILENET_V4_CONV_SMALL,
        MOBILENET_V4_CONV_MEDIUM,
        RESNET_50,
        MNASNET_A1,
    )
}

# What other code bases compute differently under the same name; docs/paper.md lists the differences. A dot and the
# code base's name after a network's name asks for its version: efficientnet_b0.timm.
_PYTORCH_NORM: dict[str, Any] = {"padding": "symmetric", "norm_epsilon": 1e-5, "norm_momentum": 0.1}
_IMAGENET_PIXELS: dict[str, Any] = {"pixel_mean": (123.675, 116.28, 103.53), "pixel_std": (58.395, 57.12, 57.375)}
VARIANTS: dict[str, dict[str, Any]] = {
    "timm": _PYTORCH_NORM | _IMAGENET_PIXELS,
    "torchvision": _PYTORCH_NORM | _IMAGENET_PIXELS | {"initialization": "kaiming"},
}
_V2_NAMES = tuple(arch.name for arch in EFFICIENTNET_V2.values())
_TORCHVISION = (*(f"efficientnet_b{number}" for number in range(8)), *_V2_NAMES, "mobilenet_v2", "resnet50")
# Symmetric padding all the same.
_TORCHVISION_TF_NORM = ("efficientnet_b5", "efficientnet_b6", "efficientnet_b7", *_V2_NAMES)
_TORCHVISION_HALF_PIXELS = ("efficientnet_v2_l",)  # (x - 127.5) / 127.5


def names() -> tuple[str, ...]:
    """Return the name of every network that `get` knows, without the variants of other code bases."""
    published = (f"efficientnet_{suffix}" for suffix in (*EFFICIENTNET, *EFFICIENTNET_LITE))
    return (*published, *_BASELINES)


def find(name: str, base: Path = Path()) -> Architecture:
    """Return a network by name, or the one that an architecture file (.yaml, .yml or .json) below `base` describes.

    Raises:
        ConfigError: see `get`, and `Architecture.load`.
    """
    return Architecture.load(base / name) if name.endswith((".json", ".yaml", ".yml")) else get(name)


def get(name: str) -> Architecture:
    """Return a network by name: one of `names()`, as the official code computes it.

    `NAME.timm` and `NAME.torchvision` are the same network as those libraries compute it.

    Raises:
        ConfigError: for a name that is not known; the message suggests the closest.
    """
    plain, _, variant = name.partition(".")
    if variant:
        return _variant(get(plain), variant)
    if name in _BASELINES:
        return _BASELINES[name]
    suffix = name.removeprefix("efficientnet_")
    if name.startswith("efficientnet_") and suffix in EFFICIENTNET:
        return _published(EFFICIENTNET_B0, EFFICIENTNET[suffix], name)
    if name.startswith("efficientnet_") and suffix in EFFICIENTNET_LITE:
        return _published(EFFICIENTNET_LITE0, EFFICIENTNET_LITE[suffix], name)
    close = difflib.get_close_matches(name, names(), n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names())}"
    raise ConfigError(f"no network is called '{name}'; {hint}")


def _published(baseline: Architecture, row: Published, name: str) -> Architecture:
    multipliers = Multipliers(depth=row.depth, width=row.width)
    return scale(baseline, multipliers, resolution=row.resolution, dropout=row.dropout, name=name)


def _variant(arch: Architecture, variant: str) -> Architecture:
    if variant not in VARIANTS:
        raise ConfigError(f"no variant of {arch.name} is called '{variant}'; known: {', '.join(VARIANTS)}")
    if variant == "torchvision" and arch.name not in _TORCHVISION:
        raise ConfigError(f"torchvision has no {arch.name}; it has {', '.join(_TORCHVISION)}")
    changes = {"name": f"{arch.name}.{variant}", **VARIANTS[variant]}
    if variant == "torchvision" and arch.name in _TORCHVISION_TF_NORM:
        changes |= {"norm_epsilon": arch.norm_epsilon, "norm_momentum": arch.norm_momentum}
    if variant == "torchvision" and arch.name in _TORCHVISION_HALF_PIXELS:
        changes |= {"pixel_mean": (127.5, 127.5, 127.5), "pixel_std": (127.5, 127.5, 127.5)}
    return arch.model_copy(update=changes)
