"""Figures of what a family's choices rest on: the search, the scaling study, the grid."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effnet.report.style import BLUE, GREY, ORANGE, RED, WAYS, WIDTH, drawing, log_counts
from effnet.search.findings import FitFindings, NetworkFound, RungFound, SearchFindings, TrialFound
from effnet.statistics import band, scatter, wilson_interval

Targets = Sequence[Path]
MANY = 500  # trials from which on their marks become pixels: as many shapes would make a page large
CANDIDATES = 40  # of a rung that are drawn, at most


def study_figure(networks: Sequence[NetworkFound], title: str, split: str, targets: Targets) -> None:
    """Draw top-1 on a split against MACs for each way of scaling (paper, figures 3, 4 and 8)."""
    others = [each for each in dict.fromkeys(network.strategy for network in networks) if each not in WAYS]
    styles = WAYS | dict(zip(others, itertools.cycle(WAYS.values()), strict=False))
    with drawing(targets, (WIDTH, 3.9)) as (_, (axis,)):
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
        axis.set_title(title, fontsize=10)
        axis.legend(frameon=False, fontsize=7.5, title="largest: depth, width, resolution", title_fontsize=7.5)


def _largest(network: NetworkFound) -> str:
    return ": ×{:.2f}, ×{:.2f}, ×{:.2f}".format(*network.multipliers)


def search_figure(found: SearchFindings, samples: int, targets: Targets) -> None:
    """Draw a search's history and its Pareto front, with the 95 % intervals of what is on it.

    Args:
        found: what the search found.
        samples: images of minival, on which its networks were scored.
        targets: files.
    """
    config, trials = found.config, found.trials
    kinds: list[tuple[str, Sequence[TrialFound], str, str]] = [(config.method, trials, RED, "o")]
    if found.control:
        kinds.append(("random, as control", found.control, BLUE, "s"))
    timed = config.target_latency_ms is not None
    with drawing(targets, (WIDTH, 6.6), rows=2) as (_, (history, costs)):
        for label, rows, color, mark in kinds:
            rewards = [row.reward for row in rows]
            style: dict[str, Any] = {"color": color, "markersize": 4, "linestyle": "none", "marker": mark}
            style["rasterized"] = len(rows) > MANY
            history.plot(range(len(rows)), rewards, alpha=0.4, **style)
            history.plot(range(len(rows)), np.maximum.accumulate(rewards), color=color, label=f"best so far: {label}")
            costs.plot([row.cost for row in rows], [100 * row.top1 for row in rows], alpha=0.5, label=label, **style)
        front = [trials[index] for index in found.pareto]
        spans = [wilson_interval(row.top1, samples) for row in front]
        below = [100 * (row.top1 - low) for row, (low, _) in zip(front, spans, strict=True)]
        above = [100 * (high - row.top1) for row, (_, high) in zip(front, spans, strict=True)]
        x, y = [row.cost for row in front], [100 * row.top1 for row in front]
        costs.errorbar(x, y, yerr=(below, above), fmt="none", ecolor=GREY, elinewidth=0.9, capsize=2, label="front")
        history.xaxis.get_major_locator().set_params(integer=True)
        history.set_xlabel("trial")
        history.set_ylabel(f"reward: top-1 · (cost / target)^{config.exponent:g}")
        history.set_title("history", fontsize=10)
        history.grid(alpha=0.25)
        costs.set_ylabel("top-1 on minival (%)")
        costs.set_title("Pareto front, with 95 % intervals over images", fontsize=10)
        if timed:
            costs.set_xlabel("milliseconds for one image on one core")
            costs.grid(alpha=0.25)
        else:
            log_counts(costs, "multiply-adds (MACs)")
        for axis in (history, costs):
            axis.legend(frameon=False, fontsize=8)


def grid_figure(found: FitFindings, samples: int, targets: Targets) -> None:
    """Draw the rungs of the halving and the finalists, each in a panel with a scale of its own.

    Scores after few epochs and after all of them say different things, and are far apart. The order is that of α, β,
    γ in every panel, not one by scores that noise may have put there. Images are counted once, however many seeds saw
    them.

    Args:
        found: what the grid found.
        samples: images of minival.
        targets: files.
    """
    names = {one.network: one.coefficients for one in (*found.candidates, *found.finalists)}
    last = {one.network: one.top1 for one in found.finalists}
    panels = [(_rung_title(*pair), _shown(pair[0].top1, pair[1].top1), set(pair[1].top1))
              for pair in itertools.pairwise(found.rungs)]  # fmt: skip
    scores: list[tuple[str, Mapping[str, Sequence[float]], set[str]]] = [
        (title, {network: [top1] for network, top1 in shown.items()}, went_on) for title, shown, went_on in panels
    ]
    epochs, finalists = found.rungs[-1].epochs, len(last)
    title = (
        f"{finalists} finalist{'s' if finalists > 1 else ''} after {epochs} epochs\nchosen: the diamond{_doubt(found)}"
    )
    scores.append((title, last, set(last)))
    pooled = scatter(last.values())  # as the decision counts: two seeds alone say next to nothing of their noise
    heights = [len(rows) + 1.5 for _, rows, _ in scores]
    size = (WIDTH, 0.5 + 0.75 * len(scores) + 0.2 * sum(heights))
    with drawing(targets, size, rows=len(scores), heights=heights) as (_, axes):
        for axis, (title, rows, went_on) in zip(axes, scores, strict=True):
            final = axis is axes[-1]
            ordered = sorted(rows, key=lambda network: names[network])
            for place, network in enumerate(ordered):
                mean, low, high = band(rows[network], samples, pooled if final else None)
                axis.plot([100 * low, 100 * high], [place, place], color="#b0b0b0", linewidth=1.5)
                won = final and names[network] == found.winner
                color = RED if won else BLUE if network in went_on else GREY
                style = {"markersize": 7 if won else 5, "markerfacecolor": color if network in went_on else "none"}
                axis.plot([100 * mean], [place], "D" if won else "o", color=color, **style)
                if len(rows[network]) > 1:
                    seeds = [100 * value for value in rows[network]]
                    axis.plot(seeds, [place] * len(seeds), "|", color=ORANGE, markersize=8)
            axis.set_yticks(range(len(ordered)), [_named(names[each], each == found.paper) for each in ordered], size=8)
            axis.set_ylim(-0.7, len(ordered) - 0.3)
            axis.set_title(title, fontsize=9)
            axis.grid(alpha=0.25, axis="x")
        axes[-1].set_xlabel("top-1 on minival (%) and its 95 % interval", size=9)


def _rung_title(rung: RungFound, following: RungFound) -> str:
    epochs = f"{rung.epochs} epoch{'s' if rung.epochs > 1 else ''}"
    on = len(set(following.top1) & set(rung.top1))
    more = f" ({CANDIDATES} drawn)" if len(rung.top1) > CANDIDATES else ""
    return f"{len(rung.top1):,} candidates after {epochs}{more}\n{on} (filled) went on, by loss"


def _shown(top1: Mapping[str, float], following: Mapping[str, float]) -> dict[str, float]:
    """Return those of a rung that are drawn: who went on, and the best of the others."""
    ranked = sorted(top1, key=lambda network: (network not in following, -top1[network]))
    return {network: top1[network] for network in ranked[:CANDIDATES]}


def _named(coefficients: tuple[float, float, float], paper: bool) -> str:
    return "α {:.3g}  β {:.3g}  γ {:.3g}".format(*coefficients) + (" (paper)" if paper else "")


def _doubt(found: FitFindings) -> str:
    if found.tie:
        return ", a tie"
    return ", by one seed" if found.seeds < 2 and len(found.finalists) > 1 else ""
