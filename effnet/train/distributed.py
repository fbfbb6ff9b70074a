"""Several processes that train one network: who they are, what they add up, and batch norms that see all of a batch.

Gradients are summed in one all-reduce after the backward pass, not overlapped with it as torch's
DistributedDataParallel does: these networks have few weights for their arithmetic, and one buffer for all
gradients makes accumulation, unequal shares of a batch and an exact order of summation simple.
"""

from __future__ import annotations

import datetime
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_PATIENCE = datetime.timedelta(minutes=15)  # for another rank, which may be writing a large checkpoint


class World:
    """The ranks of a training; one process alone is a world of one. Read from the environment, as torchrun sets it."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of these, on this machine
        local = int(os.environ.get("LOCAL_RANK", "0"))
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            self.device = torch.device("cuda", local)
            torch.cuda.set_device(self.device)
        if self.size > 1 and not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=_PATIENCE)

    @property
    def is_leader(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> None:
        """Add up a tensor over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def least(self, number: int) -> int:
        """Return the smallest of the ranks' numbers."""
        if self.size == 1:
            return number
        found = torch.tensor([number])
        dist.all_reduce(found, dist.ReduceOp.MIN)
        return int(found)

    def any(self, flag: bool) -> bool:
        """Say whether the flag is set on any rank."""
        if self.size == 1:
            return flag
        found = torch.tensor([float(flag)])
        dist.all_reduce(found)
        return bool(found)

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """Say of each flag whether it is set on any rank."""
        if self.size == 1:
            return flags
        found = torch.tensor([float(flag) for flag in flags])
        dist.all_reduce(found)
        return tuple(bool(flag) for flag in found)

    def broadcast(self, value: Any) -> Any:
        """Return the leader's value (plain data) on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def intersection(self, values: set[Any]) -> set[Any]:
        """Return those of the values (plain data) that every rank has."""
        if self.size == 1:
            return values
        boxes: list[set[Any]] = [set() for _ in range(self.size)]
        dist.all_gather_object(boxes, values)
        return set.intersection(*boxes)

    def broadcast_buffers(self, network: nn.Module) -> None:
        """Give every rank the leader's batch-norm statistics."""
        if self.size > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, src=0)

    def close(self) -> None:
        """Shut the process group down cleanly."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def lost_others(error: RuntimeError) -> bool:
    """Say whether an error means that another rank is gone, or that the network to it is."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def synchronize_norms(network: nn.Module, world: World, ranks: int) -> None:
    """Let batch norms in training take their statistics over `ranks` neighbouring ranks.

    The official code takes groups of max(8, replicas / 8) replicas (utils.py).
    """
    if world.size == 1 or ranks == 1:
        return
    group = None
    for first in range(0, world.size, ranks):
        members = range(first, min(first + ranks, world.size))
        made = dist.new_group(list(members))
        group = made if world.rank in members else group
    for name, module in list(network.named_modules()):
        if type(module) is nn.BatchNorm2d:
            parent = network.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], SynchronizedNorm.over(module, group))


class SynchronizedNorm(nn.BatchNorm2d):
    """Batch norm over the images of several ranks, which may have different numbers of them. Works on CPUs too."""

    group: dist.ProcessGroup | None = None

    @classmethod
    def over(cls, norm: nn.BatchNorm2d, group: dist.ProcessGroup | None) -> SynchronizedNorm:
        """Return the same norm, its parameters and buffers shared, over a group of ranks."""
        mine = cls(norm.num_features, norm.eps, norm.momentum)
        mine._parameters, mine._buffers, mine.group = norm._parameters, norm._buffers, group
        return mine

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        if not self.training:
            return super().forward(x)
        wide = x.float()
        count = torch.full((1,), x.numel() / x.shape[1], device=x.device)
        moments = torch.cat([wide.sum((0, 2, 3)), (wide * wide).sum((0, 2, 3)), count])
        total = _AllSum.apply(moments, self.group)  # type: ignore[no-untyped-call]
        channels = self.num_features
        mean = total[:channels] / total[-1]
        variance = (total[channels:-1] / total[-1] - mean * mean).clamp(min=0)
        with torch.no_grad():
            self._remember(mean, variance * total[-1] / (total[-1] - 1).clamp(min=1))
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None, None], wide, scale[:, None, None]).to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        momentum = 0.1 if self.momentum is None else self.momentum
        assert self.running_mean is not None  # noqa: S101 - a norm of ours always tracks
        assert self.running_var is not None  # noqa: S101
        assert self.num_batches_tracked is not None  # noqa: S101
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)
        self.num_batches_tracked.add_(1)


class _AllSum(torch.autograd.Function):
    """A sum over ranks through which gradients flow: each rank's share gets the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, moments: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        total = moments.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None
