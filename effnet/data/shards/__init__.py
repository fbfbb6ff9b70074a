"""Datasets as shards: planned, written, indexed, published, mirrored and verified."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effnet.data.shards.verification import verify
    from effnet.data.shards.write import write_shards

__all__ = ["verify", "write_shards"]

_HOMES = {"verify": "effnet.data.shards.verification", "write_shards": "effnet.data.shards.write"}


def __getattr__(name: str) -> Any:
    """Import what is asked for: most modules here need neither torch nor a source's libraries."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
