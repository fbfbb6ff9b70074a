"""`effnet plan CONFIG --budget`: the members that a budget allows, from the cheapest up."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from effnet.errors import ConfigError

if TYPE_CHECKING:
    from effnet.family import Member
    from effnet.forecast.findings import ForecastFindings
    from effnet.plan import MemberPrice

UNITS = {"gpuh": "hours of training", "usd": "dollars", "ms": "milliseconds for one image"}


class Limit(NamedTuple):
    """A budget."""

    amount: float
    unit: str  # one of UNITS


class Picked(NamedTuple):
    """The members that a budget allows."""

    names: tuple[str, ...]
    left_out: tuple[str, ...]
    spent: float  # by all of them together; of a latency, by the slowest
    following: float | None  # what the next one would make of that; None if there is none


class LimitType(click.ParamType[Limit]):
    """A number above 0 with one of UNITS."""

    name = "budget"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Limit:
        """Return what a text like 50gpuh stands for."""
        found = re.fullmatch(r"([0-9.]+)\s*([a-z]+)", str(value).strip())
        try:
            amount = float(found[1]) if found else 0.0
        except ValueError:
            amount = 0.0
        if not found or found[2] not in UNITS or not amount > 0:
            self.fail(f"'{value}' is no budget; write 50gpuh, 200usd or 5ms", param, ctx)
        return Limit(amount, found[2])


def pick(limit: Limit, spent: Sequence[tuple[str, float]]) -> Picked:
    """Return the members that a budget allows, from the cheapest up, until one is too much.

    Args:
        limit: of hours or dollars of all trainings together, or of each one's latency.
        spent: of each member, from small to large.
    """
    kept, whole = list[str](), 0.0
    for number, (name, amount) in enumerate(spent):
        total = amount if limit.unit == "ms" else whole + amount
        if total > limit.amount:
            return Picked(tuple(kept), tuple(name for name, _ in spent[number:]), whole, total)
        kept.append(name)
        whole = max(whole, total)
    return Picked(tuple(kept), (), whole, None)


def spending(
    limit: Limit, members: Sequence[Member], prices: Sequence[MemberPrice], trainings: int, num_classes: int
) -> list[tuple[str, float]]:
    """Return what each member takes of a budget.

    Args:
        limit: whose unit counts.
        members: from small to large.
        prices: of one training of each; none where nobody knows how many images there are.
        trainings: of each member.
        num_classes: of the networks.

    Raises:
        ConfigError: if nobody knows it.
    """
    if limit.unit == "ms":
        return [(member.name, _latency(member, num_classes)) for member in members]
    if not prices:
        raise ConfigError(
            "plan: --budget: nobody knows how long a training takes; write the dataset first (effnet shard CONFIG), or "
            "give the number of training images (--images)"
        )
    if limit.unit == "gpuh":
        return [(price.name, trainings * price.hours) for price in prices]
    dollars = [price.dollars for price in prices]
    if None in dollars:
        raise ConfigError("plan: --budget: nobody knows what this device costs; name one with a price (--device)")
    return [(price.name, trainings * (price.dollars or 0.0)) for price in prices]


def show_picked(limit: Limit, picked: Picked, forecast: ForecastFindings | None) -> None:
    """Show which members a budget allows, and what the largest of them is expected to reach."""
    what = f"{limit.amount:g} {UNITS[limit.unit]}"
    if not picked.names:
        click.echo(f"\nwithin {what}: no member; {picked.left_out[0]} takes {picked.following:.3g}")
        return
    line = f"within {what}: {', '.join(picked.names)} ({picked.spent:.3g})"
    if picked.left_out and picked.following is not None:
        line += f"; with {picked.left_out[0]} it would be {picked.following:.3g}"
    click.echo(f"\n{line}")
    outlook = forecast.foretold.of(picked.names[-1]) if forecast else None
    if outlook and outlook.top1 is not None:
        click.echo(f"{picked.names[-1]} is expected to reach {outlook.told()} % top-1")
    if picked.left_out:
        click.echo(f"to take these alone, leave {', '.join(picked.left_out)} out of the config's members")


def _latency(member: Member, num_classes: int) -> float:
    """Return the milliseconds of a member's network on one core, before it is trained."""
    from effnet.evaluation.latency import measure_latency
    from effnet.models.build import build

    arch = member.architecture
    return measure_latency(build(arch, num_classes).eval(), arch.in_channels, arch.resolution).latency_ms
