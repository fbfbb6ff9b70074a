"""Every config says what was seen of it: when, where, how long, how good; or that it never ran."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
TEMPLATE = "images"  # for images that nobody has seen
SEEN = re.compile(
    r"^# Seen \d{4}-\d\d-\d\d: .*\d (min|s)\b.* on two cores.*top-1 .*\d\.\d %.* images|^# Seen: not run yet",
    re.MULTILINE | re.DOTALL,
)


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem != TEMPLATE], ids=lambda path: path.stem)
def test_it_says_what_was_seen(path: Path) -> None:
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert SEEN.search(header), header
