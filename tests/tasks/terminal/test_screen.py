"""What the terminal says."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tasks.terminal.screen import _left, make_table, short


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (0, "0"),
        (999, "999"),
        (424_000, "424 k"),
        (999_600, "1 M"),
        (5.29e6, "5.29 M"),
        (3.71e10, "37.1 G"),
        (9.999e11, "1 T"),
        (2e12, "2 T"),
        (2e15, "2,000 T"),
    ],
)
def test_counts_are_short_and_have_no_exponent(number: float, told: str) -> None:
    assert short(number) == told


def test_work_that_may_end_early_takes_at_most_so_long() -> None:
    assert _left(30.0, 0.25, 0.25, "about") == "about 1 min 30 s left"
    assert _left(30.0, 0.25, 0.25, "at most") == "at most 1 min 30 s left"
    assert _left(30.0, 0.01, 0.01, "at most") == ""  # too little to judge by


def test_a_narrow_terminal_breaks_names_and_cuts_no_number() -> None:
    console = Console(file=io.StringIO(), width=60)
    name = "study efficientnet_small resolution ×4 seed 1"
    console.print(make_table(("", "epoch", "images/s", "left"), [(name, "12.3/15", "1,234,567", "59 min 59 s")]))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for number in ("12.3/15", "1,234,567", "59 min 59 s"):
        assert number in shown
    assert "…" not in shown
