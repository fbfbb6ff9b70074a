"""What a forecast leaves behind: forecast.json as values. Top-1 is between 0 and 1, intervals are of 95 %."""

from __future__ import annotations

from typing import Literal

from effnet.config import ForecastConfig
from effnet.values import Value

FORECAST = "forecast.json"

Verdict = Literal["law", "no law", "flat", "too noisy", "not monotone", "too few costs"]


class Gain(Value):
    """How much top-1 rises from one network to a dearer one, on average over trainings of each."""

    expected: float
    low: float
    high: float

    def told(self) -> str:
        """Return it in points, for people: `+1.3 (+0.9 to +1.8)`."""
        return "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * each for each in (self.expected, self.low, self.high)))

    def short(self) -> str:
        """Return it in points with half of its interval, for people: `+1.3 ± 0.5`."""
        return f"{100 * self.expected:+.1f} ± {50 * (self.high - self.low):.1f}"


class Outlook(Value):
    """What a network is expected to reach, before it is trained."""

    name: str
    macs: int
    top1: float | None = None  # on val; none where nothing can be said, and `why` says why
    low: float | None = None
    high: float | None = None
    low80: float | None = None  # of its 80 % interval
    high80: float | None = None
    times: float | None = None  # its multiply-adds, times the largest that was swept
    gain: Gain | None = None  # over the next cheaper member; none for the cheapest
    why: str = ""

    def told(self) -> str:
        """Return the expected top-1 with its interval, for people; or why there is none."""
        if self.top1 is None or self.low is None or self.high is None:
            return f"no forecast: {self.why}"
        return f"{100 * self.top1:.1f} ({100 * self.low:.1f} to {100 * self.high:.1f})"


class LeftOut(Value):
    """A member that is not trained, as it would gain too little."""

    name: str
    macs: int
    why: str


class HeldOut(Value):
    """The largest network of the sweep, foretold from the others."""

    macs: int
    reached: float  # top-1
    law: float
    low: float
    high: float
    rivals: dict[str, float]  # top-1 by simpler rules

    @property
    def covered(self) -> bool:
        """Whether the law's interval holds what was reached."""
        return self.low <= self.reached <= self.high

    @property
    def nearest(self) -> str:
        """Which rule came nearest."""
        return min(self._rules, key=lambda name: abs(self._rules[name] - self.reached))

    @property
    def _rules(self) -> dict[str, float]:
        return {"the law": self.law} | self.rivals

    def told(self) -> str:
        """Return how far each rule was off, in points, for people."""
        off = ", ".join(f"{name} {100 * (value - self.reached):+.1f}" for name, value in self._rules.items())
        return f"the largest network foretold from the others, in points off: {off}"


class FittedLaw(Value):
    """top-1 = 1 - floor - rise · (MACs / unit)^-exponent, as it is expected."""

    floor: float
    rise: float
    unit: float
    exponent: float


class Foretold(Value):
    """What a sweep says of networks that are not trained yet."""

    verdict: Verdict
    told: str
    held_out: HeldOut | None = None  # none where the sweep was refused before
    law: FittedLaw | None = None
    doubling: Gain | None = None  # by twice the largest cost of the sweep
    curve: tuple[tuple[float, float, float, float], ...] = ()  # MACs, top-1 on average, and its interval
    members: tuple[Outlook, ...]

    def of(self, name: str) -> Outlook | None:
        """Return what is foretold of a member; None if it is not known."""
        return next((each for each in self.members if each.name == name), None)


class PointFound(Value):
    """A network of the sweep, on minival."""

    factor: float  # multiply-adds wanted, times the baseline's
    macs: int
    params: int
    resolution: int
    runs: tuple[str, ...]  # one of each seed
    top1: tuple[float, ...]  # of each seed
    mean: float
    low: float
    high: float
    member: str = ""  # that it is, too


class ForecastFindings(Value):
    """A forecast."""

    config: ForecastConfig
    dataset: str
    coefficients: tuple[float, float, float]  # α, β, γ of its networks
    epochs: int  # of each training
    members_epochs: int
    images: int  # of minival, that the law is fitted on
    val_images: int  # that members will be measured on
    prior: tuple[float, float]  # mean and deviation of the exponent
    points: tuple[PointFound, ...]
    foretold: Foretold
    warnings: tuple[str, ...] = ()
    made: str  # time in UTC, ISO 8601

    @property
    def ranks_only(self) -> bool:
        """Whether its trainings are not as long as the members': then its numbers are not what these will reach."""
        return self.epochs != self.members_epochs

    @property
    def caution(self) -> str:
        """What to beware of, for people; empty where there is nothing."""
        if not self.ranks_only:
            return ""
        lengths = f"{self.epochs} epochs, the members' {self.members_epochs}"
        return f"its trainings have {lengths}: it ranks members, and what they reach will be something else"

    def source(self) -> str:
        """Say what it rests on, for people."""
        base = min(self.points, key=lambda point: abs(point.factor - 1))
        low, high = (point.macs / base.macs * base.factor for point in (self.points[0], self.points[-1]))
        epochs = f", {self.epochs} epochs where members have {self.members_epochs}" if self.ranks_only else ""
        return (
            f"from {len(self.points)} costs, {low:.2g} to {high:.2g} times the baseline's, {len(self.points[0].runs)} "
            f"trainings each{epochs}, {self.images:,} images of minival"
        )

    @property
    def runs(self) -> set[str]:
        """Keys of all its runs."""
        return {run for point in self.points for run in point.runs}
