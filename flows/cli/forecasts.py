"""How `effnet forecast` shows what members are expected to reach."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from effnet.forecast.findings import ForecastFindings, Outlook


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


def _gain(each: Outlook) -> str:
    return each.gain.told() if each.gain else ""
