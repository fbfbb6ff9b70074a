"""Test-time flips: an image and its mirror image are both judged, and their probabilities averaged."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from effnet.evaluation.metrics import Predictions, calibration, calibration_error, scores_of
from effnet.statistics import Hits, Interval, difference
from effnet.values import Value


class Flipped(nn.Module):
    """A network whose probabilities are the mean of its own for an image and for the image mirrored left to right.

    Args:
        network: from images (N, 3, H, W) to logits (N, classes).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logarithms of probabilities, float32 (N, classes): logits that softmax turns into the mean."""
        plain, mirrored = (self.network(each).float().log_softmax(1) for each in (images, images.flip(3)))
        return torch.logaddexp(plain, mirrored) - math.log(2)


class FlipScores(Value):
    """How a network scores with flips, and how much better that is than without, on the same images."""

    top1: float
    top5: float
    loss: float  # cross-entropy in nats
    calibration_error: float
    lead: float  # in top-1, over the plain score
    interval: Interval  # 95 %, of the lead
    p: float  # McNemar's, two-sided

    @property
    def told(self) -> str:
        """The lead in words, in points."""
        low, high = (100 * each for each in self.interval)
        shown = f"{100 * self.lead:+.2f} points (95 %: {low:+.2f} to {high:+.2f})"
        return shown if low > 0 or high < 0 else f"{shown}, within noise"


def compare_flips(plain: Hits, flipped: Predictions) -> FlipScores:
    """Return the scores with flips beside the plain ones.

    Args:
        plain: which images the network is right about without them, (images,).
        flipped: its predictions with them, for the same images.
    """
    scores, found = scores_of(flipped), difference(flipped.hits, plain)
    return FlipScores(
        top1=scores.top1,
        top5=scores.top5,
        loss=scores.loss,
        calibration_error=calibration_error(calibration(flipped)),
        lead=found.lead,
        interval=Interval(found.lead - found.noise, found.lead + found.noise),
        p=found.p,
    )
