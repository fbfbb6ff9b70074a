"""Figures of evidence and of one model, and the pieces of the report page."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from effnet.config import SearchConfig
from effnet.report import evidence, figures, pictures, quality
from effnet.report.page import inline_svg
from effnet.runs import Evaluation
from effnet.search.findings import (
    CandidateFound,
    FinalistFound,
    FitFindings,
    NetworkFound,
    RungFound,
    SearchFindings,
    TrialFound,
)

TRIALS = tuple(
    TrialFound(
        number=n,
        reward=0.5 + n / 100,
        final_reward=None,
        top1=0.6 + n / 50,
        cost=1e6 * (n + 1),
        macs=n,
        params=n,
        run=str(n),
    )
    for n in range(6)
)
SEARCH = SearchFindings(config=SearchConfig(target_macs=1e6), trials=TRIALS, control=TRIALS[:4], pareto=(0, 3, 5))
GRID = FitFindings(
    points=4,
    candidates=tuple(
        CandidateFound(network=name, coefficients=(1.0 + n / 10, 1.0, 1.1), macs=100, grows=2)
        for n, name in enumerate("abcd")
    ),
    rungs=(
        RungFound(epochs=1, top1={"a": 0.5, "b": 0.6, "c": 0.7, "d": 0.4}),
        RungFound(epochs=4, top1={"b": 0.8, "c": 0.81}),
    ),
    rank_correlation=(1.0,),
    finalists=(
        FinalistFound(
            network="b", coefficients=(1.1, 1.0, 1.1), macs=100, grows=2, runs=("1",), top1=(0.79, 0.81), mean=0.8
        ),
        FinalistFound(
            network="c", coefficients=(1.2, 1.0, 1.1), macs=100, grows=3, runs=("2",), top1=(0.8, 0.82), mean=0.81
        ),
    ),
    paper="c",
    paper_in_window=True,
    compound=1,
    winner=(1.1, 1.0, 1.1),
    best=(1.2, 1.0, 1.1),
    lead=0.01,
    noise=0.02,
    p=0.3,
    tie=True,
    seeds=2,
    told="a tie",
    rule="the cheapest",
    runs=("1", "2"),
)


def network(strategy: str, macs: int, mean: float) -> NetworkFound:
    """Return a network of a study, 10 % around its mean."""
    return NetworkFound(
        strategy=strategy,
        factor=macs / 100,
        macs=macs,
        params=macs,
        activations=macs,
        resolution=8,
        multipliers=(1.0, 1.0, 1.0),
        shares=None,
        seconds=1.0,
        runs=("1",),
        top1=(mean,),
        mean=mean,
        low=mean - 0.1,
        high=mean + 0.1,
    )


STUDY = [
    network("depth", 100, 0.5),
    network("depth", 400, 0.6),
    network("compound", 100, 0.5),
    network("compound", 400, 0.7),
]
POINTS = [
    figures.Point("B0", 20_000, 500_000, [0.97], 359, 1.0),
    figures.Point("B1", 50_000, 1_100_000, [0.99], 359, 2.0),
]
SEEN = SimpleNamespace(pixels=np.zeros((8, 8, 3), np.uint8), map=np.eye(8, dtype=np.float32), label="3 98%")
NAMES = ("cat", "dog", "emu")
CURVES = {
    "B0": figures.Curve((((0, 0.4), (1, 0.5), (2, 0.6)), ((0, 0.4), (1, 0.55))), 2),  # the second stopped early
    "B1": figures.Curve((((1, 0.5), (2, 0.6)),), 1),
    "B2": figures.Curve((((1, 0.5),),), 0),
}
SAMPLES = [
    pictures.Sample(np.zeros((8, 8, 3), np.uint8), label, split) for label in (0, 2) for split in ("train", "val")
]

DRAWINGS: dict[str, tuple[Callable[[Sequence[Path]], None], list[str]]] = {
    "search": (
        lambda to: evidence.search_figure(SEARCH, 378, to),
        ["history", "Pareto front", "random, as control", "front"],
    ),
    "study": (
        lambda to: evidence.study_figure(STUDY, "a study", "minival", to),
        ["depth", "compound", "a study", "minival"],
    ),
    "grid": (
        lambda to: evidence.grid_figure(GRID, 359, to),
        ["(paper)", "a tie", "4 candidates after 1 epoch", "2 (filled) went on", "2 finalists after 4 epochs"],
    ),
    "accuracy": (
        lambda to: figures.accuracy_figure(POINTS, "a family", to, {"width": POINTS}),
        ["study: width", "B1", "parameters"],
    ),
    "latency": (lambda to: figures.cost_figure(POINTS, "latency_ms", to, chosen="B0"), ["B0", "milliseconds"]),
    "size": (lambda to: figures.cost_figure(POINTS, "params", to), ["B1", "parameters", "20 k"]),
    "learning": (lambda to: figures.learning_figure(CURVES, 378, to), ["epoch", "B0", "B2"]),
    "confusion": (
        lambda to: quality.confusion_figure([(0, 0, 5), (0, 1, 5), (1, 1, 9)], [10, 9, 0], NAMES, "B0", to),
        ["cat", "class found"],
    ),
    "classes": (lambda to: quality.classes_figure([5, 9, 0], [10, 9, 0], NAMES, "B0", to), ["cat (10)", "dog (9)"]),
    "calibration": (
        lambda to: quality.calibration_figure([(7, 0.2, 0.0), (10, 0.5, 0.4), (3, 0.95, 1.0)], "B0", to),
        ["confidence", "perfectly calibrated", "images", "7", "10"],
    ),
    "mistakes": (
        lambda to: pictures.mistakes_figure(np.zeros((2, 8, 8, 3), np.uint8), [("cat", "$dog{$", 0.987)] * 2, to),
        ["cat", "$dog{$, 99%"],
    ),
    "samples": (lambda to: pictures.samples_figure(SAMPLES, NAMES, 4, to), ["cat", "emu", "train", "val"]),
    "cam": (lambda to: pictures.cam_figure(["B0"], ["three"], [[SEEN]], to), ["B0", "three"]),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_figures_say_what_they_show_and_are_the_same_again(name: str, tmp_path: Path) -> None:
    draw, words = DRAWINGS[name]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        draw([tmp_path / folder / "figure.png", tmp_path / folder / "figure.svg"])
    one, two = (tmp_path / folder / "figure.svg" for folder in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    text = one.read_text()
    for word in words:  # matplotlib writes what it draws as letters into comments
        assert f"<!-- {word}" in text or word in text, word
    assert (tmp_path / "one" / "figure.png").stat().st_size > 3_000


def test_an_svg_becomes_part_of_a_page(tmp_path: Path) -> None:
    path = tmp_path / "figure.svg"
    figures.accuracy_figure(POINTS, "a family", [path])
    text = inline_svg(path.read_text(), "f7", 'accuracy <&> "cost"')
    root = ET.fromstring(text)  # noqa: S314 - our own
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == 'accuracy <&> "cost"'
    assert "height" not in root.attrib
    ids = [value for each in root.iter() if (value := each.attrib.get("id"))]
    assert ids
    assert all(each.startswith("f7-") for each in ids)
    assert "f7-point-B1" in ids
    links: list[Any] = [value for each in root.iter() for key, value in each.attrib.items() if key.endswith("href")]
    assert all(link[1:] in ids for link in links)


def numbers_of(path: Path, epochs: int) -> int:
    """Return the bytes of a learning figure of so many epochs."""
    seed = tuple((epoch + 1, 0.5 + epoch / (2 * epochs)) for epoch in range(epochs))
    figures.learning_figure({"B0": figures.Curve((seed,), epochs)}, 378, [path])
    return path.stat().st_size


def test_ten_thousand_epochs_do_not_make_a_large_figure(tmp_path: Path) -> None:
    assert numbers_of(tmp_path / "long.svg", 10_000) < 1.5 * numbers_of(tmp_path / "short.svg", 150)


def test_of_ten_thousand_candidates_some_are_drawn(tmp_path: Path) -> None:
    many = {f"n{n}": 0.1 + n / 20_000 for n in range(10_000)}
    candidates = tuple(
        CandidateFound(network=name, coefficients=(1.0 + n / 1e4, 1.0, 1.1), macs=100, grows=2)
        for n, name in enumerate(many)
    )
    rungs = (RungFound(epochs=1, top1=many | GRID.rungs[0].top1), GRID.rungs[1])
    evidence.grid_figure(GRID.model_copy(update={"candidates": candidates + GRID.candidates, "rungs": rungs}), 359,
                         [path := tmp_path / "grid.svg"])  # fmt: skip
    text = path.read_text()
    assert path.stat().st_size < 150_000
    assert "10,004 candidates after 1 epoch (40 drawn)" in text.replace("10004", "10,004")


def test_a_page_colours_figures_by_its_own_variables(tmp_path: Path) -> None:
    path = tmp_path / "figure.svg"
    figures.cost_figure(POINTS, "macs", [path], chosen="B1")
    text = inline_svg(path.read_text(), "f1", "cost")
    assert "fill: var(--paper)" in text
    assert "stroke: var(--blue)" in text
    assert "#000000" not in text
    assert "#ffffff" not in text
    assert "var(--letters)" in text
    assert "DejaVu" not in text


def test_a_mistake_names_its_images_file() -> None:
    strip = pictures.mistake_strip(
        np.zeros((2, 8, 8, 3), np.uint8), [("cat", "dog", 0.987)] * 2, ["val/cat/one.jpg", "x" * 60]
    )
    assert strip.tiles[0].lines == ("cat", "taken for dog", "99%", "one.jpg")
    assert strip.tiles[0].label == "val/cat/one.jpg: cat, taken for dog, 99% sure"
    assert len(strip.tiles[1].lines[-1]) < 40
    assert "x" * 60 in strip.tiles[1].label


def scored(right: Sequence[int], confusion: Sequence[tuple[int, int, int]], sides: dict[int, float]) -> Evaluation:
    """Return the scores of a network on 10 images of each class, and none of the last."""
    return Evaluation(
        key="k", dataset="d", split="val", samples=30, top1=0.9, top5=1.0, loss=0.1, calibration_error=0.1,
        class_samples=(10, 10, 10, 0), class_right=(*right, 0), confusion=tuple(confusion), resolutions=sides,
        latency_ms=1.0, images_per_second=1.0, best_batch=1, environment={},
    )  # fmt: skip


def test_the_hardest_class_is_told_in_words() -> None:
    names = (*NAMES, "fox")
    one = scored([9, 7, 10], [(0, 0, 9), (0, 2, 1), (1, 1, 7), (1, 2, 1), (1, 0, 2), (2, 2, 10)], {})
    assert quality.hardest_class(one, names) == (
        "Hardest class: dog (70.0 % of 10 images), most often taken for cat (2 times)."
    )
    assert quality.hardest_class(scored([10, 10, 10], [], {}), names) == ""


def test_other_sizes_of_images_are_explained() -> None:
    told = quality.sizes_story(scored([9, 7, 10], [], {8: 0.09, 28: 0.95, 36: 0.63}), 28)
    assert told == (
        "It was trained on images of 28 × 28 pixels, and whatever it is given is resized to that first. How much it "
        "depends on this size: with the same images of val resized to another side instead it is right on 9.0 % at 8 "
        "px, 63.0 % at 36 px; at its own 28 px on 95.0 %."
    )
    assert quality.sizes_story(scored([9, 7, 10], [], {28: 0.95}), 28) == ""
