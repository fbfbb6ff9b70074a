"""How far a stage is, as an artifact on the flow run's page in Prefect."""

from __future__ import annotations

import contextlib
import time
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

EVERY_SECONDS = 10.0
DONE = 0.999  # shares are sums of fractions


def artifact_key(family: str, what: str) -> str:
    """Return a key as Prefect wants it, small letters, digits and dashes, of a family's name and a few plain words."""
    return f"{family}-{what}".replace(" ", "-").replace("_", "-")


class StageProgress:
    """Keeps one progress artifact per stage up to date, at most every few seconds.

    Args:
        family: whose stages they are.
    """

    def __init__(self, family: str) -> None:
        self.family = family
        self._artifacts: dict[str, UUID] = {}
        self._told = 0.0

    def __call__(self, title: str, share: float) -> None:
        """Show a stage's share, 0 to 1. A server that cannot be reached stops nothing."""
        now = time.monotonic()
        if now - self._told < EVERY_SECONDS and title in self._artifacts and share < DONE:
            return
        self._told = now
        percent = round(100 * share, 1)
        with contextlib.suppress(httpx.HTTPError, PrefectException):
            if title in self._artifacts:
                update_progress_artifact(self._artifacts[title], percent)
            else:
                key = artifact_key(self.family, title)
                made = create_progress_artifact(percent, key=key, description=f"{self.family}: {title}")
                self._artifacts[title] = UUID(str(made))
