"""Where images come from."""

from __future__ import annotations

from effnet.config import DigitsSource
from effnet.data.sources.base import Entry, Sample, Source
from effnet.data.sources.digits import Digits

__all__ = ["Entry", "Sample", "Source", "open_source"]


def open_source(config: DigitsSource) -> Source:
    """Return the source that a config names; no image is read yet."""
    return Digits(config.image_size)
