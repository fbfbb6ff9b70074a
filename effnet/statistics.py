"""What can be said of differences between networks: the only place that knows noise.

A network's *hits* are a truth value per image, right or wrong, in the index's order; several trainings of one network
are rows. Two networks are compared on the same images, so that what is hard for both counts for neither. Images are
counted once, however many seeds saw them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Hits = NDArray[np.bool_]  # (images,) of one training, or (seeds, images)

ALPHA = 0.05
_Z = 1.959964  # 97.5 % quantile of the normal distribution

_K = TypeVar("_K", bound=Hashable)


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


class Difference(NamedTuple):
    """How much more often one network is right than another, on the same images."""

    lead: float  # in top-1
    noise: float  # half of the lead's 95 % interval
    p: float  # how probable a lead of this size would be if there were no difference; two-sided
    seeds: int  # the smaller number of trainings; of one alone nobody knows what another would have given


class Band(NamedTuple):
    """A mean over seeds, and its 95 % interval."""

    mean: float
    low: float
    high: float


def mcnemar(one: Hits, other: Hits) -> float:
    """Return the two-sided p of McNemar's exact test for two trainings' hits, (images,), on the same images.

    Images that both get right, or neither, say nothing; of the others each gets about half right if they are equal.
    """
    from scipy.stats import binomtest

    _check(one, other)
    only_one, only_other = int(np.sum(one & ~other)), int(np.sum(other & ~one))
    if only_one == only_other:
        return 1.0
    return float(binomtest(only_one, only_one + only_other).pvalue)


def difference(one: Hits, other: Hits) -> Difference:
    """Return the paired difference of two networks over images and seeds.

    The variance is that of the images, as Bonett and Price (2012) estimate it for pairs, with one image added for
    either side, so that agreement on a few images is not taken for certainty; plus that of the means over seeds, with
    Satterthwaite's degrees of freedom. What seeds add within an image is left out of the images' part, or it would
    count twice. With one seed on either side only images are counted, and p is McNemar's.

    Args:
        one, other: (images,) or (seeds, images); the same images.
    """
    one, other = np.atleast_2d(one), np.atleast_2d(other)
    _check(one[0], other[0])
    seeds = min(len(one), len(other))
    lead = float(one.mean() - other.mean())
    images = _variance_of_images(one, other)
    if seeds < 2:
        p = mcnemar(one[0], other[0]) if len(one) == len(other) else _p(lead, images, math.inf)
        return Difference(lead, _Z * math.sqrt(images), p, seeds)
    shares = [float(hits.mean(1).var(ddof=1)) / len(hits) for hits in (one, other)]
    total = images + sum(shares)
    free = images**2 / (one.shape[1] - 1 or 1) + sum(
        share**2 / (len(hits) - 1) for share, hits in zip(shares, (one, other), strict=True)
    )
    freedom = total**2 / free
    return Difference(lead, _quantile(freedom) * math.sqrt(total), _p(lead, total, freedom), seeds)


def holm(p_values: Mapping[_K, float]) -> dict[_K, float]:
    """Return the p-values corrected for their number (Holm, 1979): those at most ALPHA are significant."""
    corrected, most = dict[_K, float](), 0.0
    for place, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        most = max(most, min(1.0, (len(p_values) - place) * p_values[key]))
        corrected[key] = most
    return {key: corrected[key] for key in p_values}


def wilson_interval(share: float, samples: int) -> Interval:
    """Return the 95 % interval of a share found on `samples` independent ones (Wilson's score interval, 1927)."""
    center = (share + _Z**2 / (2 * samples)) / (1 + _Z**2 / samples)
    half = _Z / (1 + _Z**2 / samples) * math.sqrt(share * (1 - share) / samples + (_Z / (2 * samples)) ** 2)
    # Rounding must not push the share itself out of its interval.
    return Interval(max(0.0, min(share, center - half)), min(1.0, max(share, center + half)))


def band(top1: Sequence[float], samples: int) -> Band:
    """Return the mean of a network's top-1 over seeds, and its interval over images and seeds.

    Wilson's interval for the images, Student's for the seeds; their distances from the mean are added as squares, as
    both are independent. The scatter between seeds within an image is in both, so the interval is too wide rather than
    too narrow. With one seed it is the images' alone.

    Args:
        top1: one of each seed, 0..1; all on the same images.
        samples: images; seeds do not multiply them.
    """
    mean = sum(top1) / len(top1)
    low, high = wilson_interval(mean, samples)
    seeds = 0.0
    if len(top1) > 1:
        seeds = _quantile(len(top1) - 1) * float(np.std(top1, ddof=1)) / math.sqrt(len(top1))
    return Band(mean, max(0.0, mean - math.hypot(mean - low, seeds)), min(1.0, mean + math.hypot(high - mean, seeds)))


def _variance_of_images(one: Hits, other: Hits) -> float:
    """Return the variance of the mean over images of the difference, without what seeds add within an image."""
    gaps = one.mean(0) - other.mean(0)
    images = len(gaps) + 2
    whole = (float(np.sum(gaps**2)) + 2) / images - (float(gaps.sum()) / images) ** 2
    within = sum(float(hits.var(0, ddof=1).mean()) / len(hits) for hits in (one, other) if len(hits) > 1)
    return max(whole - within, 2 / images) / images


def _p(lead: float, variance: float, freedom: float) -> float:
    from scipy.stats import t

    return float(2 * t.sf(abs(lead) / math.sqrt(variance), freedom))


def _quantile(freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf(1 - ALPHA / 2, freedom))


def _check(one: Hits, other: Hits) -> None:
    if one.shape != other.shape or not one.size:
        raise ValueError(f"hits of different images: {one.shape} and {other.shape}")
