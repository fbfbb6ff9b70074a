"""Figures from results alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from effnet.report.figures import Point, accuracy_figure
from effnet.report.style import wilson_interval

POINTS = [Point("B0", 20_000, 500_000, 0.97, 359), Point("B1", 50_000, 1_100_000, 0.99, 359)]


def test_same_points_give_the_same_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        accuracy_figure(POINTS, "a family", [tmp_path / f"{name}.png", tmp_path / f"{name}.svg"])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 20  # something is drawn


def test_wilson_interval_of_a_textbook_case() -> None:
    # 81 of 263: Newcombe (1998), table I, method 3: 0.2553 to 0.3662
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(1.0, 20)[1] == 1.0
    for samples in range(1, 200):  # the ends, where rounding shows
        assert wilson_interval(0.0, samples)[0] == 0.0
        assert wilson_interval(1.0, samples)[1] == 1.0
    assert wilson_interval(0.0, 20)[0] == pytest.approx(0.0, abs=1e-12)
