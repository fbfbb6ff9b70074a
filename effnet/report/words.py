"""Numbers as people read them."""

from __future__ import annotations


def counted(number: int, noun: str, several: str | None = None) -> str:
    """Return a count with its noun: 1 model, 8 models, 2 classes."""
    return f"{number:,} {noun if number == 1 else several or f'{noun}s'}"


def short(number: float) -> str:
    """Return a count with three digits that count: 1.94 M, 23.2 k, 640."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:,.0f}"


def hours(number: float) -> str:
    """Return a time given in hours: 1.5 h, 12 min, 40 s."""
    if number >= 1:
        return f"{number:,.1f} h"
    return f"{60 * number:.0f} min" if number >= 1 / 30 else f"{3600 * number:.0f} s"
