"""Figures of how good one model is: by class, by confidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from effnet.report.style import BLUE, GREY, RED, WIDTH, drawing
from effnet.report.words import counted
from effnet.runs import Evaluation
from effnet.statistics import wilson_interval

Targets = Sequence[Path]
CONFUSED, CLASSES = 30, 40  # classes that a figure shows, at most


def hardest_class(evaluation: Evaluation, names: Sequence[str]) -> str:
    """Say which class is right least often, and what it is most often taken for; empty if none is ever wrong."""
    shares = [
        (right / images, label)
        for label, (right, images) in enumerate(zip(evaluation.class_right, evaluation.class_samples, strict=True))
        if images
    ]
    share, hardest = min(shares)
    if share == 1:
        return ""
    images = evaluation.class_samples[hardest]
    told = f"Hardest class: {names[hardest]} ({100 * share:.1f} % of {images:,} images)"
    taken = [(count, -found) for label, found, count in evaluation.confusion if hardest == label != found]
    if not taken:
        return f"{told}."
    count, found = max(taken)
    return f"{told}, most often taken for {names[-found]} ({counted(count, 'time')})."


def sizes_story(evaluation: Evaluation, own: int) -> str:
    """Say what the network's top-1 is on images that were resized to other sides than its own; empty without any."""
    others = [f"{100 * top1:.1f} % at {side} px" for side, top1 in evaluation.resolutions.items() if side != own]
    if not others or own not in evaluation.resolutions:
        return ""
    return (
        f"It was trained on images of {own} × {own} pixels, and whatever it is given is resized to that first. How "
        f"much it depends on this size: with the same images of val resized to another side instead it is right on "
        f"{', '.join(others)}; at its own {own} px on {100 * evaluation.resolutions[own]:.1f} %."
    )


def confusion_figure(
    pairs: Sequence[tuple[int, int, int]], samples: Sequence[int], names: Sequence[str], title: str, targets: Targets
) -> None:
    """Draw which classes are mistaken for which: for those with the most mistakes, if there are more than CONFUSED.

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
    shown = sorted(np.argsort(-wrong, kind="stable")[:CONFUSED])
    place = {label: index for index, label in enumerate(shown)}
    counts = np.zeros((len(shown), len(shown)), int)
    for label, found, images in pairs:
        if label in place and found in place:
            counts[place[label], place[found]] = images
    shares = counts / np.maximum(1, [[samples[label]] for label in shown])
    longest = max(len(names[label]) for label in shown)
    side = 1.2 + 0.3 * len(shown) + 0.07 * min(longest, 30)
    with drawing(targets, (side, side)) as (_, (axis,)):
        axis.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1, aspect="auto")  # the root makes rare ones visible
        for (row, column), images in np.ndenumerate(counts):
            if images:
                axis.text(
                    column, row, f"{images:,}", ha="center", va="center", size=7.5,
                    color="#fefefe" if shares[row, column] > 0.4 else "#010101",  # the same in a dark page
                )  # fmt: skip
        labels = [f"{names[label]:.30}" for label in shown]
        axis.set_xticks(range(len(shown)), labels, rotation=90 if longest > 2 else 0, size=8)
        axis.set_yticks(range(len(shown)), labels, size=8)
        axis.set_xlabel("class found", size=9)
        axis.set_ylabel("class", size=9)
        axis.set_title(f"{title} (images)", fontsize=10)


def classes_figure(
    right: Sequence[int], samples: Sequence[int], names: Sequence[str], title: str, targets: Targets
) -> None:
    """Draw the top-1 of each class with its 95 % interval, in the dataset's order.

    Of more than CLASSES classes it draws those whose interval ends lowest: the ones that are most surely weak.
    """
    rows = [
        (hits / total, total, name, wilson_interval(hits / total, total))
        for hits, total, name in zip(right, samples, names, strict=True)
        if total
    ]
    if len(rows) > CLASSES:
        rows = sorted(rows, key=lambda row: row[3].high)[:CLASSES]
    whole = sum(right) / sum(samples)
    with drawing(targets, (WIDTH, 1.0 + 0.21 * len(rows))) as (_, (axis,)):
        places = range(len(rows))
        axis.axvline(100 * whole, color=GREY, linestyle="--", linewidth=0.9)
        for place, (share, _, _, (low, high)) in zip(places, rows, strict=True):
            axis.plot([100 * low, 100 * high], [place, place], color=BLUE, linewidth=1.4)
            axis.plot([100 * share], [place], "o", color=BLUE, markersize=4.5)
        axis.set_yticks(places, [f"{name:.30} ({total:,})" for _, total, name, _ in rows], size=8)
        axis.invert_yaxis()
        axis.set_xlabel("top-1 (%) and its 95 % interval; dashes: all classes", size=9)
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.25, axis="x")


def calibration_figure(bins: Sequence[tuple[int, float, float]], title: str, targets: Targets) -> None:
    """Draw how often a network is right against how sure it is, and of how many images each bin is.

    Args:
        bins: (images, mean confidence, share that is right) of each bin of confidence that is not empty.
        title: of the figure.
        targets: files.
    """
    with drawing(targets, (WIDTH, 4.9), rows=2, heights=(3, 1.1)) as (_, (axis, below)):
        axis.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
        low_high = [wilson_interval(right, images) for images, _, right in bins]
        under = [right - low for (_, _, right), (low, _) in zip(bins, low_high, strict=True)]
        over = [high - right for (_, _, right), (_, high) in zip(bins, low_high, strict=True)]
        sure, hits = [sure for _, sure, _ in bins], [right for _, _, right in bins]
        style = {"fmt": "o", "color": RED, "ecolor": "#b0b0b0", "capsize": 2, "markersize": 4.5}
        axis.errorbar(sure, hits, yerr=(under, over), label="bins, with 95 % intervals", **style)
        axis.set_ylabel("share that is right")
        axis.set_title(title, fontsize=10)
        axis.legend(frameon=False, fontsize=8)
        below.bar(sure, [images for images, _, _ in bins], width=0.03, color=BLUE)
        for images, place, _ in bins:
            below.annotate(f"{images:,}", (place, images), (0, 1.5), textcoords="offset points", ha="center", size=6.5)
        below.set_yscale("symlog", linthresh=1)
        below.set_ylim(0, 4 * max(images for images, _, _ in bins))
        below.set_yticks([])
        below.set_xlabel("confidence")
        below.set_ylabel("images")
        for each in (axis, below):
            each.set_xlim(-0.02, 1.02)
            each.grid(alpha=0.25)
