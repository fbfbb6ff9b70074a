"""Learned and random augmentation over a batch: AutoAugment, RandAugment, random erasing, mixup, cutmix.

Every sample has its own policy. Randomness is keyed by (seed, epoch, sample), so a sample's result depends neither on
its batch nor on ranks or workers; the pairs of mixup and cutmix are keyed by (seed, step).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effnet import gpu
from effnet.config import Augment
from effnet.data.augment import codes, pillow_ops
from effnet.data.augment.codes import Layer
from effnet.data.augment.draws import mix, uniform
from effnet.gpu import uploaded

LEVELS = 10.0  # the strongest usual magnitude; the tables' go from 0 to this
FAINT = 0.1  # the smallest factor of brightness, colour, contrast and sharpness
FAR = 0.75  # of the side: the furthest that an image is moved

_STREAM = 0xA06  # keeps these draws apart from the crop's
_PER_STEP = 3  # draws per operation: whether it applies, its sign, and which it is (RandAugment)

# (operation, probability, magnitude). autoaugment.py of the official code, policy_v0.
_V0 = """
Equalize .8 1 ShearY .8 4 | Color .4 9 Equalize .6 3 | Color .4 1 Rotate .6 8 | Solarize .8 3 Equalize .4 7
Solarize .4 2 Solarize .6 2 | Color .2 0 Equalize .8 8 | Equalize .4 8 SolarizeAdd .8 3 | ShearX .2 9 Rotate .6 8
Color .6 1 Equalize 1 2 | Invert .4 9 Rotate .6 0 | Equalize 1 9 ShearY .6 3 | Color .4 7 Equalize .6 0
Posterize .4 6 AutoContrast .4 7 | Solarize .6 8 Color .6 9 | Solarize .2 4 Rotate .8 9 | Rotate 1 7 TranslateY .8 9
ShearX 0 0 Solarize .8 4 | ShearY .8 0 Color .6 4 | Color 1 0 Rotate .6 2 | Equalize .8 4 Equalize 0 8
Equalize 1 4 AutoContrast .6 2 | ShearY .4 7 SolarizeAdd .6 7 | Posterize .8 2 Solarize .6 10
Solarize .6 8 Equalize .6 1 | Color .8 6 Rotate .4 5
"""

# AutoAugment (arXiv 1805.09501), table 9: the policy found on ImageNet.
_IMAGENET = """
Posterize .4 8 Rotate .6 9 | Solarize .6 5 AutoContrast .6 5 | Equalize .8 8 Equalize .6 3
Posterize .6 7 Posterize .6 6
Equalize .4 7 Solarize .2 4 | Equalize .4 4 Rotate .8 8 | Solarize .6 3 Equalize .6 7 | Posterize .8 5 Equalize 1 2
Rotate .2 3 Solarize .6 8 | Equalize .6 8 Posterize .4 6 | Rotate .8 8 Color .4 0 | Rotate .4 9 Equalize .6 2
Equalize 0 7 Equalize .8 8 | Invert .6 4 Equalize 1 8 | Color .6 4 Contrast 1 8 | Rotate .8 8 Color 1 2
Color .8 8 Solarize .8 7 | Sharpness .4 7 Invert .6 8 | ShearX .6 5 Equalize 1 9 | Color .4 0 Equalize .6 3
Equalize .4 7 Solarize .2 4 | Solarize .6 5 AutoContrast .6 5 | Invert .6 4 Equalize 1 8 | Color .6 4 Contrast 1 8
Equalize .8 8 Equalize .6 3
"""

# RandAugment (arXiv 1909.13719), section 3: the fourteen operations.
RAND_OPS = (
    "Identity", "AutoContrast", "Equalize", "Rotate", "Solarize", "Color", "Posterize",
    "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY",
)  # fmt: skip


class Step(NamedTuple):
    """One operation of a policy."""

    op: str
    probability: float
    magnitude: float  # 0..10


def _parse(text: str) -> tuple[tuple[Step, ...], ...]:
    policies = []
    for line in text.replace("\n", "|").split("|"):
        words = line.split()
        steps = zip(words[::3], words[1::3], words[2::3], strict=True)
        if words:
            policies.append(tuple(Step(op, float(share), float(level)) for op, share, level in steps))
    return tuple(policies)


POLICIES = {"v0": _parse(_V0), "imagenet": _parse(_IMAGENET)}


def value_of(policy: str, op: str, magnitude: float, size: int, sign: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an operation's value for a magnitude (0..30) and signs (±1), in Pillow's units.

    `v0` follows the official code: posterize keeps 1..4 bits (its 0 bits come out as 1: TensorFlow shifts a byte by at
    most 7), translation goes up to 250 pixels whatever the image's side, but here never beyond three quarters of it.
    `imagenet` follows the paper's table 6: 4..8 bits, translation up to 150 of 331 pixels. `rand`: stronger is always
    further from the image; translation up to 100 of 224 pixels, the official code's default. Magnitudes go up to 30:
    from 10 on solarize inverts the whole image and translation grows no further, from 17.5 on posterize keeps one bit.

    No value turns an image into a single colour: factors stay at 0.1 or above, as in the official code, at least one
    bit is kept, and part of the image stays visible.
    """
    level = magnitude / LEVELS
    flat = np.ones_like(sign)
    if op.startswith("Shear"):
        return 0.3 * level * sign
    if op.startswith("Translate"):
        limit = {"v0": 250.0, "imagenet": 150 / 331 * size, "rand": 100 / 224 * size}[policy]
        far = {"v0": FAR * size, "imagenet": limit, "rand": limit}[policy]
        return np.trunc(min(limit * level, far) * sign)
    if op == "Rotate":
        return 30.0 * level * sign
    if op in ("Brightness", "Color", "Contrast", "Sharpness"):
        return np.maximum(FAINT, 1 + 0.9 * level * sign) if policy == "rand" else (0.1 + 1.8 * level) * flat
    if op == "Solarize":
        threshold = int(256 * level)
        return max(0, 256 - threshold if policy == "rand" else threshold) * flat
    if op == "SolarizeAdd":
        return int(110 * level) * flat
    if op == "Posterize":
        bits = int(4 * level)
        return max(1, {"v0": bits, "imagenet": 4 + bits, "rand": 8 - bits}[policy]) * flat
    return 0 * flat


def augment_batch(images: Tensor, config: Augment, samples: NDArray[np.int64], seed: int, epoch: int) -> Tensor:
    """Apply a config's policy and erasing to uint8 (n, 3, H, W) images; see `auto_augment` for the arguments."""
    if config.policy == "randaugment":
        layers, magnitude = config.rand_layers, config.rand_magnitude
        images = rand_augment(images, samples, seed, epoch, layers=layers, magnitude=magnitude)
    elif config.policy != "none":
        images = auto_augment(images, samples, seed, epoch, config.policy.removeprefix("autoaugment_"))
    if config.erase:
        images = erase(images, samples, seed, epoch, probability=config.erase)
    return images


def mix_batch(images: Tensor, labels: Tensor, config: Augment, seed: int, step: int) -> Mixed:
    """Apply a config's mixup or cutmix to float images; if it has both, a draw picks one."""
    if config.mixup and config.cutmix:
        function = mixup if uniform(seed, step, _STREAM + 4) < 0.5 else cutmix
    elif config.mixup or config.cutmix:
        function = mixup if config.mixup else cutmix
    else:
        return Mixed(images, labels, torch.ones(len(images), device=images.device))
    return function(images, labels, seed, step, alpha=config.mixup if function is mixup else config.cutmix)


def auto_augment(images: Tensor, samples: NDArray[np.int64], seed: int, epoch: int, policy: str = "v0") -> Tensor:
    """Apply one of the policy's 25 pairs of operations to each image.

    Args:
        images: uint8, (n, 3, H, W).
        samples: (n,) the samples' positions in the index.
        seed, epoch: key the draws.
        policy: `v0`, of the official EfficientNet code, or `imagenet`, of the AutoAugment paper.
    """
    pairs = POLICIES[policy]
    draws = uniform(seed, epoch, _STREAM, samples[:, None], np.arange(1 + 2 * _PER_STEP))
    chosen = (draws[:, 0] * len(pairs)).astype(np.int64)
    layers = []
    for step in range(2):
        whether, sign, _ = draws[:, 1 + step * _PER_STEP :].T[:_PER_STEP]
        ops = np.empty(len(samples), object)
        values = np.zeros(len(samples))
        for number in np.unique(chosen):
            op, probability, magnitude = pairs[number][step]
            here = (chosen == number) & (whether < probability)
            ops[here] = op
            values[here] = value_of(policy, op, magnitude, images.shape[-1], np.where(sign[here] < 0.5, -1.0, 1.0))
        layers.append(Layer(ops, values))
    return _apply(images, layers)


def rand_augment(
    images: Tensor, samples: NDArray[np.int64], seed: int, epoch: int, *, layers: int = 2, magnitude: float = 9.0
) -> Tensor:
    """Apply `layers` operations, each drawn from fourteen, with one magnitude (0..30), to each image.

    See `auto_augment` for the arguments; RandAugment, arXiv 1909.13719.
    """
    draws = uniform(seed, epoch, _STREAM, samples[:, None], np.arange(layers * _PER_STEP))
    drawn = []
    for layer in range(layers):
        _, sign, which = draws[:, layer * _PER_STEP :].T[:_PER_STEP]
        ops = np.array(RAND_OPS, object)[(which * len(RAND_OPS)).astype(np.int64)]
        values = np.zeros(len(samples))
        for op in set(ops):
            here = ops == op
            values[here] = value_of("rand", op, magnitude, images.shape[-1], np.where(sign[here] < 0.5, -1.0, 1.0))
        drawn.append(Layer(ops, values))
    return _apply(images, drawn)


def erase(images: Tensor, samples: NDArray[np.int64], seed: int, epoch: int, *, probability: float = 0.25) -> Tensor:
    """Paint over a rectangle of 2 to 33 % of the area, ratio 0.3 to 3.3, with grey (arXiv 1708.04896)."""
    height, width = images.shape[2:]
    whether, area, ratio, x, y = uniform(seed, epoch, _STREAM + 1, samples[:, None], np.arange(5)).T
    target = (0.02 + area * 0.31) * height * width
    aspect = np.exp(math.log(0.3) + ratio * (math.log(3.3) - math.log(0.3)))
    h = np.minimum(height, np.rint(np.sqrt(target * aspect)))
    w = np.minimum(width, np.rint(np.sqrt(target / aspect)))
    h, w = np.where(whether < probability, h, 0), np.where(whether < probability, w, 0)
    corners = _corners(np.floor(x * (width - w + 1)), np.floor(y * (height - h + 1)), w, h)
    if kernels := _kernels(images):
        found: Tensor = kernels.apply(images, codes.boxes(corners))
        return found
    return torch.where(_inside(corners, height, width, images.device)[:, None], pillow_ops.FILL, images)


class Mixed(NamedTuple):
    """A batch of mixed images; the loss is share * loss(labels) + (1 - share) * loss(other_labels)."""

    images: Tensor
    other_labels: Tensor  # int64, (n,)
    share: Tensor  # float32, (n,): of the image itself


def mixup(images: Tensor, labels: Tensor, seed: int, step: int, *, alpha: float) -> Mixed:
    """Blend each (float, normalised) image with another of the batch (arXiv 1710.09412), by shares from Beta(α, α)."""
    share, other = (
        uploaded(torch.from_numpy(drawn), images.device) for drawn in _pairs(len(images), seed, step, alpha)
    )
    weights = share.to(images.dtype)[:, None, None, None]
    return Mixed(weights * images + (1 - weights) * images[other], labels[other], share)


def cutmix(images: Tensor, labels: Tensor, seed: int, step: int, *, alpha: float) -> Mixed:
    """Put a rectangle of another image of the batch into each (arXiv 1905.04899); the share is the area that stays."""
    share, other = _pairs(len(images), seed, step, alpha)
    height, width = images.shape[2:]
    side = np.sqrt(1 - share.astype(np.float64))
    h, w = np.trunc(side * height), np.trunc(side * width)
    x, y = uniform(seed, step, _STREAM + 3, np.arange(len(images))[:, None], np.arange(2)).T
    left, top = np.floor(x * width) - w // 2, np.floor(y * height) - h // 2  # the centre is anywhere; the edge clips
    boxes = _inside(_corners(left, top, w, h), height, width, images.device)
    stays, place = 1 - boxes.float().mean((1, 2)), uploaded(torch.from_numpy(other), images.device)
    return Mixed(torch.where(boxes[:, None], images[place], images), labels[place], stays)


def _pairs(number: int, seed: int, step: int, alpha: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.Generator(np.random.Philox(int(mix(seed, step, _STREAM + 2))))
    return random.beta(alpha, alpha, number).astype(np.float32), random.permutation(number)


def _corners(
    left: NDArray[np.float64], top: NDArray[np.float64], w: NDArray[np.float64], h: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.stack([left, top, left + w, top + h], axis=1)


def _inside(corners: NDArray[np.float64], height: int, width: int, device: torch.device) -> Tensor:
    """Return bool (n, height, width), true inside each rectangle."""
    x0, y0, x1, y1 = (corner[:, None] for corner in uploaded(torch.from_numpy(corners), device).T)
    columns, rows = torch.arange(width, device=device), torch.arange(height, device=device)
    across = (columns >= x0) & (columns < x1)
    down = (rows >= y0) & (rows < y1)
    inside: Tensor = down[:, :, None] & across[:, None, :]
    return inside


def _apply(images: Tensor, layers: Sequence[Layer]) -> Tensor:
    """Run the layers in turn: on the CPU image by image, on a GPU each for the whole batch."""
    if kernels := _kernels(images):
        found: Tensor = kernels.apply(images, codes.encode(layers, *images.shape[2:]))
        return found
    samples = zip(*(zip(layer.ops, layer.values.tolist(), strict=True) for layer in layers), strict=True)
    steps = [[step for step in steps if step[0] is not None] for steps in samples]
    return pillow_ops.apply(images.cpu(), steps).to(images.device)


def _kernels(images: Tensor) -> ModuleType | None:
    return gpu.kernels("effnet.data.augment.kernels", images)
