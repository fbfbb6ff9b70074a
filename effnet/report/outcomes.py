"""What was foretold beside what was reached: of a family, and of all families of a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from effnet.family import FamilyResult, MemberResult, families_of
from effnet.forecast.findings import ForecastFindings, Outlook
from effnet.report.once import once
from effnet.report.style import BLUE, GREY, ORANGE, RED, WIDTH, drawing, log_counts
from effnet.report.words import counted
from effnet.store import Store


class Outcome(NamedTuple):
    """A member that was foretold, and what it reached on val. Top-1 is between 0 and 1."""

    family: str
    build: str  # its key
    member: str
    foretold: Outlook
    top1: float  # as it was foretold
    low: float
    high: float
    reached: float
    held_out: bool  # dearer than all that was swept: else the law has seen it, or its neighbours on both sides

    @property
    def error(self) -> float:
        """Foretold minus reached."""
        return self.top1 - self.reached

    @property
    def verdict(self) -> str:
        """Say where the outcome lies in the intervals."""
        low80, high80 = self.foretold.low80 or self.low, self.foretold.high80 or self.high
        if low80 <= self.reached <= high80:
            return "within 80 %"
        return "within 95 %" if self.low <= self.reached <= self.high else "outside 95 %"


class Calibration(NamedTuple):
    """How good forecasts were, over members that are dearer than all that was swept."""

    members: int
    families: int
    bias: float  # mean of foretold minus reached
    bias_error: float | None  # its standard error; None of one member
    off: float  # mean distance
    within80: float  # share of members
    within95: float

    def told(self) -> str:
        """Say it in a line."""
        noise = "" if self.bias_error is None else f" ± {100 * 2 * self.bias_error:.1f}"
        families = counted(self.families, "family", "families")
        return (
            f"{counted(self.members, 'member')} of {families}, each dearer than all that was swept: foretold minus "
            f"reached {100 * self.bias:+.1f}{noise} points on average, {100 * self.off:.1f} off; "
            f"{self.within80:.0%} within their 80 % intervals, {self.within95:.0%} within 95 %"
        )


def outcomes_of(family: FamilyResult) -> list[Outcome]:
    """Return what was foretold of a family's members beside what they reached; without a forecast none."""
    return [found for member in family.members if (found := _outcome(family, member))]


def outcomes_in(store: Store) -> list[Outcome]:
    """Return the outcomes of all finished families of a store, by age; of equal trainings those of the newest build."""
    found: dict[tuple[str, ...], Outcome] = {}
    for family in reversed(list(families_of(store))):
        for member in family.members:
            if outcome := _outcome(family, member):
                found.pop(tuple(member.runs), None)
                found[tuple(member.runs)] = outcome
    return list(found.values())


def calibration(outcomes: Sequence[Outcome]) -> Calibration | None:
    """Return how good forecasts were; None where no member was dearer than all that was swept."""
    kept = [each for each in outcomes if each.held_out]
    if not kept:
        return None
    errors, verdicts = [each.error for each in kept], [each.verdict for each in kept]
    return Calibration(
        members=len(kept),
        families=len({each.build for each in kept}),
        bias=fmean(errors),
        bias_error=stdev(errors) / len(kept) ** 0.5 if len(kept) > 1 else None,
        off=fmean(abs(error) for error in errors),
        within80=verdicts.count("within 80 %") / len(kept),
        within95=1 - verdicts.count("outside 95 %") / len(kept),
    )


def draw_forecast(folder: Path, found: ForecastFindings, outcomes: Sequence[Outcome]) -> Path:
    """Draw forecast.png and forecast.svg in a build's folder, unless they show just this; return the latter."""
    shown = [
        found.foretold.model_dump(mode="json"),
        [point.model_dump(mode="json") for point in found.points],
        [each.reached for each in outcomes],
    ]
    return once(folder, "forecast", shown, lambda targets: forecast_figure(found, outcomes, targets))[1]


def forecast_figure(found: ForecastFindings, outcomes: Sequence[Outcome], targets: Sequence[Path]) -> None:
    """Draw the sweep on minival, the law with its 95 % band, what is expected of members, and what they reached on val.

    Args:
        found: the forecast.
        outcomes: members that are trained by now.
        targets: files (.png, .svg).
    """
    with drawing(targets, (WIDTH, 3.9)) as (_, (axis,)):
        if curve := found.foretold.curve:
            costs, top1, low, high = zip(*curve, strict=True)
            axis.fill_between(costs, _percent(low), _percent(high), color=BLUE, alpha=0.15, linewidth=0)
            axis.plot(costs, _percent(top1), color=BLUE, linewidth=1.3, label="law, and its 95 % band")
        macs = [point.macs for point in found.points]
        mean = _percent([point.mean for point in found.points])
        bars = (
            [100 * (point.mean - point.low) for point in found.points],
            [100 * (point.high - point.mean) for point in found.points],
        )
        style = {"fmt": "o", "markersize": 4, "elinewidth": 0.8}
        axis.errorbar(macs, mean, yerr=bars, color=GREY, label="swept, on minival", **style)
        known = [each for each in found.foretold.members if each.top1 is not None]
        for number, each in enumerate(known):
            low95, high95 = 100 * (each.low or 0), 100 * (each.high or 0)
            label = "expected on val, 95 %" if number == 0 else None
            axis.plot([each.macs, each.macs], [low95, high95], color=ORANGE, linewidth=1.2, label=label)
            axis.annotate(
                each.name, (each.macs, low95), (0, -4), textcoords="offset points", ha="center", va="top", size=8
            )
        if outcomes:
            reached = [each.foretold.macs for each in outcomes], _percent([each.reached for each in outcomes])
            axis.plot(*reached, "X", color=RED, markersize=7, label="reached on val")
        log_counts(axis, "multiply-adds (MACs)")
        axis.set_ylabel("top-1 (%)")
        axis.margins(0.06, 0.1)
        axis.legend(frameon=False, fontsize=7.5, loc="lower right")


def _outcome(family: FamilyResult, member: MemberResult) -> Outcome | None:
    each = member.foretold
    if each is None or each.top1 is None or each.low is None or each.high is None:
        return None
    held_out = each.times is not None and each.times > 1
    return Outcome(family.family, family.key, member.name, each, each.top1, each.low, each.high, member.top1, held_out)


def _percent(shares: Sequence[float]) -> list[float]:
    return [100 * share for share in shares]
