"""What Prefect's page of a flow run shows: lines of its log, a card for every training, how far a stage is."""

from __future__ import annotations

import contextlib
import math
import re
import time
import unicodedata
from typing import Any
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.exceptions import MissingContextError, PrefectException

EVERY_SECONDS = 10.0
DONE = 0.999  # shares are sums of fractions
# The timeline has no glyphs for these, and keys of artifacts may not have them.
LATIN = str.maketrans({"α": "a", "β": "b", "γ": "g", "φ": "phi", "×": "x"})


def artifact_key(family: str, what: str) -> str:
    """Return a key as Prefect wants it, small letters, digits and dashes, of a family's name and a few words."""
    plain = unicodedata.normalize("NFKD", f"{family}-{what}".translate(LATIN).lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


class RunLog:
    """The log of the task run that a line is written in, or of the flow run that this is made in."""

    def __init__(self) -> None:
        self._flow = get_run_logger()

    def info(self, line: str) -> None:
        """Add a line."""
        self._log().info(line)

    def warning(self, line: str) -> None:
        """Add a warning."""
        self._log().warning(line)

    def _log(self) -> Any:
        try:
            return get_run_logger()
        except MissingContextError:  # a thread of a library's
            return self._flow


class FlowPage:
    """The page of the flow run that this is made in. A server that cannot be reached stops nothing.

    Args:
        family: that the flow run builds.
    """

    def __init__(self, family: str) -> None:
        self.family = family
        self._log = RunLog()
        self._progress: dict[str, UUID] = {}
        self._told: dict[str, float] = {}

    def say(self, line: str) -> None:
        """Add a line to the log of the task run that this is called in, or to the flow run's."""
        self._log.info(line)

    def card(self, name: str, text: str) -> None:
        """Show Markdown on the bar of the task run that this is called in."""
        with contextlib.suppress(httpx.HTTPError, PrefectException):
            create_markdown_artifact(text, key=artifact_key(self.family, name), description=f"{self.family}: {name}")

    def share(self, title: str, share: float, told: str = "") -> None:
        """Show a stage's share, 0 to 1, at most every few seconds, and beside it what else is told."""
        now = time.monotonic()
        if now - self._told.get(title, -math.inf) < EVERY_SECONDS and share < DONE:
            return
        self._told[title] = now
        percent, described = round(100 * share, 1), f"{self.family}: {told or title}"
        with contextlib.suppress(httpx.HTTPError, PrefectException):
            if title in self._progress:
                update_progress_artifact(self._progress[title], percent, described)
            else:
                key = artifact_key(self.family, title)
                made = create_progress_artifact(percent, key=key, description=described)
                self._progress[title] = UUID(str(made))
