"""How error falls with cost: e = floor + rise · (t / t0)^-c, fitted to a few small networks.

The form is a saturating power law (arXiv 2106.04560, 2203.15556). A few costs cannot tell its exponent c: it has a
prior, 0.5 as published families of ImageNet have it (docs/forecast.md), whose doubt is carried to every prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effnet.statistics import Hits, scatter

Floats = NDArray[np.float64]

DRAWS = 4_000
GRID = 41  # exponents that are tried
SPREAD = 3  # of the prior, in its deviations
LEAST_EXPONENT = 0.05


class Prior(NamedTuple):
    """What is believed of the exponent c before the fit: a normal distribution, cut off at LEAST_EXPONENT."""

    mean: float
    deviation: float


IMAGENET = Prior(0.5, 0.1)
ELSEWHERE = Prior(0.5, 0.2)  # nobody knows c on other images


class Sweep(NamedTuple):
    """Errors of networks of one family, from small to large."""

    costs: Floats  # (points,), counted multiply-adds, rising
    errors: Floats  # (points,), 0..1, means over seeds
    images: Floats  # (points, points), covariance of the errors that the choice of images makes
    seeds: Floats  # (points,), variance of each mean that seeds make
    freedom: float  # degrees of freedom of `seeds`

    @property
    def covariance(self) -> Floats:
        """All noise, (points, points)."""
        return self.images + np.diag(self.seeds)

    def error_of(self, one: int, other: int) -> float:
        """Return the standard error of the difference of two points."""
        noise = self.covariance
        return math.sqrt(max(noise[one, one] + noise[other, other] - 2 * noise[one, other], 0.0))

    def without_largest(self) -> Sweep:
        """Return the sweep without its largest network."""
        return Sweep(self.costs[:-1], self.errors[:-1], self.images[:-1, :-1], self.seeds[:-1], self.freedom)


def sweep_of(networks: Sequence[tuple[float, Hits]]) -> Sweep:
    """Return the sweep of networks by their cost and their hits on the same images.

    The images' part is that of the means over seeds, with one image added that every network gets right and one that
    none does; what seeds add within an image is left out of it, and counts in the seeds' part, which is pooled over all
    networks (effnet.statistics).

    Args:
        networks: (multiply-adds, (seeds, images)) of each.
    """
    ordered = sorted(networks, key=lambda each: each[0])
    rows = [np.atleast_2d(hits) for _, hits in ordered]
    means = np.stack([1 - row.mean(0) for row in rows])
    extended = np.concatenate([means, np.zeros((len(rows), 1)), np.ones((len(rows), 1))], axis=1)
    number = extended.shape[1]
    images = np.cov(extended, bias=True).reshape(len(rows), len(rows)) / number
    within = [float(row.var(0, ddof=1).mean()) / len(row) / number if len(row) > 1 else 0.0 for row in rows]
    images -= np.diag(np.minimum(within, 0.5 * np.diag(images)))
    pooled = scatter(row.mean(1).tolist() for row in rows)
    seeds = [pooled.at(float(row.mean())) / len(row) if pooled else 0.0 for row in rows]
    return Sweep(
        np.array([cost for cost, _ in ordered], dtype=float),
        means.mean(1),
        images,
        np.array(seeds),
        float(pooled.freedom) if pooled else math.inf,
    )


class Law(NamedTuple):
    """One law."""

    unit: float  # t0, in multiply-adds
    floor: float  # error of a network without bounds
    rise: float  # above it, at t0
    exponent: float

    def at(self, cost: float) -> float:
        """Return the error at a cost, 0..1."""
        return min(self.floor + self.rise * math.pow(cost / self.unit, -self.exponent), 1.0)


class Laws(NamedTuple):
    """The laws that the points allow."""

    expected: Law
    floors: Floats  # (draws,), as the two that follow
    rises: Floats
    exponents: Floats
    shape: float  # variance of a network around the law, beyond its noise: rounding makes no smooth ray

    def at(self, cost: float) -> Floats:
        """Return the error at a cost, (draws,), 0..1."""
        return np.minimum(self.floors + self.rises * (cost / self.expected.unit) ** -self.exponents, 1.0)


def fit(sweep: Sweep, prior: Prior, draws: int = DRAWS) -> Laws:
    """Return the laws that a sweep of at least two costs allows.

    For each exponent of a grid, floor and rise are found by least squares, weighed by the noise, neither below 0. An
    exponent is drawn by prior times likelihood; floor and rise by fitting again to the errors with other noise: of
    images, which networks share, and of seeds, whose variance itself is drawn, as few trainings do not tell it. Where
    the points lie further from the best law than noise explains, each gets so much more noise that it does.

    What is expected is the law of the prior's own exponent, as long as it is among the middle two thirds of those
    drawn: of published families it foretells the largest better than the likeliest one (tests/forecast/test_law.py).

    The draws are the same for the same sweep.
    """
    low = max(LEAST_EXPONENT, prior.mean - SPREAD * prior.deviation)
    grid = np.linspace(low, prior.mean + SPREAD * prior.deviation, GRID)
    unit = math.exp(float(np.log(sweep.costs).mean()))
    falls = (sweep.costs / unit) ** -grid[:, None]
    shape = _beyond_noise(sweep, falls)
    whitening = _whitening(sweep, shape)
    misfits = _solve(whitening, falls, sweep.errors)[2]
    weights = np.exp(-0.5 * (misfits - misfits.min()) - 0.5 * ((grid - prior.mean) / prior.deviation) ** 2)
    rng = np.random.default_rng(0)
    chosen = rng.choice(GRID, size=draws, p=weights / weights.sum())
    floors, rises, _ = _solve(whitening, falls[chosen], sweep.errors + _noise(sweep, shape, draws, rng))
    exponent = float(np.clip(prior.mean, *np.quantile(grid[chosen], (1 / 6, 5 / 6))))
    floor, rise, _ = _solve(whitening, (sweep.costs / unit) ** -exponent, sweep.errors)
    return Laws(Law(unit, float(floor), float(rise), exponent), floors, rises, grid[chosen], shape)


def shown(sweep: Sweep, laws: Laws, cost: float, *, seeds: int, images: int) -> Floats:
    """Return the error that a network of this cost will show, (draws,): the law's, with the noise of what is measured.

    Args:
        sweep: that the laws are of.
        laws: of it.
        cost: multiply-adds.
        seeds: trainings of the network.
        images: that it is measured on, others than the sweep's.
    """
    error, rng = laws.at(cost), np.random.default_rng(1)
    per_seed = _seed_variance(sweep)
    scale = sweep.freedom / rng.chisquare(sweep.freedom, len(error)) if math.isfinite(sweep.freedom) else 1.0
    variance = laws.shape + per_seed * error * (1 - error) * scale / seeds + error * (1 - error) / images
    return np.clip(error + np.sqrt(variance) * rng.standard_normal(len(error)), 0.0, 1.0)


def _seed_variance(sweep: Sweep) -> float:
    """Return the variance that one training adds to a mean of the sweep's seeds, over e (1 - e); largest of all."""
    return float(np.max(sweep.seeds / np.maximum(sweep.errors * (1 - sweep.errors), 1e-9)))


def last_value(sweep: Sweep, _cost: float) -> float:
    """Return the error of the largest network: the rule that size pays no more."""
    return float(sweep.errors[-1])


def line(sweep: Sweep, cost: float) -> float:
    """Return the error at a cost by a straight line in the logarithm of cost."""
    slope, level = np.polyfit(np.log(sweep.costs), sweep.errors, 1)
    return float(max(level + slope * math.log(cost), 0.0))


def power(sweep: Sweep, cost: float) -> float:
    """Return the error at a cost by a power law that falls to 0: a line in the logarithms of cost and error."""
    slope, level = np.polyfit(np.log(sweep.costs), np.log(np.maximum(sweep.errors, 1e-9)), 1)
    return float(math.exp(level + slope * math.log(cost)))


RIVALS: Mapping[str, Callable[[Sweep, float], float]] = {
    "the last value": last_value,
    "a line in log cost": line,
    "a power law without a floor": power,
}


def _noise(sweep: Sweep, shape: float, draws: int, rng: np.random.Generator) -> Floats:
    """Return noise of the points, (draws, points)."""
    points = len(sweep.costs)
    values, vectors = _spread(sweep.images)
    images = rng.standard_normal((draws, points)) * np.sqrt(values) @ vectors.T
    scale = sweep.freedom / rng.chisquare(sweep.freedom, draws) if math.isfinite(sweep.freedom) else np.ones(draws)
    seeds = np.sqrt(scale)[:, None] * np.sqrt(sweep.seeds) * rng.standard_normal((draws, points))
    return np.asarray(images + seeds + math.sqrt(shape) * rng.standard_normal((draws, points)))


def _beyond_noise(sweep: Sweep, falls: Floats) -> float:
    """Return the variance that each point needs besides its noise for the best law to fit (Birge's ratio of 1)."""
    freedom = len(sweep.costs) - 2

    def misfit(variance: float) -> float:
        return float(_solve(_whitening(sweep, variance), falls, sweep.errors)[2].min())

    if freedom < 1 or misfit(0.0) <= freedom:
        return 0.0
    low, high = 0.0, float(np.var(sweep.errors))
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if misfit(middle) > freedom else (low, middle)
    return high


def _whitening(sweep: Sweep, shape: float) -> Floats:
    """Return what makes the points' noise independent and of variance 1, (points, points)."""
    values, vectors = _spread(sweep.covariance + shape * np.eye(len(sweep.costs)))
    return np.asarray((vectors / np.sqrt(values)).T)


def _spread(covariance: Floats) -> tuple[Floats, Floats]:
    """Return a covariance's eigenvalues and vectors; an estimate may have 0 or less, which noise never has."""
    values, vectors = np.linalg.eigh(covariance)
    return np.maximum(values, max(1e-12, 1e-3 * float(np.trace(covariance)) / len(values))), vectors


def _solve(whitening: Floats, falls: Floats, errors: Floats) -> tuple[Floats, Floats, Floats]:
    """Return floors and rises by least squares, each at least 0, and the sums of squares that are left.

    The best of the free solution and those on the two edges is exact, as the problem is convex.

    Args:
        whitening: of the noise, (points, points).
        falls: (t / t0)^-c, (..., points).
        errors: (..., points).
    """
    one, fall, error = whitening.sum(1), falls @ whitening.T, errors @ whitening.T
    a, b, d = one @ one, fall @ one, (fall * fall).sum(-1)
    p, q = error @ one, (fall * error).sum(-1)
    free = ((d * p - b * q) / (a * d - b * b), (a * q - b * p) / (a * d - b * b))
    found = [free, (np.maximum(p / a, 0) + 0 * q, 0 * q), (0 * q, np.maximum(q / d, 0))]
    left = [((error - floor[..., None] * one - rise[..., None] * fall) ** 2).sum(-1) for floor, rise in found]
    left[0] = np.where((free[0] >= 0) & (free[1] >= 0), left[0], math.inf)
    best = np.argmin(left, axis=0)[None]
    floors, rises = (np.take_along_axis(np.stack([each[part] for each in found]), best, 0)[0] for part in range(2))
    return floors, rises, np.take_along_axis(np.stack(left), best, 0)[0]
