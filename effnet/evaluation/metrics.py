"""How often a network is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from effnet.arch.spec import Architecture
from effnet.data.loader import Loader
from effnet.models.preprocess import normalize
from effnet.statistics import Hits

MISTAKES = 100
BATCH, BATCH_PIXELS = 256, 256 * 128 * 128  # images at most, and their pixels: a process then needs 1 to 2 GB
CALIBRATION_BINS = 15  # Guo et al., On calibration of modern neural networks, 2017


class Predictions(NamedTuple):
    """What a network says of every sample of a split, in the index's order; arrays of (samples,)."""

    labels: NDArray[np.int64]
    found: NDArray[np.int64]  # the class of the highest logit
    among_five: NDArray[np.bool_]
    confidence: NDArray[np.float32]  # the softmax of that class
    losses: NDArray[np.float32]  # cross-entropy in nats

    @property
    def hits(self) -> Hits:
        """Which samples it is right about, (samples,)."""
        return np.equal(self.found, self.labels)


class Scores(NamedTuple):
    """Means over one split; `loss` is the cross-entropy in nats, without label smoothing."""

    top1: float
    top5: float
    loss: float
    samples: int


def batch_of(side: int) -> int:
    """Return how many images of a side are scored at a time."""
    return max(1, min(BATCH, BATCH_PIXELS // side**2))


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    arch: Architecture,
    loader: Loader,
    device: torch.device,
    reduce: Callable[[Tensor], None] | None = None,
) -> Scores:
    """Score a network in evaluation mode on every sample of a loader's split, each once, normalised as `arch` says.

    Args:
        network: on `device`.
        arch: the network's.
        loader: of one rank, if there are several.
        device: where to compute.
        reduce: sums a tensor over all ranks, in place.
    """
    sums = torch.zeros(4, dtype=torch.float64, device=device)  # right, among the first five, loss, samples
    for batch in loader.epoch(0):
        labels = batch.labels.to(device, non_blocking=True)
        logits = network(normalize(batch.images.to(device, non_blocking=True), arch)).float()
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        sums += torch.stack([ranked[:, 0].sum(), ranked.sum(), loss, loss.new_tensor(len(labels))])
    if reduce:
        reduce(sums)
    top1, top5, total, samples = sums.tolist()
    return Scores(top1 / samples, top5 / samples, total / samples, int(samples))


@torch.inference_mode()
def predict(network: nn.Module, arch: Architecture, loader: Loader, device: torch.device) -> Predictions:
    """Run a network in evaluation mode over every sample of a loader's split, each once."""
    parts: list[tuple[Tensor, ...]] = []
    for batch in loader.epoch(0):
        labels = batch.labels.to(device, non_blocking=True)
        logits = network(normalize(batch.images.to(device, non_blocking=True), arch)).float()
        best = logits.softmax(1).max(1)
        among = (logits.topk(min(5, logits.shape[1])).indices == labels[:, None]).any(1)
        losses = functional.cross_entropy(logits, labels, reduction="none")
        parts.append((labels, best.indices, among, best.values, losses))
    return Predictions(*(torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)))


@torch.inference_mode()
def probabilities(
    network: nn.Module, arch: Architecture, loader: Loader, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return a network's softmax for every sample of a loader's split, (samples, classes), and the labels."""
    found, labels = [], []
    for batch in loader.epoch(0):
        logits = network(normalize(batch.images.to(device, non_blocking=True), arch)).float()
        found.append(logits.softmax(1).cpu().numpy())
        labels.append(batch.labels.numpy())
    return np.concatenate(found), np.concatenate(labels)


def scores_of(predictions: Predictions) -> Scores:
    """Return the means."""
    right = predictions.hits
    return Scores(
        float(right.mean()), float(predictions.among_five.mean()), float(predictions.losses.mean()), len(right)
    )


class Mistake(NamedTuple):
    """An image that a network takes for something else."""

    sample: int  # position in the split's index
    label: int
    found: int
    confidence: float  # 0..1


def mistakes(predictions: Predictions) -> list[Mistake]:
    """Return the mistakes that a network is surest of, surest first, at most `MISTAKES`: often the label is wrong."""
    wrong = np.flatnonzero(~predictions.hits)
    ranked = wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][:MISTAKES]
    return [
        Mistake(int(n), int(predictions.labels[n]), int(predictions.found[n]), float(predictions.confidence[n]))
        for n in ranked
    ]


class Bin(NamedTuple):
    """Samples of about the same confidence."""

    samples: int
    confidence: float  # mean, 0..1
    right: float  # share, 0..1


def calibration(predictions: Predictions) -> list[Bin]:
    """Return the bins of confidence that are not empty, of fifteen equal ones from 0 to 1."""
    right = predictions.hits
    bins = np.clip(np.ceil(predictions.confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    sizes = np.bincount(bins, minlength=CALIBRATION_BINS)
    confidence = np.bincount(bins, predictions.confidence.astype(np.float64), CALIBRATION_BINS)
    hits = np.bincount(bins, right.astype(np.float64), CALIBRATION_BINS)
    return [
        Bin(int(size), float(confidence[index] / size), float(hits[index] / size))
        for index, size in enumerate(sizes)
        if size
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return the expected calibration error, 0 to 1: how far confidence is from accuracy, over bins of confidence."""
    return sum(one.samples * abs(one.right - one.confidence) for one in bins) / sum(one.samples for one in bins)


def confusion(predictions: Predictions, num_classes: int) -> list[tuple[int, int, int]]:
    """Return (class, class found, images) for all pairs that occur."""
    pairs, counts = np.unique(predictions.labels * num_classes + predictions.found, return_counts=True)
    return [(int(pair // num_classes), int(pair % num_classes), int(n)) for pair, n in zip(pairs, counts, strict=True)]
