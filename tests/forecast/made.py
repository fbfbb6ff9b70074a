"""A forecast without a training."""

from __future__ import annotations

from collections.abc import Sequence

from effnet.config import ForecastConfig
from effnet.forecast.findings import FittedLaw, ForecastFindings, Foretold, HeldOut, Outlook, PointFound

POINTS = tuple(
    PointFound(
        factor=factor, macs=round(40_000 * factor), params=1000, resolution=8, runs=("0" * 16, "1" * 16),
        top1=(top1, top1), mean=top1, low=top1 - 0.01, high=top1 + 0.01,
    )
    for factor, top1 in ((0.5, 0.80), (1, 0.84), (2, 0.87), (4, 0.89))
)  # fmt: skip


def made_findings(outlooks: Sequence[Outlook]) -> ForecastFindings:
    """Return a forecast that says this of members."""
    held_out = HeldOut(macs=160_000, reached=0.89, law=0.888, low=0.87, high=0.9, rivals={"the last value": 0.87})
    foretold = Foretold(
        verdict="law",
        told=held_out.told(),
        held_out=held_out,
        law=FittedLaw(floor=0.05, rise=0.1, unit=40_000, exponent=0.5),
        curve=((20_000, 0.8, 0.79, 0.81), (160_000, 0.89, 0.88, 0.9), (640_000, 0.92, 0.88, 0.94)),
        members=tuple(outlooks),
    )
    return ForecastFindings(
        config=ForecastConfig(), dataset="0" * 16, coefficients=(1.2, 1.1, 1.15), epochs=3, members_epochs=3,
        images=500, val_images=500, prior=(0.5, 0.2), points=POINTS, foretold=foretold,
        made="2026-11-27T12:00:00+00:00",
    )  # fmt: skip
