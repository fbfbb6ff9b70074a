"""What a network says of a file, as a value: light to import, for those who only tell it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class FilePrediction(NamedTuple):
    """What a network says of a file."""

    path: Path
    labels: tuple[str, ...]  # the most probable classes, the most probable one first; none if there is an error
    probabilities: tuple[float, ...]
    error: str = ""  # why it could not be read
