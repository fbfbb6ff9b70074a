"""Figures from results alone."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image

from effnet.report.figures import Point, accuracy_figure

POINTS = [Point("B0", 20_000, 500_000, [0.97], 359), Point("B1", 50_000, 1_100_000, [0.99], 359)]


def test_same_points_give_the_same_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        accuracy_figure(POINTS, "a family", [tmp_path / f"{name}.png", tmp_path / f"{name}.svg"])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 20  # something is drawn


def test_members_of_the_same_size_are_drawn_without_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # they would stand on the terminal
        accuracy_figure([point._replace(params=4_953) for point in POINTS], "a family", [tmp_path / "same.svg"])
