"""The group of an image: images of one video, one patient or one day, which belong into one split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc

from effnet.errors import ConfigError

_SHOWN = 3  # images that a message names


@runtime_checkable
class Grouped(Protocol):
    """A source that knows more of an image than its label: where it lies, or what its row says."""

    def groups(self, rule: str) -> list[str]:
        """Return the name of each image's group, in the order of `entries`.

        Args:
            rule: `data.group`: a regular expression on paths or keys, or the name of a column.

        Raises:
            ConfigError: if the rule is none, or an image has no group; some of these are named.
        """
        ...


def matched(texts: Sequence[str], pattern: str, what: str) -> list[str]:
    """Return what a regular expression finds in each text: its first parenthesized group, or else the whole match.

    The expression is RE2's, which Arrow brings: its time grows with the length of text times expression, whatever
    either says, where Python's own `re` can take for ever. RE2 has no lookaround and no backreferences.

    Args:
        texts: paths or keys.
        pattern: the expression; it may match anywhere in a text.
        what: the texts' name in messages.

    Raises:
        ConfigError: if RE2 does not accept the expression, or it finds nothing in a text.
    """
    array = pa.array(texts, pa.large_string())
    around = rf"(?s:\A.*?)({pattern})(?s:.*\z)"
    try:
        hits = pc.match_substring_regex(array, pattern)
        pc.match_substring_regex(array, around)
    except pa.ArrowInvalid as error:
        told = str(error).splitlines()[0].removeprefix("Invalid regular expression: ")
        raise ConfigError(f"data.group: {told}; the syntax is RE2's (no lookaround, no backreferences)") from None
    names = _found(array, around)
    check_named([name if hit else "" for name, hit in zip(names, hits.to_pylist(), strict=True)], texts, what)
    return names


def check_named(names: Sequence[str | None], texts: Sequence[str], what: str) -> None:
    """Raise ConfigError if an image has no group, saying how many have none, and which are the first."""
    lacking = [text for name, text in zip(names, texts, strict=True) if not name]
    if lacking:
        shown = ", ".join(lacking[:_SHOWN]) + (", …" if len(lacking) > _SHOWN else "")
        raise ConfigError(
            f"data.group: {len(lacking):,} of {len(texts):,} images have no group ({what}: {shown}); "
            "change it so that every image has one"
        )


def _found(array: pa.Array, around: str) -> list[str]:
    try:
        return pc.replace_substring_regex(array, around, r"\2").to_pylist()  # type: ignore[no-any-return]
    except pa.ArrowInvalid:  # the expression has no group of its own
        return pc.replace_substring_regex(array, around, r"\1").to_pylist()  # type: ignore[no-any-return]
