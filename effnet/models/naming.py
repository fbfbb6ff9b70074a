"""What other code bases call the tensors of the same network.

A naming maps our module paths to theirs; the tensors inside a module (weight, bias, running_mean, ...) are called the
same everywhere. Sources: timm 1.0 (timm/models/_efficientnet_blocks.py, resnet.py), torchvision 0.29
(torchvision/models/efficientnet.py, mobilenetv2.py, resnet.py), lukemelas/EfficientNet-PyTorch (model.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from effnet.arch.spec import Architecture, Block

OWN = "effnet"

# our module path -> their module path
_Modules: TypeAlias = dict[str, str]


def modules(arch: Architecture, naming: str) -> _Modules | None:
    """Return their path for every module of ours that holds tensors; None if the code base has no such network."""
    return _NAMINGS[naming](arch)


def known() -> tuple[str, ...]:
    """Return the name of every naming but our own."""
    return tuple(_NAMINGS)


def _pair(ours: str, conv: str, norm: str) -> _Modules:
    """Name a convolution and its norm."""
    return {f"{ours}.conv": conv, f"{ours}.norm": norm}


def _kinds(arch: Architecture) -> set[str]:
    return {stage.block for stage in arch.stages}


def _positions(arch: Architecture) -> list[tuple[int, int, Block]]:
    """Return (stage, position in the stage, block) of every block, counted from 0."""
    seen: dict[int, int] = {}
    positions = []
    for block in arch.blocks():
        positions.append((block.stage, seen.get(block.stage, 0), block))
        seen[block.stage] = seen.get(block.stage, 0) + 1
    return positions


def _timm(arch: Architecture) -> _Modules | None:
    if _kinds(arch) == {"bottleneck"}:
        return _resnet(arch)
    # A head that pools first is that of MobileNetV4, which has universal inverted bottlenecks.
    if "bottleneck" in _kinds(arch) or arch.head.pool_first != ("uib" in _kinds(arch)):
        return None
    names = _pair("stem.conv", "conv_stem", "bn1") | {"classifier": "classifier"}
    for index, (stage, position, block) in enumerate(_timm_positions(arch)):
        ours, theirs = f"blocks.{index}.branch", f"blocks.{stage}.{position}"
        if block.spec.block == "fused_mbconv":
            names |= _timm_fused(ours, theirs, block)
        elif block.spec.block == "uib":
            names |= _timm_uib(ours, theirs, block)
        elif block.spec.block == "mbconv" and block.spec.expand_ratio != 1:
            names |= _pair(f"{ours}.expand", f"{theirs}.conv_pw", f"{theirs}.bn1")
            names |= _pair(f"{ours}.depthwise", f"{theirs}.conv_dw", f"{theirs}.bn2")
            names |= _pair(f"{ours}.project", f"{theirs}.conv_pwl", f"{theirs}.bn3")
        else:
            last = "pointwise" if block.spec.block == "separable" else "project"
            names |= _pair(f"{ours}.depthwise", f"{theirs}.conv_dw", f"{theirs}.bn1")
            names |= _pair(f"{ours}.{last}", f"{theirs}.conv_pw", f"{theirs}.bn2")
        if block.se_channels:
            names[f"{ours}.squeeze_excite.reduce"] = f"{theirs}.se.conv_reduce"
            names[f"{ours}.squeeze_excite.expand"] = f"{theirs}.se.conv_expand"
    if arch.head.channels:
        names |= _pair("head", "conv_head", "norm_head" if arch.head.pool_first else "bn2")
    return names


def _timm_positions(arch: Architecture) -> list[tuple[int, int, Block]]:
    """Return what `_positions` does by timm's stages: MobileNetV4's begin where images get smaller or the kind changes.

    Each of our stages has equal blocks, so that there they are more.
    """
    if "uib" not in _kinds(arch):
        return _positions(arch)
    found: list[tuple[int, int, Block]] = []
    for block in arch.blocks():
        if not found:
            found.append((0, 0, block))
            continue
        stage, position, last = found[-1]
        begins = block.stride != 1 or block.spec.block != last.spec.block
        found.append((stage + 1, 0, block) if begins else (stage, position + 1, block))
    return found


def _timm_fused(ours: str, theirs: str, block: Block) -> _Modules:
    if block.spec.expand_ratio == 1:
        return _pair(f"{ours}.project", f"{theirs}.conv", f"{theirs}.bn1")
    return _pair(f"{ours}.expand", f"{theirs}.conv_exp", f"{theirs}.bn1") | _pair(
        f"{ours}.project", f"{theirs}.conv_pwl", f"{theirs}.bn2"
    )


def _timm_uib(ours: str, theirs: str, block: Block) -> _Modules:
    there = {"start": block.spec.start_kernel, "expand": 1, "depthwise": block.spec.kernel, "project": 1}
    called = {"start": "dw_start", "expand": "pw_exp", "depthwise": "dw_mid", "project": "pw_proj"}
    names: _Modules = {}
    for part in (part for part, kernel in there.items() if kernel):
        names |= _pair(f"{ours}.{part}", f"{theirs}.{called[part]}.conv", f"{theirs}.{called[part]}.bn")
    return names


def _resnet(arch: Architecture) -> _Modules | None:
    """Name a ResNet; timm and torchvision agree."""
    if arch.head.channels or not all(block.residual for block in arch.blocks()):
        return None
    names = _pair("stem.conv", "conv1", "bn1") | {"classifier": "fc"}
    for index, (stage, position, block) in enumerate(_positions(arch)):
        ours, theirs = f"blocks.{index}", f"layer{stage + 1}.{position}"
        for number, part in enumerate(("reduce", "spatial", "expand"), start=1):
            names |= _pair(f"{ours}.branch.{part}", f"{theirs}.conv{number}", f"{theirs}.bn{number}")
        if block.stride != 1 or block.in_channels != block.spec.channels:
            names |= _pair(f"{ours}.shortcut", f"{theirs}.downsample.0", f"{theirs}.downsample.1")
    return names


def _torchvision(arch: Architecture) -> _Modules | None:
    kinds = _kinds(arch)
    if kinds == {"bottleneck"}:
        return _resnet(arch)
    if not kinds <= {"mbconv", "fused_mbconv"} or not arch.head.channels or arch.head.pool_first:
        return None
    squeezed = [bool(stage.se_ratio) for stage in arch.stages if stage.block == "mbconv"]
    if all(squeezed):
        return _torchvision_efficientnet(arch)
    if "fused_mbconv" in kinds:
        return None
    return None if any(squeezed) else _torchvision_mobilenet(arch)


def _parts(block: Block) -> tuple[str, ...]:
    """Return the parts of an mbconv, fused or not, in the order they run in."""
    if block.spec.block == "fused_mbconv":
        return ("project",) if block.spec.expand_ratio == 1 else ("expand", "project")
    return (
        *(("expand",) if block.spec.expand_ratio != 1 else ()),
        "depthwise",
        *(("squeeze_excite",) if block.se_channels else ()),
        "project",
    )


def _torchvision_efficientnet(arch: Architecture) -> _Modules:
    names = _pair("stem.conv", "features.0.0", "features.0.1") | {"classifier": "classifier.1"}
    for index, (stage, position, block) in enumerate(_positions(arch)):
        for number, part in enumerate(_parts(block)):
            ours, theirs = f"blocks.{index}.branch.{part}", f"features.{stage + 1}.{position}.block.{number}"
            if part == "squeeze_excite":
                names |= {f"{ours}.reduce": f"{theirs}.fc1", f"{ours}.expand": f"{theirs}.fc2"}
            else:
                names |= _pair(ours, f"{theirs}.0", f"{theirs}.1")
    last = f"features.{len(arch.stages) + 1}"
    return names | _pair("head", f"{last}.0", f"{last}.1")


def _torchvision_mobilenet(arch: Architecture) -> _Modules:
    names = _pair("stem.conv", "features.0.0", "features.0.1") | {"classifier": "classifier.1"}
    for index, block in enumerate(arch.blocks()):
        parts, theirs = _parts(block), f"features.{index + 1}.conv"
        for number, part in enumerate(parts):
            ours = f"blocks.{index}.branch.{part}"
            if part == "project":  # its convolution and norm are not wrapped
                names |= _pair(ours, f"{theirs}.{number}", f"{theirs}.{number + 1}")
            else:
                names |= _pair(ours, f"{theirs}.{number}.0", f"{theirs}.{number}.1")
    last = f"features.{arch.num_blocks + 1}"
    return names | _pair("head", f"{last}.0", f"{last}.1")


def _lukemelas(arch: Architecture) -> _Modules | None:
    if _kinds(arch) != {"mbconv"} or not arch.head.channels or arch.head.pool_first:
        return None
    names = _pair("stem.conv", "_conv_stem", "_bn0") | _pair("head", "_conv_head", "_bn1") | {"classifier": "_fc"}
    for index, block in enumerate(arch.blocks()):
        ours, theirs = f"blocks.{index}.branch", f"_blocks.{index}"
        if block.spec.expand_ratio != 1:
            names |= _pair(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        names |= _pair(f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        names |= _pair(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
        if block.se_channels:
            names[f"{ours}.squeeze_excite.reduce"] = f"{theirs}._se_reduce"
            names[f"{ours}.squeeze_excite.expand"] = f"{theirs}._se_expand"
    return names


_NAMINGS: dict[str, Callable[[Architecture], _Modules | None]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "lukemelas": _lukemelas,
}
