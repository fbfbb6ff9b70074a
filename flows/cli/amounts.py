"""Numbers as people write them on a command line: 600M, 5ms, 20MB, 95%."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}


class Amount(click.ParamType[int]):
    """A whole number above 0, also as 600M or 1.5G."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number that a text like 1.5G stands for."""
        text = str(value).strip()
        number = text.rstrip("kMGBT")
        try:
            amount = round(float(number) * _SUFFIXES[text[len(number) :]])
        except (ValueError, KeyError, OverflowError):
            amount = 0
        if amount < 1:
            self.fail(f"'{value}' is not a number above 0; write 600M or 1.5G", param, ctx)
        return amount


class Quantity(click.ParamType[float]):
    """A number above 0 with a unit.

    Args:
        name: what it is, for people.
        units: what each stands for; "" if a number alone means something.
        most: the largest number that makes sense.
    """

    def __init__(self, name: str, units: Mapping[str, float], most: float = sys.float_info.max) -> None:
        self.name, self._units, self._most = name, units, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number that a text like 5ms stands for."""
        text = str(value).strip()
        digits = text.rstrip("%abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
        unit = text[len(digits) :].strip()
        try:
            number = float(digits)
        except ValueError:
            number = 0.0
        if number and not unit and "" not in self._units:
            written = ", ".join(f"{text}{each}" for each in self._units)
            self.fail(f"'{value}' has no unit; write {written}", param, ctx)
        number *= self._units.get(unit, 0.0)
        if not 0 < number <= self._most:
            units = ", ".join(each for each in self._units if each)
            limit = f", at most {self._most:g}" if self._most < sys.float_info.max else ""
            self.fail(f"'{value}' is no number above 0 in {units}{limit}", param, ctx)
        return number
