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
POWER = 0.8  # how often a difference is to be found that is said to be seen
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
    freedom: float = math.inf  # degrees of freedom of the noise

    def sees(self, comparisons: int = 1) -> float:
        """Return the smallest true lead that such a comparison would find four times in five (power 0.8).

        It grows with the noise alone, whatever the lead is that was found.

        Args:
            comparisons: how many there are, among which this one is corrected (as Bonferroni does, which Holm's first
                step is).
        """
        error = self.noise / _quantile(self.freedom)
        return error * (_quantile(self.freedom, ALPHA / comparisons) + _quantile(self.freedom, 2 * (1 - POWER)))


class Scatter(NamedTuple):
    """How much the trainings of a network differ from seed to seed, found over several networks."""

    variance: float  # of arcsin(sqrt(top-1)), in which images chosen at random scatter alike, whatever top-1 is
    freedom: int  # degrees of freedom

    def at(self, top1: float) -> float:
        """Return the variance of top-1 around this value."""
        return 4 * top1 * (1 - top1) * self.variance


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


def scatter(top1: Iterable[Sequence[float]]) -> Scatter | None:
    """Return the variance between seeds, pooled over networks; None if all have one training.

    Two seeds of a network say next to nothing of their variance: 95 % of Student's t with one degree of freedom lies
    within 12.7. Networks of one family scatter alike, so that all of them together say it.

    Args:
        top1: of each network, one of each seed, 0..1.
    """
    scores = [np.arcsin(np.sqrt(np.asarray(each))) for each in top1]
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
    total, freedom = _together(parts)
    return Difference(lead, _quantile(freedom) * math.sqrt(total), _p(lead, total, freedom), seeds, freedom)


def holm(p_values: Mapping[_K, float]) -> dict[_K, float]:
    """Return the p-values corrected for their number (Holm, 1979): those at most ALPHA are significant."""
    corrected, most = dict[_K, float](), 0.0
    for place, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        most = max(most, min(1.0, (len(p_values) - place) * p_values[key]))
        corrected[key] = most
    return {key: corrected[key] for key in p_values}


class Trend(NamedTuple):
    """The slope of a straight line through several networks."""

    slope: float  # of top-1, per unit of what it is drawn over
    noise: float  # half of its 95 % interval
    seeds: int  # the fewest trainings of a network


def trend(hits: Sequence[Hits], places: Sequence[float]) -> Trend | None:
    """Return the slope of top-1 over the networks' places; None where all have the same place.

    Its variance is found as that of a difference, which is the slope through two networks: over images, with one image
    added that only the highest place gets right and one that only the lowest does; plus over seeds, pooled over all
    networks.

    Args:
        hits: of each network, (images,) or (seeds, images); the same images.
        places: of each network, such as the logarithm of its cost.
    """
    if len(set(places)) < 2:
        return None
    rows = [np.atleast_2d(each) for each in hits]
    for row in rows:
        _check(row[0], rows[0][0])
    weights = np.array(places) - np.mean(places)
    weights /= np.sum(weights**2)
    scores = np.sum([weight * row.mean(0) for weight, row in zip(weights, rows, strict=True)], axis=0)
    within = sum(
        weight**2 * float(row.var(0, ddof=1).mean()) / len(row)
        for weight, row in zip(weights, rows, strict=True)
        if len(row) > 1
    )
    parts = [(_variance_of_mean(scores, (weights.max(), weights.min()), within), len(scores) - 1 or 1)]
    if pooled := scatter(row.mean(1) for row in rows):
        seeds = sum(
            weight**2 * pooled.at(float(row.mean())) / len(row) for weight, row in zip(weights, rows, strict=True)
        )
        parts.append((seeds, pooled.freedom))
    total, freedom = _together(parts)
    return Trend(float(scores.mean()), _quantile(freedom) * math.sqrt(total), min(map(len, rows)))


def sees(lead: float, seeds: int) -> str:
    """Say what a comparison would have found, for the middle of a line (Difference.sees)."""
    if seeds == 1:
        return f"but for what seeds add, {100 * lead:.1f} points would show, four times in five"
    return f"{seeds} trainings of each would show {100 * lead:.1f} points, four times in five"


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
    within = sum(float(hits.var(0, ddof=1).mean()) / len(hits) for hits in (one, other) if len(hits) > 1)
    return _variance_of_mean(one.mean(0) - other.mean(0), (1.0, -1.0), within)


def _variance_of_mean(scores: NDArray[np.float64], added: tuple[float, float], within: float) -> float:
    """Return the variance of the mean of scores over images, as if there were two images more, with the added scores.

    Args:
        scores: (images,).
        added: the highest and the lowest that an image can have.
        within: variance of a score that comes from seeds, which counts elsewhere.
    """
    images, extra = len(scores) + len(added), np.array(added)
    whole = (float(np.sum(scores**2)) + float(np.sum(extra**2))) / images - (float(scores.sum()) / images) ** 2
    return max(whole - within, float(np.sum(extra**2)) / images) / images


def _together(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the sum of independent variances, each with its degrees of freedom, and Satterthwaite's for the sum."""
    total = sum(variance for variance, _ in parts)
    return total, total**2 / sum(variance**2 / free for variance, free in parts)


def _p(lead: float, variance: float, freedom: float) -> float:
    from scipy.stats import t

    return float(2 * t.sf(abs(lead) / math.sqrt(variance), freedom))


def _quantile(freedom: float, alpha: float = ALPHA) -> float:
    """Return how many standard errors Student's t exceeds on either side with probability `alpha` in all."""
    from scipy.stats import t

    return float(t.ppf(1 - alpha / 2, freedom))


def _check(one: Hits, other: Hits) -> None:
    if one.shape != other.shape or not one.size:
        raise ValueError(f"hits of different images: {one.shape} and {other.shape}")
