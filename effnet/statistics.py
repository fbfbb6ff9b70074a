"""What can be said of differences between networks: the only place that knows noise.

A network's *hits* are a truth value per image, right or wrong, in the index's order; several trainings of one network
are rows. Two networks are compared on the same images, so that what is hard for both counts for neither. Images are
counted once, however many seeds saw them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Hits = NDArray[np.bool_]  # (images,) of one training, or (seeds, images)

ALPHA = 0.05
RESAMPLES = 2_000
_BLOCK = 1 << 22  # numbers that a resample may hold at a time
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


class Scatter(NamedTuple):
    """How much the trainings of a network differ from seed to seed, found over several networks."""

    variance: float  # of log(top-1 / (1 - top-1)): near 1, top-1 itself has less room to differ
    freedom: int  # degrees of freedom

    def at(self, top1: float) -> float:
        """Return the variance of top-1 around this value."""
        return self.variance * (top1 * (1 - top1)) ** 2


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


def scatter(top1: Iterable[Sequence[float]], samples: int) -> Scatter | None:
    """Return the variance between seeds, pooled over networks; None if all have one training.

    Two seeds of a network say next to nothing of their variance: 95 % of Student's t with one degree of freedom lies
    within 12.7. Networks of one family scatter alike, so that all of them together say it.

    Args:
        top1: of each network, one of each seed, 0..1.
        samples: images that they were found on.
    """
    scores = [_logit(np.array(each), samples) for each in top1]
    freedom = sum(len(each) - 1 for each in scores)
    if not freedom:
        return None
    return Scatter(float(sum(np.sum((each - each.mean()) ** 2) for each in scores)) / freedom, freedom)


def difference(one: Hits, other: Hits, pooled: Scatter | None = None) -> Difference:
    """Return the paired difference of two networks over images and seeds.

    The variance is that of the images, as Bonett and Price (2012) estimate it for pairs, with one image added for
    either side, so that agreement on a few images is not taken for certainty; plus that of the means over seeds, with
    Satterthwaite's degrees of freedom. What seeds add within an image is left out of the images' part, or it would
    count twice. With one seed on either side only images are counted, and p is McNemar's.

    Args:
        one, other: (images,) or (seeds, images); the same images.
        pooled: variance between seeds over more networks than these two; without it, of these alone.
    """
    one, other = np.atleast_2d(one), np.atleast_2d(other)
    _check(one[0], other[0])
    seeds = min(len(one), len(other))
    lead = float(one.mean() - other.mean())
    images = _variance_of_images(one, other)
    if seeds < 2:
        p = mcnemar(one[0], other[0]) if len(one) == len(other) else _p(lead, images, math.inf)
        return Difference(lead, _Z * math.sqrt(images), p, seeds)
    parts = [(images, one.shape[1] - 1 or 1)]  # variance, degrees of freedom
    if pooled:
        parts.append((sum(pooled.at(hits.mean()) / len(hits) for hits in (one, other)), pooled.freedom))
    else:
        parts += [(float(hits.mean(1).var(ddof=1)) / len(hits), len(hits) - 1) for hits in (one, other)]
    total = sum(variance for variance, _ in parts)
    freedom = total**2 / sum(variance**2 / free for variance, free in parts)
    return Difference(lead, _quantile(freedom) * math.sqrt(total), _p(lead, total, freedom), seeds)


def holm(p_values: Mapping[_K, float]) -> dict[_K, float]:
    """Return the p-values corrected for their number (Holm, 1979): those at most ALPHA are significant."""
    corrected, most = dict[_K, float](), 0.0
    for place, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        most = max(most, min(1.0, (len(p_values) - place) * p_values[key]))
        corrected[key] = most
    return {key: corrected[key] for key in p_values}


class Trend(NamedTuple):
    """How a family's top-1 rises with its cost: a straight line through all members."""

    points: float  # top-1 per doubling of the cost, 0..1
    points_within: Interval
    logits: float  # the same of log(top-1 / (1 - top-1)), which does not flatten towards 1
    logits_within: Interval
    seeds: int  # the fewest trainings of a member


def trend(hits: Sequence[Hits], costs: Sequence[float], repeats: int = RESAMPLES) -> Trend | None:
    """Return the slope of top-1 over the logarithm of the cost; None where no two costs differ.

    The intervals are of a bootstrap over images, which all members share, and over each member's seeds (Owen, 2007,
    "The pigeonhole bootstrap"): mildly too wide. So few seeds scatter less in a resample than in truth, so their
    deviations from the member's mean are stretched by sqrt(seeds / (seeds - 1)). With one seed a member only images are
    counted.

    Args:
        hits: of each member, (images,) or (seeds, images); the same images.
        costs: of each member, in any unit.
        repeats: resamples.
    """
    rows = [np.atleast_2d(each) for each in hits]
    for row in rows:
        _check(row[0], rows[0][0])
    doublings = np.log2(np.array(costs))
    doublings -= doublings.mean()
    if not np.any(doublings):
        return None
    weights = doublings / np.sum(doublings**2)
    images = rows[0].shape[1]
    resampled = _resampled(rows, repeats)
    found = np.array([row.mean() for row in rows])
    points, logits = weights @ resampled, weights @ _logit(resampled, images)
    return Trend(
        points=float(weights @ found),
        points_within=_middle(points),
        logits=float(weights @ _logit(found, images)),
        logits_within=_middle(logits),
        seeds=min(map(len, rows)),
    )


def _resampled(rows: Sequence[Hits], repeats: int) -> NDArray[np.float64]:
    """Return each network's mean top-1 in every resample of images and seeds, (networks, resamples)."""
    every, images, draw = np.concatenate(rows).astype(np.float32), rows[0].shape[1], np.random.default_rng(0)
    ends = np.cumsum([len(row) for row in rows])[:-1]
    block = max(1, _BLOCK // images)
    found = []
    for first in range(0, repeats, block):
        number = min(block, repeats - first)
        drawn = draw.integers(images, size=(number, images))
        times = np.stack([np.bincount(row, minlength=images) for row in drawn]).astype(np.float32)
        top1 = (every @ times.T).astype(np.float64) / images
        found.append(np.stack([_resampled_seeds(part, draw) for part in np.split(top1, ends)]))
    return np.concatenate(found, axis=1)


def _resampled_seeds(top1: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """Return the mean over resampled seeds of (seeds, resamples) scores, (resamples,)."""
    seeds = len(top1)
    if seeds < 2:
        only: NDArray[np.float64] = top1[0]
        return only
    mean = top1.mean(0)
    stretched = mean + (top1 - mean) * math.sqrt(seeds / (seeds - 1))
    means: NDArray[np.float64] = np.take_along_axis(stretched, draw.integers(seeds, size=top1.shape), axis=0).mean(0)
    return means


def _logit(top1: NDArray[np.float64], images: int) -> NDArray[np.float64]:
    """Return log odds, with half an image on either side, so that they are finite."""
    right = np.clip(top1, 0, 1) * images
    return np.asarray(np.log((right + 0.5) / (images - right + 0.5)))


def _middle(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(float(low), float(high))


def wilson_interval(share: float, samples: int) -> Interval:
    """Return the 95 % interval of a share found on `samples` independent ones (Wilson's score interval, 1927)."""
    center = (share + _Z**2 / (2 * samples)) / (1 + _Z**2 / samples)
    half = _Z / (1 + _Z**2 / samples) * math.sqrt(share * (1 - share) / samples + (_Z / (2 * samples)) ** 2)
    # Rounding must not push the share itself out of its interval.
    return Interval(max(0.0, min(share, center - half)), min(1.0, max(share, center + half)))


def band(top1: Sequence[float], samples: int, pooled: Scatter | None = None) -> Band:
    """Return the mean of a network's top-1 over seeds, and its interval over images and seeds.

    Wilson's interval for the images, Student's for the seeds; their distances from the mean are added as squares, as
    both are independent. The scatter between seeds within an image is in both, so the interval is too wide rather than
    too narrow. With one seed it is the images' alone.

    Args:
        top1: one of each seed, 0..1; all on the same images.
        samples: images; seeds do not multiply them.
        pooled: how much seeds differ, found over more networks; without it, by these seeds alone.
    """
    mean = sum(top1) / len(top1)
    low, high = wilson_interval(mean, samples)
    seeds = 0.0
    if pooled:
        seeds = _quantile(pooled.freedom) * math.sqrt(pooled.at(mean) / len(top1))
    elif len(top1) > 1:
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
