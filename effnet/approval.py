"""What a stage will cost, whether a person is asked first, and what was approved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from effnet.config import ApproveAbove
from effnet.runs import read_value
from effnet.store import publish
from effnet.values import Value

APPROVALS = "approvals.json"  # in the family's folder
_SAME = 1.5  # times the hours that were approved


class Forecast(NamedTuple):
    """What is left of a stage: all of its trainings, one after the other, on one device."""

    stage: str  # as `effnet plan` calls it
    trainings: int
    hours: float
    unit: str  # what they are: hours of a GPU, or of this machine
    dollars: float | None  # None if nobody knows what the device costs
    device: str
    price_from: str  # source and date of the dollars

    @property
    def told(self) -> str:
        """The forecast in a line."""
        many = "training" if self.trainings == 1 else "trainings"
        money = "" if self.dollars is None else f", {self.dollars:,.2f} dollars"
        return f"{self.stage}: {self.trainings} {many}, about {amount(self.hours)} {self.unit}{money}"


class Approval(Value):
    """That a person let a stage begin."""

    stage: str
    trainings: int
    gpu_hours: float
    dollars: float | None
    device: str
    how: str  # where they said so
    by: str  # who it was; empty if they did not say
    at: str  # time in UTC, ISO 8601


class Approvals(Value):
    """What was approved in a build, in order."""

    approvals: tuple[Approval, ...] = ()


def above(forecast: Forecast, limit: ApproveAbove) -> str:
    """Say which limit a forecast exceeds; empty if none. A stage with nothing left exceeds none."""
    found = []
    if limit.gpu_hours is not None and forecast.hours > limit.gpu_hours:
        found.append(f"{limit.gpu_hours:g} {forecast.unit}")
    if limit.dollars is not None and forecast.dollars is not None and forecast.dollars > limit.dollars:
        found.append(f"{limit.dollars:g} dollars")
    return " and ".join(found)


def is_approved(forecast: Forecast, approvals: Sequence[Approval]) -> bool:
    """Say whether the stage of this build was approved, on the same device, for no less money and about as many hours.

    A rate that is measured again differs: up to 1.5 times as many hours count as the same.
    """
    return any(
        each.stage == forecast.stage
        and each.device == forecast.device
        and forecast.hours <= _SAME * each.gpu_hours
        and (forecast.dollars is None or (each.dollars is not None and forecast.dollars <= each.dollars))
        for each in approvals
    )


def read_approvals(folder: Path) -> tuple[Approval, ...]:
    """Return what was approved of the build in a family's folder."""
    found = read_value(Approvals, folder / APPROVALS)
    return found.approvals if found else ()


def keep_approval(folder: Path, approval: Approval) -> None:
    """Add an approval to those of a build."""
    every = Approvals(approvals=(*read_approvals(folder), approval))
    publish(folder / APPROVALS, every.model_dump_json(indent=2).encode() + b"\n")


def amount(number: float) -> str:
    """Return hours as people read them: 1,234, 12, 3.4, 0.012."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"
