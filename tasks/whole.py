"""How far a whole family is: the work of the trainings it has done, beside that of those still planned."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from effnet.errors import DataError
from effnet.plan import StagePrice, Work
from effnet.runs import read_value
from effnet.stages import Stage
from effnet.store import publish
from effnet.values import Value
from tasks.terminal.screen import duration

PROGRESS = "progress.json"
# An image costs a step something whatever the network: about as much as so many activations do. Seen on two cores of an
# AMD EPYC for the 32 trainings of configs/mnist.yaml (40 k to 296 k multiply-adds): 8,600 to 10,200.
FIXED_ACTIVATIONS = 1e4
LONGEST_STEP = 60.0  # seconds: between two looks further apart, something else was done, such as waiting for a person
EVERY_SECONDS = 5.0  # between writes for other processes
SILENT_SECONDS = 60.0  # after which a build counts as not under way: it was killed, or scores its members
LEAST_SHARE = 0.01  # of the whole, done by this process, before the time left is told


class FamilyProgress(Value):
    """How far a family is."""

    family: str
    share: float  # of its work that is done, 0 to 1
    seconds_left: float | None = None  # None: too early to say

    def left(self, how: str) -> str:
        """Say how long the rest takes, `how` being about or at most; nothing while it is too early."""
        return "" if self.seconds_left is None else f"{how} {duration(self.seconds_left)} left"

    def told(self, how: str = "about") -> str:
        """Say how far it is."""
        return f"{self.share:.0%} {self.left(how)}".rstrip()


class Whole:
    """Adds up the work of a build, stage by stage.

    Args:
        family: its name.
        path: where other processes read how far it is.
    """

    def __init__(self, family: str, path: Path) -> None:
        self.family, self.path = family, path
        self._planned: dict[str, float] = {}  # by stage
        self._done: dict[str, dict[str, float]] = {}  # by stage and run
        self._free = 0.0  # of what is done, how much this process did not do
        self._seconds = 0.0  # that this process was busy
        self._looked = self._written = 0.0

    def expect(self, stages: Iterable[StagePrice]) -> None:
        """Take over what the stages are planned to take, those that began apart."""
        planned = {price.stage: weight(price.work) for price in stages}
        self._planned = planned | {name: self._planned[name] for name in self._done if name in self._planned}

    def begin(self, stage: Stage, done: Mapping[str, float]) -> None:
        """Begin a stage, or its next part.

        Args:
            stage: of the trainings.
            done: by run, the work that was done before; what was counted already is not counted again.
        """
        name, now = stage.planned_as, time.monotonic()
        for ended in self._done.keys() - {name}:  # it took what it took, whatever was planned
            self._planned[ended] = sum(self._done[ended].values())
        runs = self._done.setdefault(name, {})
        for run, amount in done.items():
            self._free += max(amount - runs.get(run, 0.0), 0.0)
            runs[run] = amount
        self._looked = now

    def look(self, stage: Stage, done: Mapping[str, float]) -> FamilyProgress:
        """Return how far the family is.

        Args:
            stage: that is under way.
            done: by run, the work that is done, also of epochs that are not over.
        """
        now = time.monotonic()
        self._seconds += min(now - self._looked, LONGEST_STEP)
        self._looked = now
        self._done.setdefault(stage.planned_as, {}).update(done)
        found = self._progress()
        if now - self._written > EVERY_SECONDS:
            self._written = now
            publish(self.path, found.model_dump_json().encode())
        return found

    def end(self) -> None:
        """Tell other processes that nothing is under way any more."""
        self.path.unlink(missing_ok=True)

    def _progress(self) -> FamilyProgress:
        spent = {name: sum(runs.values()) for name, runs in self._done.items()}
        whole = sum(max(self._planned.get(name, 0.0), spent.get(name, 0.0)) for name in self._planned | spent)
        done = sum(spent.values())
        if not whole:
            return FamilyProgress(family=self.family, share=0.0)
        gained = done - self._free
        left = self._seconds * (whole - done) / gained if gained > LEAST_SHARE * whole else None
        return FamilyProgress(family=self.family, share=done / whole, seconds_left=left)


def weight(amount: Work) -> float:
    """Return work as one number, to which its time on a machine is about proportional: as activations."""
    return amount.images * FIXED_ACTIVATIONS + amount.activations


def families_under_way(families: Path) -> list[FamilyProgress]:
    """Return how far the builds of a store are that are under way.

    Args:
        families: folder with one for each build.
    """
    found = []
    for path in sorted(families.glob(f"*/{PROGRESS}")):
        with suppress(OSError, DataError):  # it ended just now; or is of another version
            if time.time() - path.stat().st_mtime < SILENT_SECONDS and (progress := read_value(FamilyProgress, path)):
                found.append(progress)
    return found
