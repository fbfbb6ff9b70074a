"""Suspected label errors: labels that a network contradicts on images that it has not learned from.

Confident learning: Northcutt, Jiang and Chuang, Confident learning: estimating uncertainty in dataset labels, JAIR 70,
2021; arXiv 1911.00068. The suspects are the images off the diagonal of the confident joint (section 3.1), the paper's
C_confident. They are ranked by the margin of its "prune by noise rate" (section 3.2).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Suspect(NamedTuple):
    """An image whose label may be wrong."""

    image: int  # position among the images
    label: int
    suggested: int  # the class that the network finds instead
    label_probability: float  # that the network gives the label, 0..1
    suggested_probability: float


def suspects(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> list[Suspect]:
    """Return the images that confidently belong to another class than their label's, most suspicious first.

    The threshold of a class is the mean probability of that class over the images labelled so. Of the classes whose
    thresholds an image's probabilities reach, it confidently belongs to the most probable one. It is a suspect if that
    is not its label (at equal probabilities the label stands), and ranks by the margin: the probability of the
    suggested class minus that of the label. A class that no image is labelled with is never suggested.

    Args:
        probabilities: (images, classes), 0..1, by a network that has not learned from these images.
        labels: (images,), 0..classes-1.
    """
    classes = probabilities.shape[1]
    every, counts = np.arange(len(labels)), np.bincount(labels, minlength=classes)
    of_label = probabilities[every, labels].astype(np.float64)
    thresholds = np.where(counts, np.bincount(labels, of_label, classes) / np.maximum(counts, 1), np.inf)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    suggested, best = confident.argmax(1), confident.max(1)
    found = np.flatnonzero(best > confident[every, labels])
    ranked = found[np.argsort(of_label[found] - best[found], kind="stable")]
    return [
        Suspect(int(n), int(labels[n]), int(suggested[n]), round(float(of_label[n]), 4), round(float(best[n]), 4))
        for n in ranked
    ]
