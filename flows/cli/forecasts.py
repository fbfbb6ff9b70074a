"""How `effnet forecast` and `effnet plan` show what members are expected to reach."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from effnet.errors import ConfigError
from flows.cli.prices import told

if TYPE_CHECKING:
    from effnet.forecast.findings import ForecastFindings, Outlook
    from effnet.plan import MemberPrice, PlannedMember
    from effnet.store import Store


def show_forecast(found: ForecastFindings) -> None:
    """Show a forecast: what it rests on, and each member's expected top-1 and gain."""
    from rich.console import Console

    from tasks.terminal.screen import make_table, short

    console = Console(highlight=False)
    for line in (found.source(), *found.warnings, found.foretold.told):
        console.print(line, soft_wrap=True)
    if found.foretold.law is None:
        return
    rows = [
        (each.name, short(each.macs), each.told() if each.top1 is not None else "", _gain(each))
        for each in found.foretold.members
    ]
    console.print(make_table(("", "MACs", "top-1 expected (95 %)", "points on the one before"), rows))
    for each in found.foretold.members:
        if each.top1 is None:
            console.print(f"{each.name}: {each.told()}", soft_wrap=True)
    if doubling := found.foretold.doubling:
        console.print(f"twice the largest cost swept: {doubling.told()} points", soft_wrap=True)
    if found.ranks_only:
        click.echo(found.caution)


def show_expected(
    found: ForecastFindings, rows: Sequence[PlannedMember], prices: Sequence[MemberPrice], trainings: int
) -> None:
    """Show what members are expected to reach, beside what all their trainings cost, for `effnet plan`.

    Args:
        found: the forecast of the last time that it was made.
        rows: the members.
        prices: of one training of each; none where nobody knows.
        trainings: of each member.
    """
    click.echo(f"\nforecast of {age(found)} ago, {found.source()}; 95 % intervals")
    if found.foretold.law is None:
        click.echo(found.foretold.told)
        return
    costs = {price.name: price for price in prices}
    click.echo(f"{'':6}{'top-1 expected':>22}{'points on the one before':>27}{'time':>14}{'dollars':>11}")
    for row in rows:
        each, price = found.foretold.of(row.name), costs.get(row.name)
        if each is None:
            continue
        known = each.top1 is not None
        time = told(trainings * price.hours) if price else ""
        dollars = f"{trainings * price.dollars:,.2f}" if price and price.dollars is not None else ""
        click.echo(
            f"{row.name:6}{each.told() if known else 'none':>22}{_gain(each):>27}{time:>14}{dollars:>11}"
            f"{'' if known else f'   {each.why}'}"
        )
    if found.caution:
        click.echo(found.caution)


def show_history(store: Store, as_json: bool) -> None:
    """Show what was foretold of all members in a store, what they reached, and how good the forecasts were."""
    from rich.console import Console

    from effnet.report.outcomes import calibration, outcomes_in
    from tasks.terminal.screen import make_table

    if not store.root.is_dir():
        raise ConfigError(f"{store.root}: no store here; name it with --store")
    found = outcomes_in(store)
    judged = calibration(found)
    if as_json:
        rows = [each._asdict() | {"foretold": each.foretold.model_dump(mode="json")} for each in found]
        click.echo(json.dumps({"outcomes": rows, "calibration": judged._asdict() if judged else None}, indent=2))
        return
    console = Console(highlight=False)
    if not found:
        console.print("no family here was foretold and then built", soft_wrap=True)
        return
    columns = ("", "", "top-1 foretold (95 %)", "reached", "off", "", "cost")
    console.print(
        make_table(
            columns,
            [
                (
                    each.family,
                    each.member,
                    each.foretold.told(),
                    f"{100 * each.reached:.1f}",
                    f"{100 * each.error:+.1f}",
                    each.verdict,
                    f"{each.foretold.times or 0:.2g}× the largest swept",
                )
                for each in found
            ],
        )
    )
    told_of = judged.told() if judged else "no member was dearer than all that was swept: nothing can be judged yet"
    console.print(told_of, soft_wrap=True)


def forecast_data(found: ForecastFindings | None) -> dict[str, Any] | None:
    """Return a forecast for `effnet plan --json`."""
    if found is None:
        return None
    kept = {"made": found.made, "source": found.source(), "caution": found.caution}
    return kept | found.foretold.model_dump(mode="json", exclude={"curve"})


def age(found: ForecastFindings) -> str:
    """Return how old a forecast is, for people."""
    from tasks.terminal.screen import duration

    return duration((datetime.now(UTC) - datetime.fromisoformat(found.made)).total_seconds())


def _gain(each: Outlook) -> str:
    return each.gain.told() if each.gain else ""
