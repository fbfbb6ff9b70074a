"""What a training takes of a GPU's memory, from the value alone: no torch, no tensor.

Nearly all of it is activations: each convolution's output is kept once as the norm's input, once normalised and once
activated, in bfloat16. With squeeze-and-excitation and paddings that is 6.62 bytes for each number that `count` counts
as an activation, which was counted for B0 to B7 (within 1 %) and agrees with the largest batches of published runs.
"""

from __future__ import annotations

from effnet.arch.cost import count
from effnet.arch.spec import Architecture

PER_ACTIVATION = 6.62  # bytes, in bfloat16
PER_ACTIVATION_JUDGED = 2.0  # bytes, in float32, without gradients: at most (B4: 1.05, B7: 0.6)
PER_PIXEL = 5  # bytes of a value of an image: as it comes (1), and normalised (4)
PER_WEIGHT = 22  # bytes: weight, gradient, two of the optimizer, average, and the copy in bfloat16
CONTEXT = 0.6e9  # bytes that CUDA takes for each process
USABLE = 7 / 8  # of a GPU's memory: the rest is for the libraries' workspaces and fragments


def training_bytes(
    arch: Architecture, num_classes: int, images: int, *, judged: int = 0, bfloat16: bool = True
) -> float:
    """Return the bytes of GPU memory that a training of the network is predicted to take.

    Args:
        arch: the network, at the resolution that it is trained at.
        num_classes: of its classifier.
        images: that go through it at a time on this GPU.
        judged: the same after an epoch, when it is judged.
        bfloat16: whether it computes in bfloat16; in float32 an activation takes twice the memory.
    """
    cost, pixels = count(arch, num_classes), PER_PIXEL * arch.in_channels * arch.resolution**2
    trained = images * (PER_ACTIVATION * (1 if bfloat16 else 2) * cost.activations + pixels)
    scored = judged * (PER_ACTIVATION_JUDGED * cost.activations + pixels)
    return max(trained, scored) + PER_WEIGHT * cost.params + CONTEXT
