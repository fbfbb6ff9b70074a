"""How much of a device's memory a training takes, from the architecture alone: no torch, no tensor.

Nearly all of it is what the forward pass keeps for the backward pass. A convolution's output is kept once as the norm's
input, once normalised as SiLU's input, once activated as the next convolution's input: three times two bytes in
bfloat16. Squeeze-and-excitation and padding are the rest. Counted over B0 to B7, eager, with `count`'s activations
(benchmarks/memory.py): 6.57 to 6.64 bytes each. Networks with ReLU keep less, 3.9 to 6.1.
"""

from __future__ import annotations

from typing import NamedTuple

from effnet.arch.cost import count, count_blocks, count_parts
from effnet.arch.spec import Architecture
from effnet.errors import ConfigError

ACTIVATION_BYTES = 6.62  # in bfloat16; twice as many in float32
# Weight, gradient, two slots of the optimizer and moving average, in float32; and under autocast a copy in bfloat16.
WEIGHT_BYTES, CAST_BYTES = 5 * 4, 2
FROZEN_BYTES = 4  # of a teacher's weight: nothing of it is trained
PIXEL_BYTES = 1 + 4  # of each channel: as it was decoded, and normalised in float32
# The rest is for the driver's context, cuDNN's workspaces and fragmentation: the largest batches in timm's published
# benchmark of a 24-GiB card (results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv) fill seven eighths of it.
USABLE = 7 / 8
# Batch norms over fewer images cost accuracy (arXiv 1803.08494, figure 1): rather compute activations twice.
FEW_IMAGES = 32
MORE_PARTS = 2  # so many times the fewest parts are taken if they are all equal: then one CUDA graph serves them all


class MicroBatch(NamedTuple):
    """How a rank's share of a batch goes through the network."""

    images: int  # at a time, at most
    recompute: bool  # each block's activations are computed again in the backward pass instead of being kept


def training_bytes(
    arch: Architecture,
    num_classes: int,
    images: int,
    *,
    bfloat16: bool = True,
    recompute: bool = False,
    teacher: Architecture | None = None,
) -> int:
    """Return the bytes that a training's largest moment takes on a device.

    Args:
        arch: the network, at the resolution that it is trained with.
        num_classes: of the classifier.
        images: that go through the network at a time: the micro-batch.
        bfloat16: whether the forward pass is under autocast to bfloat16; else all is float32.
        recompute: whether only the blocks' inputs are kept, and the rest computed again, block by block.
        teacher: network whose answers are learnt as well.

    Raises:
        ConfigError: if `arch` is not an Architecture, or `num_classes` is below 1.
    """
    fixed, each = _parts(arch, num_classes, bfloat16, recompute, teacher)
    return round(fixed + each * images)


def largest_micro_batch(
    arch: Architecture,
    num_classes: int,
    memory_bytes: int,
    *,
    bfloat16: bool = True,
    recompute: bool = False,
    teacher: Architecture | None = None,
) -> int:
    """Return how many images at a time fit a device, 0 if not even one does.

    Args:
        arch: the network, at the resolution that it is trained with.
        num_classes: of the classifier.
        memory_bytes: of the whole device; an eighth is left free.
        bfloat16, recompute, teacher: as in `training_bytes`.

    Raises:
        ConfigError: if `arch` is not an Architecture, or `num_classes` is below 1.
    """
    fixed, each = _parts(arch, num_classes, bfloat16, recompute, teacher)
    return max(0, int((USABLE * memory_bytes - fixed) / each))


def plan_micro_batch(
    arch: Architecture,
    num_classes: int,
    share: int,
    *,
    memory: int | None,
    bfloat16: bool,
    wanted: int | None,
    teacher: Architecture | None = None,
) -> MicroBatch:
    """Return the largest micro-batch that the device's memory allows, in parts that are all equal, or nearly.

    Args:
        arch: the network.
        num_classes: of its classifier.
        share: images of a batch that are this rank's.
        memory: bytes of the device; None if they are no concern, as on a CPU.
        bfloat16: whether the forward pass is under autocast to bfloat16.
        wanted: the recipe's micro-batch, if it has one.
        teacher: network whose answers are learnt as well.

    Raises:
        ConfigError: if not one image fits.
    """
    if memory is None:
        return MicroBatch(min(wanted or share, share), recompute=False)
    found = micro_batch_on(arch, num_classes, share, memory=memory, bfloat16=bfloat16, wanted=wanted, teacher=teacher)
    if not found.images:
        raise ConfigError(
            f"{arch.name}: one image of {arch.resolution} pixels does not fit into this device's "
            f"{memory / 1e9:.0f} GB; train it on a larger one, or scale it less"
        )
    return found


def micro_batch_on(
    arch: Architecture,
    num_classes: int,
    share: int,
    *,
    memory: int,
    bfloat16: bool,
    wanted: int | None,
    teacher: Architecture | None = None,
) -> MicroBatch:
    """As `plan_micro_batch`, with 0 images if not one fits."""
    fits, fits_recomputed = (
        largest_micro_batch(arch, num_classes, memory, bfloat16=bfloat16, recompute=recompute, teacher=teacher)
        for recompute in (False, True)
    )
    if wanted:
        return MicroBatch(min(wanted, share), recompute=fits < min(wanted, share))
    recompute = fits < min(FEW_IMAGES, share) and fits_recomputed > fits
    most = fits_recomputed if recompute else fits
    return MicroBatch(_alike(share, most) if most else 0, recompute)


def _alike(share: int, most: int) -> int:
    """Return the size of a share's parts: the fewest that are all equal, or if those are many, nearly equal."""
    fewest = -(-share // most)
    equal = next((number for number in range(fewest, MORE_PARTS * fewest + 1) if share % number == 0), fewest)
    return -(-share // equal)


def _parts(
    arch: Architecture, num_classes: int, bfloat16: bool, recompute: bool, teacher: Architecture | None
) -> tuple[float, float]:
    """Return the bytes of the weights and of each image."""
    cost = count(arch, num_classes)
    activation, weight = (
        (ACTIVATION_BYTES, WEIGHT_BYTES + CAST_BYTES) if bfloat16 else (2 * ACTIVATION_BYTES, WEIGHT_BYTES)
    )
    fixed = float(weight * cost.params)
    kept = activation * cost.activations
    if recompute:
        blocks, number = count_blocks(arch), 2 if bfloat16 else 4
        outside = cost.activations - sum(block.activations for block in blocks)
        inputs = sum(block.in_channels * block.in_size**2 for block in arch.blocks())
        kept = activation * (outside + max(block.activations for block in blocks)) + number * inputs
    if teacher:
        fixed += FROZEN_BYTES * count(teacher, num_classes).params
        kept = max(kept, _forward_bytes(teacher, activation))  # it is done before the network begins
    return fixed, kept + PIXEL_BYTES * _numbers(arch)


def _forward_bytes(arch: Architecture, activation: float) -> float:
    """Return no less than what an image takes in a forward pass without gradients: one block's, and its pixels."""
    most = max(count_parts(arch).stem.activations, *(block.activations for block in count_blocks(arch)))
    inputs = max(block.in_channels * block.in_size**2 for block in arch.blocks())
    return activation * (most + inputs) + 2 * 4 * _numbers(arch)  # normalised anew, and at its side


def _numbers(arch: Architecture) -> int:
    """Return how many numbers an image of the network's side has."""
    return arch.in_channels * arch.resolution**2
