"""Classes from labels that are numbers or names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from effnet.errors import DataError


class Classes(NamedTuple):
    """Which label is which class."""

    names: tuple[str, ...]
    numbers: Mapping[int | str, int]  # position among the names, by label
    notes: tuple[str, ...] = ()


def classes_of(labels: Collection[int | str], where: str, named: tuple[str, ...] = ()) -> Classes:
    """Return the classes that labels name: one for each label that occurs, in the order of numbers or names.

    Args:
        labels: the distinct labels of a source.
        where: the source, for messages.
        named: names of the classes 0, 1, ... if the source has them; then all of them are classes.

    Raises:
        DataError: if there is none, numbers and names are mixed, or a number is negative or has no name.
    """
    numbers = sorted(label for label in labels if isinstance(label, int))
    texts = sorted(label for label in labels if isinstance(label, str))
    if not labels:
        raise DataError(f"{where}: contains no labelled images")
    if numbers and texts:
        raise DataError(f"{where}: some labels are numbers ({numbers[0]}), some are text ('{texts[0]}')")
    if texts:
        return Classes(tuple(texts), {text: position for position, text in enumerate(texts)})
    low, high = numbers[0], numbers[-1]
    if low < 0 or (named and high >= len(named)):
        allowed = f"classes from 0 to {len(named) - 1}" if named else "none may be below 0"
        raise DataError(f"{where}: labels from {low} to {high}, but {allowed}")
    if named:
        return Classes(named, {number: number for number in numbers})
    notes: tuple[str, ...] = ()
    if high >= len(numbers):
        notes = (
            f"{where}: labels run to {high:,}, but only {len(numbers):,} different ones occur: "
            f"each of these is a class, named after its number",
        )
    return Classes(tuple(map(str, numbers)), {number: position for position, number in enumerate(numbers)}, notes)
