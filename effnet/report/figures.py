"""Figures of a family's members, from results alone."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from effnet.report.style import BLUE, GREY, ORANGE, RED, WAYS, drawing, log_counts
from effnet.statistics import band, scatter, wilson_interval

Targets = Sequence[Path]


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


def accuracy_figure(
    points: Sequence[Point], title: str, targets: Targets, others: Mapping[str, Sequence[Point]] | None = None
) -> None:
    """Draw top-1 against MACs and against params (paper, figures 1, 5 and 8).

    Args:
        points: the family's members.
        title: of the figure.
        targets: files (.png, .svg).
        others: by way of scaling: networks of the scaling study, to compare.
    """
    with drawing(targets, (10, 4.4), columns=2) as (figure, axes):
        axes[0].sharey(axes[1])
        for axis, field, label in zip(axes, ("macs", "params"), ("multiply-adds (MACs)", "parameters"), strict=True):
            for way, networks in (others or {}).items():
                color, mark = WAYS[way]
                x, y = [getattr(each, field) for each in networks], [100 * each.top1 for each in networks]
                axis.plot(x, y, marker=mark, color=color, linewidth=0.8, markersize=4, alpha=0.8, label=f"study: {way}")
            _family_line(axis, [getattr(point, field) for point in points], points)
            log_counts(axis, label)
        axes[0].set_ylabel("top-1 on the validation split (%)")
        if others:
            axes[1].legend(frameon=False, fontsize=8, loc="lower right")
        samples = ", ".join(f"{number:,}" for number in sorted({point.samples for point in points}))
        figure.suptitle(f"{title}\n", fontsize=13)
        seeds = min(len(point.scores) for point in points)
        of_seeds = f" and {seeds} seeds; dashes: seeds" if seeds > 1 else ""
        note = f"bars: 95 % interval over {samples} images{of_seeds}"
        figure.text(0.5, 0.915, note, ha="center", size=9, color=GREY)


def latency_figure(points: Sequence[Point], title: str, targets: Targets) -> None:
    """Draw top-1 against the time for one image on one core (paper, table 4)."""
    with drawing(targets, (6.4, 4.4)) as (_, (axis,)):
        _members(axis, [point.latency_ms for point in points], points)  # no line: times of like sizes differ by noise
        axis.set_xlabel("milliseconds for one image on one core")
        axis.set_ylabel("top-1 on the validation split (%)")
        axis.set_title(title, fontsize=11)
        axis.grid(alpha=0.25)


def learning_figure(curves: Mapping[str, Sequence[tuple[int, float]]], title: str, targets: Targets) -> None:
    """Draw minival top-1 by epoch.

    Args:
        curves: by member, (epoch, top-1 between 0 and 1).
        title: of the figure.
        targets: files.
    """
    from matplotlib import colormaps

    with drawing(targets, (6.4, 4.4)) as (_, (axis,)):
        shades = colormaps["viridis"](np.linspace(0, 0.9, max(2, len(curves))))
        marks = "os^Dv<>p"
        for number, (name, curve) in enumerate(curves.items()):
            x, y = [epoch for epoch, _ in curve], [100 * top1 for _, top1 in curve]
            style = {"marker": marks[number % len(marks)], "markersize": 3.5, "linewidth": 1.2}
            axis.plot(x, y, color=shades[number], label=name, **style)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel("epoch")
        axis.set_ylabel("top-1 on minival (%)")
        axis.set_title(title, fontsize=11)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, fontsize=8, ncols=2)


def confusion_figure(
    pairs: Sequence[tuple[int, int, int]], samples: Sequence[int], names: Sequence[str], title: str, targets: Targets
) -> None:
    """Draw which classes are mistaken for which: for the 30 with the most mistakes, if there are more.

    Args:
        pairs: (class, class found, images).
        samples: images of each class.
        names: of the classes.
        title: of the figure.
        targets: files.
    """
    wrong = np.zeros(len(samples))
    for label, found, images in pairs:
        wrong[label] += images * (label != found)
    shown = sorted(np.argsort(-wrong, kind="stable")[:30])
    place = {label: index for index, label in enumerate(shown)}
    shares = np.zeros((len(shown), len(shown)))
    for label, found, images in pairs:
        if label in place and found in place:
            shares[place[label], place[found]] = images / max(1, samples[label])
    side = 2.2 + 0.36 * len(shown)
    with drawing(targets, (side, side)) as (_, (axis,)):
        axis.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)  # the root makes rare mistakes visible
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                axis.text(
                    column, row, f"{100 * share:.0f}", ha="center", va="center", size=7,
                    color="white" if share > 0.4 else "black",
                )  # fmt: skip
        labels = [names[label] for label in shown]
        axis.set_xticks(range(len(shown)), labels, rotation=90, size=8)
        axis.set_yticks(range(len(shown)), labels, size=8)
        axis.set_xlabel("class found")
        axis.set_ylabel("class")
        axis.set_title(f"{title} (% of each class)", fontsize=10)


def classes_figure(
    right: Sequence[int], samples: Sequence[int], names: Sequence[str], title: str, targets: Targets
) -> None:
    """Draw the top-1 of each class with its 95 % interval, worst first: the 40 worst, if there are more."""
    rows = [
        (hits / total, name, wilson_interval(hits / total, total))
        for hits, total, name in zip(right, samples, names, strict=True)
        if total
    ]
    rows = sorted(rows, key=lambda row: row[0])[:40]
    with drawing(targets, (6.4, 1.2 + 0.24 * len(rows))) as (_, (axis,)):
        places = range(len(rows))
        axis.barh(places, [100 * share for share, _, _ in rows], color=BLUE, alpha=0.75, height=0.7)
        for place, (_, _, (low, high)) in zip(places, rows, strict=True):
            axis.plot([100 * low, 100 * high], [place, place], color="black", linewidth=0.9)
        axis.set_yticks(places, [name for _, name, _ in rows], size=8)
        axis.invert_yaxis()
        axis.set_xlabel("top-1 (%), with its 95 % interval")
        axis.set_title(title, fontsize=11)
        axis.grid(alpha=0.25, axis="x")


def calibration_figure(bins: Sequence[tuple[int, float, float]], title: str, targets: Targets) -> None:
    """Draw how often a network is right against how sure it is.

    Args:
        bins: (images, mean confidence, share that is right) of each bin of confidence that is not empty.
        title: of the figure.
        targets: files.
    """
    with drawing(targets, (5.2, 4.8)) as (_, (axis,)):
        axis.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
        low_high = [wilson_interval(right, images) for images, _, right in bins]
        below = [right - low for (_, _, right), (low, _) in zip(bins, low_high, strict=True)]
        above = [high - right for (_, _, right), (_, high) in zip(bins, low_high, strict=True)]
        sure, hits = [sure for _, sure, _ in bins], [right for _, _, right in bins]
        axis.errorbar(sure, hits, yerr=(below, above), fmt="o", color=RED, ecolor="0.7", capsize=2, label="bins")
        axis.set_xlabel("confidence")
        axis.set_ylabel("share that is right")
        axis.set_title(title, fontsize=11)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, fontsize=8)


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


def cam_figure(networks: Sequence[str], images: Sequence[str], seen: Sequence[Sequence[Map]], targets: Targets) -> None:
    """Draw the images, and beside each where every network looks in it (paper, figure 7).

    Args:
        networks: names, one per column of maps.
        images: names, one per row.
        seen: by network, by image.
        targets: files.
    """
    columns, rows = 1 + len(networks), len(images)
    with drawing(targets, (1.7 * columns, 1.9 * rows + 0.4), columns, rows) as (_, axes):
        for row, image in enumerate(images):
            shown, *maps = axes[row * columns : (row + 1) * columns]
            shown.imshow(seen[0][row].pixels)
            shown.set_title(image, size=8)
            for axis, name, column in zip(maps, networks, seen, strict=True):
                found = column[row]
                grey = found.pixels.mean(2, keepdims=True).repeat(3, 2) / 255
                axis.imshow(0.35 + 0.65 * grey)
                axis.imshow(found.map, cmap="inferno", alpha=0.2 + 0.6 * found.map)
                axis.set_title(f"{name}\n{found.label}" if row == 0 else found.label, size=8)
        for axis in axes:
            axis.set_axis_off()


def mistakes_figure(pixels: NDArray[np.uint8], told: Sequence[tuple[str, str, float]], targets: Targets) -> None:
    """Draw images that a network is sure of and wrong about.

    Args:
        pixels: (images, side, side, 3).
        told: by image: its class, the class it is taken for, and how sure the network is, 0..1.
        targets: files.
    """
    columns = min(6, len(told))
    rows = -(-len(told) // columns)
    with drawing(targets, (1.6 * columns, 2.25 * rows), columns, rows) as (_, axes):
        for axis, image, (label, found, confidence) in zip(axes, pixels, told, strict=False):
            axis.imshow(image)
            named, taken = (textwrap.shorten(name, 24, placeholder="…") for name in (label, found))
            axis.set_title(f"{named}\ntaken for\n{taken}, {confidence:.0%}", size=7.5)
        for axis in axes:
            axis.set_axis_off()


def _family_line(axis: Any, x: Sequence[float], points: Sequence[Point]) -> None:
    axis.plot(x, [100 * point.top1 for point in points], color=BLUE, linewidth=1.6, label="family")
    _members(axis, x, points)


def _members(axis: Any, x: Sequence[float], points: Sequence[Point]) -> None:
    top1 = [100 * point.top1 for point in points]
    pooled = scatter(point.scores for point in points)
    bands = [band(point.scores, point.samples, pooled) for point in points]
    below = [value - 100 * low for value, (_, low, _) in zip(top1, bands, strict=True)]
    above = [100 * high - value for value, (_, _, high) in zip(top1, bands, strict=True)]
    axis.errorbar(x, top1, yerr=(below, above), fmt="none", ecolor="#b9cde0", capsize=3)
    for number, (value, point, (_, low, high)) in enumerate(zip(x, points, bands, strict=True)):
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
