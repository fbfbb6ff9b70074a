"""A network in words and numbers: what `effnet describe` shows (paper, table 1)."""

from __future__ import annotations

from typing import Any

from effnet.arch.cost import Cost, count_parts
from effnet.arch.spec import Architecture, Stage, out_size

# What MobileNetV4 calls a universal inverted bottleneck with depthwise convolutions: at the start, in the middle
_UIB = {(False, True): "IB", (True, True): "ExtraDW", (True, False): "ConvNext", (False, False): "FFN"}


def describe(arch: Architecture, num_classes: int = 1000) -> dict[str, Any]:
    """Return the network's parts with their cost, as plain data.

    `stem`, each of `stages` and `head` have operator, input resolution (pixels of one side), stride, output channels,
    repeats and their own params, macs and activations, which add up to the network's.
    """
    costs = count_parts(arch, num_classes)
    total = Cost(*(sum(column) for column in zip(costs.stem, costs.head, *costs.stages, strict=True)))
    stem, size = arch.stem, arch.stem_size()
    pool = ", max pool 3×3 /2" if stem.pool else ""
    stages = []
    first = _part(f"conv {stem.kernel}×{stem.kernel}{pool}", arch.resolution, stem.stride, stem.channels, 1, costs.stem)
    for stage, cost in zip(arch.stages, costs.stages, strict=True):
        part = _part(operator(stage), size, stage.stride, stage.channels, stage.repeats, cost)
        shown = {"block", "kernel", "expand_ratio", "se_ratio"} | ({"start_kernel"} if stage.block == "uib" else set())
        stages.append(part | stage.model_dump(include=shown))
        size = out_size(size, stage.stride)
    conv = ["conv 1×1"] if arch.head.channels else []
    order = ["pool", *conv] if arch.head.pool_first else [*conv, "pool"]
    last = _part(", ".join((*order, "classifier")), size, 1, arch.head.channels, 1, costs.head)
    return {
        "name": arch.name,
        "resolution": arch.resolution,
        **total._asdict(),
        "num_classes": num_classes,
        "key": arch.key(),
        "stem": first,
        "stages": stages,
        "head": last,
    }


def operator(stage: Stage) -> str:
    """Return a stage's operator as its paper writes it: MBConv6 5×5, SE 0.25; Fused-MBConv4 3×3; ExtraDW4 3×3, 5×5."""
    kernel = f"{stage.kernel}×{stage.kernel}"
    if stage.block == "fused_mbconv":
        convolution = stage.expand_ratio == 1 and not stage.skip
        return f"conv {kernel}" if convolution else f"Fused-MBConv{stage.expand_ratio} {kernel}"
    if stage.block == "uib":
        kernels = [f"{each}×{each}" for each in (stage.start_kernel, stage.kernel) if each]
        name = _UIB[bool(stage.start_kernel), bool(stage.kernel)]
        return f"{name}{stage.expand_ratio} {', '.join(kernels)}".rstrip()
    if stage.block == "mbconv":
        return f"MBConv{stage.expand_ratio} {kernel}" + (f", SE {stage.se_ratio:g}" if stage.se_ratio else "")
    return f"{stage.block} {kernel}"


def _part(operator: str, resolution: int, stride: int, channels: int, repeats: int, cost: Cost) -> dict[str, Any]:
    return {
        "operator": operator,
        "resolution": resolution,
        "stride": stride,
        "channels": channels,
        "repeats": repeats,
        **cost._asdict(),
    }
