"""Figures of a family, from its results alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

_Z = 1.959964  # 97.5 % quantile of the normal distribution


class Point(NamedTuple):
    """One member in the figure; `top1` between 0 and 1, measured on `samples` images."""

    name: str
    params: int
    macs: int
    top1: float
    samples: int


def accuracy_figure(points: Sequence[Point], title: str, targets: Sequence[Path]) -> None:
    """Draw top-1 against MACs and against params (paper, figures 1 and 5), once per target file (.png, .svg)."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "effnet"  # the same points give the same bytes
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True, constrained_layout=True)
    for axis, field, label in zip(axes, ("macs", "params"), ("multiply-adds (MACs)", "parameters"), strict=True):
        _draw(axis, [getattr(point, field) for point in points], points)
        axis.set_xlabel(label)
    axes[0].set_ylabel("top-1 on the validation split (%)")
    samples = ", ".join(f"{number:,}" for number in sorted({point.samples for point in points}))
    figure.suptitle(f"{title}\n", fontsize=13)
    figure.text(0.5, 0.915, f"bars: 95 % interval of a score on {samples} images", ha="center", size=9, color="0.35")
    for target in targets:
        figure.savefig(target, dpi=120, metadata={"Date": None} if target.suffix == ".svg" else None)
    plt.close(figure)


class Curve(NamedTuple):
    """A point of a scaling curve: multiply-adds, mean top-1 (0..1), and its interval if there are several seeds."""

    macs: int
    mean: float
    low: float | None
    high: float | None


_STYLES = {  # Okabe and Ito's colours, which the colour-blind tell apart, and marks for print without colour
    "depth": ("#0072b2", "s"),
    "width": ("#e69f00", "^"),
    "resolution": ("#009e73", "D"),
    "compound": ("#d55e00", "o"),
    "dWr": ("#cc79a7", "v"),
}


def study_figure(curves: Mapping[str, Sequence[Curve]], title: str, targets: Sequence[Path]) -> None:
    """Draw top-1 against MACs for each way of scaling (paper, figures 3 and 8), once per target file (.png, .svg)."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "effnet"
    from matplotlib import pyplot as plt
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    figure, axis = plt.subplots(figsize=(6.4, 4.4), constrained_layout=True)
    for strategy, points in curves.items():
        color, marker = _STYLES[strategy]
        ordered = sorted(points)
        macs = [point.macs for point in ordered]
        axis.plot(macs, [100 * point.mean for point in ordered], marker=marker, color=color, label=strategy)
        if all(point.low is not None for point in ordered):
            low, high = ([100 * (getattr(point, side) or 0) for point in ordered] for side in ("low", "high"))
            axis.fill_between(macs, low, high, color=color, alpha=0.12, linewidth=0)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("multiply-adds (MACs)")
    axis.set_ylabel("top-1 on the validation split (%)")
    axis.set_title(title)
    axis.grid(alpha=0.25, which="both")
    axis.legend(frameon=False)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for target in targets:
        figure.savefig(target, dpi=120, metadata={"Date": None} if target.suffix == ".svg" else None)
    plt.close(figure)


def search_figure(found: Mapping[str, Any], targets: Sequence[Path]) -> None:
    """Draw a search's history and its Pareto front, once per target file (.png, .svg).

    Args:
        found: the content of search.json.
        targets: files.
    """
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "effnet"
    from matplotlib import pyplot as plt

    config, trials = found["config"], found["trials"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), constrained_layout=True)
    kinds = [(config["method"], trials, "#d55e00", "o")]
    if found["control"]:
        kinds.append(("at random, as control", found["control"], "#0072b2", "s"))
    for label, rows, color, marker in kinds:
        rewards = [row["reward"] for row in rows]
        left.plot(range(len(rows)), rewards, marker, color=color, alpha=0.4, markersize=4)
        left.plot(range(len(rows)), np.maximum.accumulate(rewards), color=color, label=f"best so far, {label}")
        right.plot(
            [row["cost"] for row in rows], [100 * row["top1"] for row in rows], marker, color=color, alpha=0.5,
            markersize=4, label=label,
        )  # fmt: skip
    front = [trials[index] for index in found["pareto"]]
    right.step(
        [row["cost"] for row in front], [100 * row["top1"] for row in front], where="post", color="0.3", label="front"
    )
    left.set_xlabel("trial")
    left.set_ylabel(f"reward, top-1 · (cost / target)$^{{{config['exponent']:g}}}$")
    left.set_title("history", size=11)
    timed = config["target_latency_ms"] is not None
    right.set_xlabel("milliseconds for one image on one core" if timed else "multiply-adds (MACs)")
    right.set_ylabel("top-1 on minival (%)")
    right.set_title("Pareto front", size=11)
    if not timed:
        from matplotlib.ticker import EngFormatter

        right.xaxis.set_major_formatter(EngFormatter(sep=" "))
    for axis in (left, right):
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, fontsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    for target in targets:
        figure.savefig(target, dpi=120, metadata={"Date": None} if target.suffix == ".svg" else None)
    plt.close(figure)


class Map(Protocol):
    """An image, where a network looks in it, and what it finds; see effnet.evaluation.cam."""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Return (side, side, 3)."""
        ...

    @property
    def map(self) -> NDArray[np.float32]:
        """Return (side, side), 0..1."""
        ...

    @property
    def label(self) -> str:
        """Return the class found."""
        ...


def cam_figure(networks: Sequence[str], images: Sequence[str], seen: Sequence[Sequence[Map]], target: Path) -> None:
    """Draw the images, and beside each where every network looks in it (paper, figure 7).

    Args:
        networks: names, one per column of maps.
        images: names, one per row.
        seen: by network, by image.
        target: .png or .svg file.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    columns, rows = 1 + len(networks), len(images)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.1 * columns, 2.3 * rows + 0.4), squeeze=False, constrained_layout=True
    )
    for row in range(rows):
        axes[row][0].imshow(seen[0][row].pixels)
        axes[row][0].set_title(images[row], size=8)
        for column, name in enumerate(networks, start=1):
            found = seen[column - 1][row]
            grey = found.pixels.mean(2, keepdims=True).repeat(3, 2) / 255
            axes[row][column].imshow(0.35 + 0.65 * grey)
            axes[row][column].imshow(found.map, cmap="inferno", alpha=0.2 + 0.6 * found.map)
            axes[row][column].set_title(f"{name}\n{found.label}" if row == 0 else found.label, size=8)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.savefig(target, dpi=150)
    plt.close(figure)


def wilson_interval(share: float, samples: int) -> tuple[float, float]:
    """Return the 95 % interval of a share found on `samples` independent ones (Wilson's score interval, 1927)."""
    center = (share + _Z**2 / (2 * samples)) / (1 + _Z**2 / samples)
    half = _Z / (1 + _Z**2 / samples) * math.sqrt(share * (1 - share) / samples + (_Z / (2 * samples)) ** 2)
    return max(0.0, center - half), min(1.0, center + half)


def _draw(axis: Any, x: Sequence[int], points: Sequence[Point]) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    top1 = [100 * point.top1 for point in points]
    intervals = [wilson_interval(point.top1, point.samples) for point in points]
    below = [value - 100 * low for value, (low, _) in zip(top1, intervals, strict=True)]
    above = [100 * high - value for value, (_, high) in zip(top1, intervals, strict=True)]
    axis.errorbar(x, top1, yerr=(below, above), fmt="o-", color="#2a6fa8", ecolor="#b9cde0", capsize=3, linewidth=1.6)
    for number, (value, point, (_, high)) in enumerate(zip(x, points, intervals, strict=True)):
        # Higher and lower in turn: members that cost nearly the same keep readable names.
        offset = (0, 4 + 11 * (number % 2))
        axis.annotate(point.name, (value, 100 * high), offset, textcoords="offset points", ha="center", size=9)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.25, which="both")
    axis.margins(0.08, 0.12)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
