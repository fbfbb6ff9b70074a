"""effnet choose: which member of a family to use, within limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from effnet.errors import ConfigError
from flows.cli import options
from flows.cli.amounts import Amount, Quantity
from flows.cli.find import newest_family

if TYPE_CHECKING:
    from effnet.answer import Answer
    from effnet.family import MemberResult
    from effnet.runs import Latency
    from effnet.store import Store

MILLISECONDS = Quantity("milliseconds", {"": 1.0, "ms": 1.0, "s": 1000.0})
BYTES = Quantity("bytes", {"kB": 1e3, "MB": 1e6, "GB": 1e9})
SHARE = Quantity("share", {"": 1.0, "%": 0.01}, most=1.0)


@click.command()
@click.argument("family", required=False)
@click.option(
    "--max-latency", type=MILLISECONDS, help="Of one image: 5ms; as measured when it was evaluated, or now (--device)."
)
@click.option("--max-params", type=Amount(), help="Parameters: 5M.")
@click.option("--max-macs", type=Amount(), help="Multiply-adds: 400M.")
@click.option("--max-size", type=BYTES, help="Of the weights file: 20MB.")
@click.option("--min-top1", type=SHARE, help="On val: 95%.")
@click.option("--device", metavar="cpu|cuda", help="Go by latencies measured on this device now: cpu, cuda, cuda:1.")
@options.HOME
@options.JSON
def choose(family: str | None, device: str | None, store: Path, as_json: bool, **limits: float | None) -> None:
    """Say which member of FAMILY to use within limits, and why; by default, of the family that was built last.

    Of the members within the limits it is the one that the build itself would name: the best where size pays, elsewhere
    the cheapest that noise cannot tell from the best.

    With --device, members within the other limits are timed here and now, one after the other, as an evaluation does.
    """
    from effnet.store import Store

    root = Store.at(store)
    found = newest_family(root, family)
    if family is None:
        click.echo(f"effnet: the family is {found.family}", err=True)
    outside: dict[str, str] = {}
    now: dict[str, Latency] = {}
    if device:
        outside = _all_outside(found.members, root, dict(limits, max_latency=None), now)
        now = _measured([member for member in found.members if member.name not in outside], root, device)
    outside |= _all_outside([each for each in found.members if each.name not in outside], root, limits, now)
    within = [member for member in found.members if member.name not in outside]
    if not within:
        told = "; ".join(f"{name}: {why}" for name, why in outside.items())
        raise ConfigError(f"family {found.family}: no member is within the limits ({told})")
    answer = _answer(within, root, limited=bool(outside))
    chosen = next(member for member in within if member.name == answer.member)
    how = options.to_predict(chosen.run_key, root.root)
    if as_json:
        names = [member.name for member in within]
        shown = {
            "family": found.family,
            **answer.model_dump(),
            "run": chosen.run_key,
            "predict": how,
            "within": names,
            "outside": outside,
            "measured": {name: latency.model_dump(mode="json") for name, latency in now.items()},
        }
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    for name, latency in now.items():
        click.echo(f"{name} takes {latency.latency_ms:.2f} ms, measured now ({latency.where()})")
    for name, why in outside.items():
        click.echo(f"{name} is left out: {why}")
    click.echo(f"Use {answer.member}: {answer.because}.")
    click.echo(how)


def _measured(members: Sequence[MemberResult], store: Store, device: str) -> dict[str, Latency]:
    """Time members on a device, one after the other; equal networks once."""
    from effnet.evaluation.device import device_of
    from effnet.evaluation.latency import measure_latency
    from effnet.evaluation.run import load_network
    from effnet.runs import RunFolder

    where = device_of(device)
    by_run: dict[str, Latency] = {}
    for member in members:
        if member.run_key not in by_run:
            click.echo(f"effnet: timing {member.name}", err=True)
            network = load_network(RunFolder(store.runs / member.run_key)).to(where)
            arch = network.architecture
            by_run[member.run_key] = measure_latency(network, arch.in_channels, arch.resolution, where)
    return {member.name: by_run[member.run_key] for member in members}


def _all_outside(
    members: Sequence[MemberResult], store: Store, limits: Mapping[str, float | None], now: Mapping[str, Latency]
) -> dict[str, str]:
    """Return which members are outside the limits, and of which."""
    told = {each.name: _outside(each, store, limits, now.get(each.name)) for each in members}
    return {name: why for name, why in told.items() if why}


def _outside(member: MemberResult, store: Store, limits: Mapping[str, float | None], now: Latency | None) -> str:
    """Return which limits a member is outside of, for people; empty if none."""
    from effnet.runs import BESIDE

    weights = store.runs / member.run_key / "model.safetensors"
    size = weights.stat().st_size if weights.exists() else 4 * member.params
    latency_ms = now.latency_ms if now else member.latency_ms
    disturbed = not now.quiet if now else member.latency_disturbed
    checks = (
        ("max_latency", latency_ms, f"{latency_ms:.2f} ms{f' ({BESIDE})' if disturbed else ''}"),
        ("max_params", member.params, f"{member.params:,} parameters"),
        ("max_macs", member.macs, f"{member.macs:,} multiply-adds"),
        ("max_size", size, f"{size / 1e6:.2f} MB"),
    )
    told = [text for name, value, text in checks if (limit := limits[name]) is not None and value > limit]
    if (least := limits["min_top1"]) is not None and member.top1 < least:
        told.append(f"top-1 {member.top1:.2%}")
    return ", ".join(told)


def _answer(members: Sequence[MemberResult], store: Store, *, limited: bool = False) -> Answer:
    """Return what a build of these members alone would say; `limited` says that the family has others."""
    from effnet.answer import conclude, told_out_of_fold
    from effnet.champion import Contender
    from effnet.evaluation.classes import compared_samples
    from effnet.hits import compared_hits
    from effnet.runs import RunFolder

    def folds(member: MemberResult) -> list[list[RunFolder]]:
        return [[RunFolder(store.runs / key) for key in runs] for runs in member.folds]

    distinct = {member.run_key: member for member in reversed(members)}  # of equal networks the first, as in a build
    contenders = [
        Contender(member.name, compared_hits(folds(member)), member.macs) for member in reversed(distinct.values())
    ]
    answer, growth = conclude(contenders, compared_samples(folds(members[0])), limited=limited)
    if len(members[0].folds) == 1:
        return answer
    return told_out_of_fold(answer, growth, contenders[0].hits.shape[1])[0]


COMMANDS = (choose,)
