"""One style for all figures: readable in print and without colour, the same bytes for the same numbers.

Figures are as wide as a telephone is (WIDTH), so that their letters are as large as those around them on every screen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, which the colour-blind tell apart; and marks, for print without colour.
BLUE, ORANGE, GREEN, RED, PINK, SKY, GREY = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#595959",
)  # fmt: skip
WAYS = {
    "depth": (BLUE, "s"),
    "width": (ORANGE, "^"),
    "resolution": (GREEN, "D"),
    "compound": (RED, "o"),
    "paper": (GREY, "P"),
    "dWr": (PINK, "v"),
}
DPI = 120
WIDTH = 4.7  # inches


@contextmanager
def drawing(
    targets: Sequence[Path],
    size: tuple[float, float],
    columns: int = 1,
    rows: int = 1,
    heights: Sequence[float] | None = None,
) -> Iterator[tuple[Any, list[Any]]]:
    """Yield a figure and its axes, row by row; when the block ends, write it to every target.

    Args:
        targets: files (.png, .svg).
        size: width and height in inches.
        columns, rows: of axes.
        heights: of the rows, relative to each other; all the same if not given.
    """
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["text.parse_math"] = False  # a class may have a $ in its name
    mpl.rcParams["svg.hashsalt"] = "effnet"  # the same numbers give the same bytes
    mpl.rcParams["svg.fonttype"] = "none"  # letters stay letters: a page can colour them, and they take less room
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, constrained_layout=True, height_ratios=heights
    )
    try:
        yield figure, list(axes.flat)
        for axis in axes.flat:
            for side in ("top", "right"):
                axis.spines[side].set_visible(False)
            axis.set_axisbelow(True)
        for target in targets:
            figure.savefig(target, dpi=DPI, metadata={"Date": None} if target.suffix == ".svg" else None)
    finally:
        plt.close(figure)


def log_counts(axis: Any, label: str) -> None:
    """Give an axis a logarithmic scale of counts: 500 k, 1 M, 2 M."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(label)
    axis.grid(alpha=0.25, which="both")
