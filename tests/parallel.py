"""How pytest-xdist spreads the tests: what shares a costly fixture stays in one process, the longest first."""

from __future__ import annotations

import pytest

# Fixtures that take many seconds to make, and that every process of xdist would make anew. A test belongs to the first
# of these that it uses; a test with none of them stays with its file.
_COSTLY = ("home", "rgw", "stack", "deployed")
# Groups that take minutes: begun first, so that no process is left with one of them at the end.
_LONG = ("home", "deployed", "stack", "test_operation_faults", "test_family", "test_training_faults", "rgw")


def group(item: pytest.Item) -> str:
    """Return the name of the tests that an item has to stay with."""
    used: list[str] = getattr(item, "fixturenames", [])
    if any(name in item.name for name in ("radosgw", "real_bucket")):  # asked for by a parameter
        return "rgw"
    return next((name for name in _COSTLY if name in used), item.path.stem)


def order(items: list[pytest.Item]) -> None:
    """Put groups together, the long ones first, each in its own order."""
    places = {name: place for place, name in enumerate(_LONG)}
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    items.sort(key=lambda item: places.get(group(item), len(places)))
