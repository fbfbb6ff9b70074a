"""Figures of a family's members, from results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from effnet.report.style import BLUE, GREY, ORANGE, RED, WAYS, WIDTH, drawing, log_counts
from effnet.statistics import Band, band, scatter

Targets = Sequence[Path]
EPOCHS_SHOWN = 150  # of a learning curve, at most: a page of ten thousand would be large
_AXES = {
    "macs": "multiply-adds (MACs)",
    "params": "parameters",
    "latency_ms": "milliseconds for one image on one core",
}


class Point(NamedTuple):
    """One network in a figure."""

    name: str
    params: int
    macs: int
    scores: Sequence[float]  # top-1 of each seed, 0..1
    samples: int  # images that all of them were measured on
    latency_ms: float = 0.0

    @property
    def top1(self) -> float:
        """Mean over seeds."""
        return sum(self.scores) / len(self.scores)


class Curve(NamedTuple):
    """How a member learnt."""

    seeds: tuple[tuple[tuple[int, float], ...], ...]  # of each training, (epoch, minival top-1); epoch 0: its features
    best: int  # epoch of the training whose model is the member's


def accuracy_figure(
    points: Sequence[Point],
    title: str,
    targets: Targets,
    others: Mapping[str, Sequence[Point]] | None = None,
    chosen: str | None = None,
) -> None:
    """Draw top-1 against MACs and against params, side by side (paper, figures 1, 5 and 8).

    Args:
        points: the family's members.
        title: of the figure.
        targets: files (.png, .svg).
        others: by way of scaling: networks of the scaling study, to compare.
        chosen: name of the member to use, which is marked.
    """
    with drawing(targets, (10, 4.4), columns=2) as (figure, axes):
        axes[0].sharey(axes[1])
        for axis, field in zip(axes, ("macs", "params"), strict=True):
            _against(axis, points, field, others, chosen)
        axes[0].set_ylabel("top-1 on the validation split (%)")
        if others:
            axes[1].legend(frameon=False, fontsize=8, loc="lower right")
        figure.suptitle(f"{title}\n", fontsize=13)
        figure.text(0.5, 0.915, noise_story(points), ha="center", size=9, color=GREY)


def cost_figure(
    points: Sequence[Point],
    field: str,
    targets: Targets,
    others: Mapping[str, Sequence[Point]] | None = None,
    chosen: str | None = None,
    height: float = 3.5,
) -> None:
    """Draw top-1 against one cost: "macs", "params" or "latency_ms" (paper, figures 1 and 5, table 4).

    Args:
        points, targets, others, chosen: as of `accuracy_figure`.
        field: of the points.
        height: in inches.
    """
    with drawing(targets, (WIDTH, height)) as (_, (axis,)):
        _against(axis, points, field, others, chosen)
        axis.set_ylabel("top-1 on val (%)")
        if others:
            axis.legend(frameon=False, fontsize=8, loc="lower right")


def noise_story(points: Sequence[Point]) -> str:
    """Say what the intervals of a figure are over."""
    samples = ", ".join(f"{number:,}" for number in sorted({point.samples for point in points}))
    seeds = min(len(point.scores) for point in points)
    of_seeds = f" and {seeds} trainings; dashes: trainings" if seeds > 1 else ""
    return f"band and bars: 95 % interval over {samples} images{of_seeds}"


def learning_figure(curves: Mapping[str, Curve], samples: int, targets: Targets) -> None:
    """Draw minival top-1 by epoch, a panel for each member, with its 95 % interval over images and seeds.

    Epoch 0 is what a classifier on the features alone reaches, of trainings that start from weights.

    Args:
        curves: by member.
        samples: images of minival.
        targets: files.
    """
    rows = -(-len(curves) // 2)
    with drawing(targets, (WIDTH, 0.7 + 1.45 * rows), columns=min(2, len(curves)), rows=rows) as (figure, axes):
        pooled = _pooled(curves)
        for axis, (name, curve) in zip(axes, curves.items(), strict=False):
            axis.sharex(axes[0])
            axis.sharey(axes[0])
            rising = {
                epoch: band([dict(seed)[epoch] for seed in curve.seeds if epoch in dict(seed)], samples, pooled[epoch])
                for epoch in _epochs(curve)
            }
            x = list(rising)
            low, high = [100 * each.low for each in rising.values()], [100 * each.high for each in rising.values()]
            axis.fill_between(x, low, high, color=BLUE, alpha=0.18, linewidth=0)
            axis.plot(x, [100 * each.mean for each in rising.values()], color=BLUE, linewidth=1.3)
            if curve.best in rising:
                axis.plot([curve.best], [100 * rising[curve.best].mean], "o", color=RED, markersize=4)
            axis.set_title(name, size=9, loc="left", pad=3)
            axis.grid(alpha=0.25)
            axis.tick_params(labelsize=8)
            axis.label_outer()
        axes[0].xaxis.get_major_locator().set_params(integer=True)
        for axis in axes[len(curves) :]:
            axis.set_axis_off()
        figure.supxlabel("epoch", size=9)
        figure.supylabel("top-1 on minival (%)", size=9)


def _epochs(curve: Curve) -> list[int]:
    """Return the epochs that are drawn: all, or of a long training evenly some, with the best one."""
    every = sorted({epoch for seed in curve.seeds for epoch, _ in seed})
    step = -(-len(every) // EPOCHS_SHOWN)
    return sorted({*every[::step], *every[-1:], *({curve.best} & set(every))})


def _pooled(curves: Mapping[str, Curve]) -> dict[int, Any]:
    """Return by epoch how much seeds differ, over all members; one member's two seeds say next to nothing of it."""
    scores: dict[int, list[list[float]]] = {}
    for curve in curves.values():
        found: dict[int, list[float]] = {}
        for seed in curve.seeds:
            for epoch, top1 in seed:
                found.setdefault(epoch, []).append(top1)
        for epoch, each in found.items():
            scores.setdefault(epoch, []).append(each)
    return {epoch: scatter(each) for epoch, each in scores.items()}


def _against(
    axis: Any,
    points: Sequence[Point],
    field: str,
    others: Mapping[str, Sequence[Point]] | None,
    chosen: str | None,
) -> None:
    """Draw top-1 against a cost; networks of a study as points with bars: a line through them would say too much."""
    for way, networks in (others or {}).items():
        color, mark = WAYS[way]
        x, bands = [getattr(each, field) for each in networks], _bands(networks)
        style = {"fmt": mark, "color": color, "markersize": 4, "elinewidth": 0.8, "alpha": 0.7}
        axis.errorbar(x, [100 * each.mean for each in bands], yerr=_bars(bands), label=f"study: {way}", **style)
    x = [getattr(point, field) for point in points]
    if field == "latency_ms":  # no line: times of like sizes differ by noise
        axis.grid(alpha=0.25)
        axis.set_xlabel(_AXES[field])
    else:
        bands = _bands(points)
        low, high = [100 * each.low for each in bands], [100 * each.high for each in bands]
        axis.fill_between(x, low, high, color=BLUE, alpha=0.15, linewidth=0)
        axis.plot(x, [100 * point.top1 for point in points], color=BLUE, linewidth=1.6)
        log_counts(axis, _AXES[field])
        counts = {*x, *(getattr(each, field) for networks in (others or {}).values() for each in networks)}
        if len(counts) == 1:  # matplotlib would warn that it cannot tell how wide the axis is to be
            axis.set_xlim(x[0] / 2, x[0] * 2)
    _members(axis, x, points, chosen)


def _bands(points: Sequence[Point]) -> list[Band]:
    pooled = scatter(point.scores for point in points)
    return [band(point.scores, point.samples, pooled) for point in points]


def _bars(bands: Sequence[Band]) -> tuple[list[float], list[float]]:
    """Return how far a figure's bars reach below and above their points, in percent."""
    return [100 * (each.mean - each.low) for each in bands], [100 * (each.high - each.mean) for each in bands]


def _members(axis: Any, x: Sequence[float], points: Sequence[Point], chosen: str | None) -> None:
    top1, bands = [100 * point.top1 for point in points], _bands(points)
    axis.errorbar(x, top1, yerr=_bars(bands), fmt="none", ecolor="#b9cde0", capsize=3)
    for number, (value, point, (_, low, high)) in enumerate(zip(x, points, bands, strict=True)):
        if point.name == chosen:
            axis.plot([value], [100 * point.top1], "o", markersize=13, markerfacecolor="none", color=RED)
        axis.plot([value], [100 * point.top1], "o", color=BLUE, gid=f"point-{point.name}")
        if len(point.scores) > 1:
            seeds = [100 * score for score in point.scores]
            axis.plot([value] * len(seeds), seeds, "_", color=ORANGE, markersize=7)
        # Alternately above and below: names of members that cost nearly the same stay readable.
        end, offset, side = (low, -5, "top") if number % 2 else (high, 4, "bottom")
        axis.annotate(
            point.name, (value, 100 * end), (0, offset), textcoords="offset points", ha="center", va=side, size=9
        )
    axis.margins(0.08, 0.12)
