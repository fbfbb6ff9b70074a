"""How often a network is right."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from effnet.arch.spec import Architecture
from effnet.data.loader import Loader
from effnet.models.preprocess import normalize


class Scores(NamedTuple):
    """Means over one split; `loss` is the cross-entropy in nats, without label smoothing."""

    top1: float
    top5: float
    loss: float
    samples: int


@torch.inference_mode()
def evaluate(network: nn.Module, arch: Architecture, loader: Loader, device: torch.device) -> Scores:
    """Score a network in evaluation mode on every sample of a loader's split, each once, normalised as `arch` says."""
    top1 = top5 = samples = 0
    loss = 0.0
    for batch in loader.epoch(0):
        labels = batch.labels.to(device)
        logits = network(normalize(batch.images.to(device), arch)).float()
        loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
        ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        top1 += int(ranked[:, 0].sum())
        top5 += int(ranked.sum())
        samples += len(labels)
    return Scores(top1 / samples, top5 / samples, loss / samples, samples)
