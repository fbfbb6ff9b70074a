"""What the forward pass of B0 to B7 keeps for the backward pass, counted, against the formula of effnet/memory.py.

    python benchmarks/memory.py                      a row for each
    python benchmarks/memory.py efficientnet_lite0   of other networks

Runs no kernel: the tensors are fake, so B7 takes neither memory nor much time.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from effnet.arch import zoo
from effnet.arch.cost import count
from effnet.arch.spec import Architecture
from effnet.memory import training_bytes
from effnet.models.build import Network

CLASSES = 1000


def saved_bytes(arch: Architecture, images: int, *, bfloat16: bool = True) -> int:
    """Return the bytes of all storages that autograd keeps, without the network's own weights and statistics."""
    saved: dict[int, torch.UntypedStorage] = {}  # which keeps them, so that no identity is given twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    with FakeTensorMode():
        network = _channels_last(Network(arch, CLASSES))
        own = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
        pixels = torch.empty(images, arch.in_channels, arch.resolution, arch.resolution)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                logits = network(pixels)
            functional.cross_entropy(logits.float(), torch.zeros(images, dtype=torch.long))
        return sum(storage.nbytes() for identity, storage in saved.items() if identity not in own)


def _channels_last(network: Network) -> Network:
    """Lay out the weights as a training does; Module.to cannot swap fake ones."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight = nn.Parameter(module.weight.contiguous(memory_format=torch.channels_last))
    return network


def main() -> None:
    """Print a row of a Markdown table for each network."""
    columns = ("activations M", "counted MB per image", "bytes per activation", "formula MB", "formula / counted")
    print("| | " + " | ".join((*columns, "weights' copies, bytes each")) + " |")
    print("|---|---|---|---|---|---|---|")
    for name in sys.argv[1:] or [f"efficientnet_b{number}" for number in range(8)]:
        arch = zoo.get(name)
        cost = count(arch, CLASSES)
        two, three = saved_bytes(arch, 2), saved_bytes(arch, 3)
        pixels = 5 * arch.in_channels * arch.resolution**2  # the input, which autograd keeps only as a bfloat16 copy
        formula = training_bytes(arch, CLASSES, 3) - training_bytes(arch, CLASSES, 2) - pixels
        each, copies = three - two, (3 * two - 2 * three) / cost.params
        print(
            f"| {name} | {cost.activations / 1e6:.2f} | {each / 1e6:,.1f} | {each / cost.activations:.3f} "
            f"| {formula / 1e6:,.1f} | {formula / each:.3f} | {copies:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
