"""Figures of a family, from its results alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Point(NamedTuple):
    """One member in the figure; `top1` between 0 and 1."""

    name: str
    params: int
    macs: int
    top1: float


def accuracy_figure(points: Sequence[Point], title: str, targets: Sequence[Path]) -> None:
    """Draw top-1 against MACs and against params (paper, figures 1 and 5), once per target file (.png, .svg)."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "effnet"  # the same points give the same bytes
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, constrained_layout=True)
    for axis, field, label in zip(axes, ("macs", "params"), ("MACs", "params"), strict=True):
        x = [getattr(point, field) for point in points]
        axis.plot(x, [100 * point.top1 for point in points], "o-", color="#3b6ea5", linewidth=1.5)
        for value, point in zip(x, points, strict=True):
            axis.annotate(
                point.name, (value, 100 * point.top1), (0, 7), textcoords="offset points", ha="center", size=9
            )
        axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3, which="both")
        axis.margins(0.1, 0.15)
    axes[0].set_ylabel("top-1 on val (%)")
    figure.suptitle(title)
    for target in targets:
        figure.savefig(target, dpi=120, metadata={"Date": None} if target.suffix == ".svg" else None)
    plt.close(figure)
