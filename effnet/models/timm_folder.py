"""A folder that timm.create_model("local-dir:FOLDER", pretrained=True) loads, laid out as on the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from effnet.arch import zoo
from effnet.arch.spec import Architecture
from effnet.errors import ConfigError
from effnet.models.build import Network
from effnet.models.deployed import Metadata
from effnet.models.weights import WEIGHTS, save_weights
from effnet.store import publish

CONFIG, CARD = "config.json", "README.md"
_SIZES = (*zoo.EFFICIENTNET, *zoo.EFFICIENTNET_LITE)
# timm's name -> ours
NAMES = {
    **{f"tf_efficientnet_{size}": f"efficientnet_{size}" for size in _SIZES},
    **{f"efficientnet_{size}": f"efficientnet_{size}.timm" for size in _SIZES},
    "mobilenetv1_100": "mobilenet_v1.timm",
    "mobilenetv2_100": "mobilenet_v2.timm",
    "semnasnet_100": "mnasnet_a1.timm",
    "resnet50": "resnet50.timm",
    **{f"tf_efficientnetv2_{size}": f"efficientnet_v2_{size}" for size in zoo.EFFICIENTNET_V2},
    **{f"efficientnetv2_{size}": f"efficientnet_v2_{size}.timm" for size in zoo.EFFICIENTNET_V2},
    "mobilenetv4_conv_small": "mobilenet_v4_conv_small.timm",
    "mobilenetv4_conv_medium": "mobilenet_v4_conv_medium.timm",
}
_FRONT = """\
---
tags:
- image-classification
- timm
pipeline_tag: image-classification
library_name: timm
---
"""


class _Shape(NamedTuple):
    """What decides which numbers a network computes, whatever the side of its images."""

    in_channels: int
    stem: tuple[Any, ...]
    blocks: tuple[tuple[Any, ...], ...]
    head: tuple[int, bool]
    rules: tuple[Any, ...]


def timm_name(arch: Architecture) -> str:
    """Return timm's name for a network.

    Raises:
        ConfigError: if timm has none; its networks are the published ones.
    """
    shape = _shape(arch)
    found = next((theirs for theirs, ours in NAMES.items() if _shape(zoo.get(ours)) == shape), None)
    if found is None:
        raise ConfigError(
            f"timm has no network like {arch.name}: it has published sizes alone (efficientnet_b0 …), whatever the "
            "side and the classes; export it with --format onnx or torch"
        )
    return found


def save_timm(folder: Path, network: Network, metadata: Metadata, card: str) -> str:
    """Write model.safetensors, README.md (the card), and then config.json, which says that the folder is whole.

    Returns timm's name of the network; see `timm_name` for what is raised.
    """
    name = timm_name(network.architecture)
    save_weights(folder / WEIGHTS, network, "timm")
    publish(folder / CARD, f"{_FRONT}\n{card}".encode())
    content = json.dumps(timm_config(network, metadata, name), indent=2, ensure_ascii=False)
    publish(folder / CONFIG, content.encode() + b"\n")
    return name


def timm_config(network: Network, metadata: Metadata, name: str) -> dict[str, Any]:
    """Return config.json as timm 1.0 reads it (timm/models/_hub.py)."""
    arch, classes = network.architecture, network.classifier.out_features
    resnet = arch.stages[0].block == "bottleneck"
    return {
        "architecture": name,
        "num_classes": classes,
        "num_features": arch.stages[-1].channels if arch.head.pool_first else network.classifier.in_features,
        "label_names": list(metadata.classes),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [arch.in_channels, arch.resolution, arch.resolution],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": arch.resolution / (arch.resolution + metadata.crop_padding),
            "crop_mode": "center",
            "mean": [each / 255 for each in metadata.mean],
            "std": [each / 255 for each in metadata.std],
            "num_classes": classes,
            "pool_size": None,
            "first_conv": "conv1" if resnet else "conv_stem",
            "classifier": "fc" if resnet else "classifier",
        },
    }


def _shape(arch: Architecture) -> _Shape:
    blocks = tuple(
        (
            block.spec.block,
            block.spec.channels,
            block.spec.kernel,
            block.spec.start_kernel,
            block.stride,
            block.mid_channels,
            block.se_channels,
            block.residual,
        )
        for block in arch.blocks()
    )
    stem = (arch.stem.channels, arch.stem.kernel, arch.stem.stride, arch.stem.pool)
    rules = (arch.activation, arch.padding, arch.norm_epsilon)
    return _Shape(arch.in_channels, stem, blocks, (arch.head.channels, arch.head.pool_first), rules)
