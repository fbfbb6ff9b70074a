"""Figures of what a family's choices rest on: the search, the scaling study, the grid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from effnet.report.style import BLUE, GREY, ORANGE, RED, WAYS, drawing, log_counts
from effnet.search.findings import FitFindings, NetworkFound, SearchFindings, TrialFound
from effnet.statistics import band

Targets = Sequence[Path]


def study_figure(networks: Sequence[NetworkFound], title: str, split: str, targets: Targets) -> None:
    """Draw top-1 on a split against MACs for each way of scaling (paper, figures 3, 4 and 8)."""
    others = [each for each in dict.fromkeys(network.strategy for network in networks) if each not in WAYS]
    styles = WAYS | dict(zip(others, itertools.cycle(WAYS.values()), strict=False))
    with drawing(targets, (6.4, 4.4)) as (_, (axis,)):
        for strategy in dict.fromkeys(network.strategy for network in networks):
            color, mark = styles[strategy]
            ordered = sorted((each for each in networks if each.strategy == strategy), key=lambda each: each.macs)
            macs = [point.macs for point in ordered]
            label = f"{strategy}{_largest(ordered[-1])}"
            axis.plot(macs, [100 * point.mean for point in ordered], marker=mark, color=color, label=label)
            low, high = [100 * point.low for point in ordered], [100 * point.high for point in ordered]
            axis.fill_between(macs, low, high, color=color, alpha=0.12, linewidth=0)
        log_counts(axis, "multiply-adds (MACs)")
        axis.set_ylabel(f"top-1 on {split} (%)")
        axis.set_title(title, fontsize=11)
        axis.legend(frameon=False, fontsize=8, title="largest network: depth, width, resolution", title_fontsize=8)


def _largest(network: NetworkFound) -> str:
    return ": ×{:.2f}, ×{:.2f}, ×{:.2f}".format(*network.multipliers)


def search_figure(found: SearchFindings, targets: Targets) -> None:
    """Draw a search's history and its Pareto front."""
    config, trials = found.config, found.trials
    kinds: list[tuple[str, Sequence[TrialFound], str, str]] = [(config.method, trials, RED, "o")]
    if found.control:
        kinds.append(("random, as control", found.control, BLUE, "s"))
    timed = config.target_latency_ms is not None
    with drawing(targets, (10, 4.4), columns=2) as (_, (left, right)):
        for label, rows, color, mark in kinds:
            rewards = [row.reward for row in rows]
            style = {"color": color, "markersize": 4, "linestyle": "none", "marker": mark}
            left.plot(range(len(rows)), rewards, alpha=0.4, **style)
            left.plot(range(len(rows)), np.maximum.accumulate(rewards), color=color, label=f"best so far: {label}")
            right.plot([row.cost for row in rows], [100 * row.top1 for row in rows], alpha=0.5, label=label, **style)
        front = [trials[index] for index in found.pareto]
        right.step(
            [row.cost for row in front],
            [100 * row.top1 for row in front],
            where="post",
            color=GREY,
            label="front",
        )
        left.xaxis.get_major_locator().set_params(integer=True)
        left.set_xlabel("trial")
        left.set_ylabel(f"reward: top-1 · (cost / target)$^{{{config.exponent:g}}}$")
        left.set_title("history", fontsize=11)
        left.grid(alpha=0.25)
        right.set_ylabel("top-1 on minival (%)")
        right.set_title("Pareto front", fontsize=11)
        if timed:
            right.set_xlabel("milliseconds for one image on one core")
            right.grid(alpha=0.25)
        else:
            log_counts(right, "multiply-adds (MACs)")
        for axis in (left, right):
            axis.legend(frameon=False, fontsize=8)


def grid_figure(found: FitFindings, samples: int, targets: Targets) -> None:
    """Draw the grid's candidates by rank, with the noise of each score.

    The images are counted once, however many seeds saw them.

    Args:
        found: what the grid found.
        samples: images of minival.
        targets: files.
    """
    last = {one.network: one for one in found.finalists}
    reached = {network: (rung.epochs, top1) for rung in found.rungs for network, top1 in rung.top1.items()}
    names = {one.network: one.coefficients for one in (*found.candidates, *found.finalists)}
    rows = sorted(reached.items(), key=lambda item: (item[1][0], item[1][1]))
    with drawing(targets, (6.8, 1.5 + 0.26 * len(rows))) as (_, (axis,)):
        labels = []
        for place, (network, (epochs, top1)) in enumerate(rows):
            final = network in last
            _, low, high = band(last[network].top1 if final else [top1], samples)
            axis.plot([100 * low, 100 * high], [place, place], color="0.75", linewidth=1.5)
            won = final and names[network] == found.winner
            color = RED if won else BLUE if final else GREY
            axis.plot([100 * top1], [place], "D" if won else "o", color=color, markersize=7 if won else 5)
            if final:
                seeds = last[network].top1
                axis.plot([100 * value for value in seeds], [place] * len(seeds), "|", color=ORANGE, markersize=8)
            alpha, beta, gamma = names[network]
            mark = " (paper)" if network == found.paper else ""
            labels.append(f"α {alpha:.3g}  β {beta:.3g}  γ {gamma:.3g}{mark}, {epochs} ep.")
        axis.set_yticks(range(len(rows)), labels, size=8)
        axis.set_xlabel("top-1 on minival (%); grey: 95 % interval over images and seeds; orange: seeds")
        axis.set_title(f"grid at φ = 1; chosen: the diamond{_doubt(found)}", fontsize=11)
        axis.grid(alpha=0.25, axis="x")


def _doubt(found: FitFindings) -> str:
    if found.tie:
        return ", a tie"
    return ", by one seed" if found.seeds < 2 else ""
