"""Figures and pictures are made once, and again only if what they show has changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from effnet.report.once import once, strips_once
from effnet.report.pictures import Strip, tile

GREY = np.full((8, 8, 3), 128, np.uint8)


def test_a_figure_is_drawn_once(tmp_path: Path) -> None:
    drawn: list[Sequence[Path]] = []

    def draw(targets: Sequence[Path]) -> None:
        drawn.append(targets)
        for target in targets:
            target.write_text("a figure")

    def ask(facts: object) -> int:
        png, svg = once(tmp_path, "figure", facts, draw)
        assert (png.name, svg.name) == ("figure.png", "figure.svg")
        return len(drawn)

    assert [ask([1, 0.5]), ask([1, 0.5]), ask([1, 0.6])] == [1, 1, 2]
    (tmp_path / "figure.png").unlink()
    assert [ask([1, 0.6]), ask([1, 0.6])] == [3, 3]


def test_a_figure_that_failed_is_drawn_again(tmp_path: Path) -> None:
    def fail(targets: Sequence[Path]) -> None:
        for target in targets:
            target.write_text("half of a")
        raise OSError("the disk is full")

    for draw in (fail, fail):
        try:
            once(tmp_path, "figure", 1, draw)
        except OSError:
            continue
        raise AssertionError("it was taken for drawn")


def test_pictures_are_kept(tmp_path: Path) -> None:
    made = 0

    def make() -> list[Strip]:
        nonlocal made
        made += 1
        return [Strip(label="cats", tiles=(tile(GREY, "a <cat>", ("a", "cat")),))]

    first, again = (strips_once(tmp_path, "samples", "a dataset", make) for _ in range(2))
    assert first == again
    assert made == 1
    assert first[0].tiles[0].source.startswith("data:image/webp;base64,")
    strips_once(tmp_path, "samples", "another dataset", make)
    assert made == 2
