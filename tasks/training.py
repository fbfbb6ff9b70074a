"""Trainings of a family: from run folders to child processes, the screen and MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from effnet.arch.cost import count
from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig, Recipe
from effnet.data.shards import Manifest
from effnet.runs import RunFolder, RunSpec, read_journal
from effnet.store import Store
from tasks.dispatch import Job, run_jobs
from tasks.screen import Screen, duration, short
from tasks.tracking import Tracker

FORWARD_SECONDS = 5.0  # between looks at the journals for MLflow
SHOW_SECONDS = 0.5

TITLES = {"fit": "fit coefficients", "member": "train members"}
COLUMNS = ("", "params", "MACs", "epoch", "minival top-1", "time")


@dataclass(frozen=True)
class Work:
    """What every stage needs."""

    config: FamilyConfig
    baseline: Architecture
    store: Store
    base: Path  # folder of the config; its relative paths begin there
    tracker: Tracker
    screen: Screen


@dataclass(frozen=True)
class Unit:
    """One training to be done."""

    name: str  # for people
    folder: RunFolder
    params: int
    macs: int
    epochs: int
    labels: Mapping[str, float]  # logged as parameters beside the run's spec: φ, α, ...

    @property
    def work(self) -> float:
        """Expected size of the training, in multiply-adds per sample."""
        return float(self.macs * self.epochs)


def make_unit(
    work: Work, manifest: Manifest, name: str, arch: Architecture, recipe: Recipe, labels: Mapping[str, float]
) -> Unit:
    """Return the training of an architecture on a dataset; its run folder is made if it is new."""
    num_classes = len(manifest.classes)
    spec = RunSpec(
        architecture=arch,
        dataset=manifest.digest,
        num_classes=num_classes,
        recipe=recipe,
        seed=work.config.seed,
    )
    cost = count(arch, num_classes)
    return Unit(name, RunFolder.create(work.store, spec), cost.params, cost.macs, recipe.epochs, labels)


def train_units(work: Work, units: Sequence[Unit], kind: str, parent: str | None) -> None:
    """Train what is not trained yet, in child processes, and forward the journals to MLflow meanwhile.

    Args:
        work: the family.
        units: trainings; those that are done are only forwarded.
        kind: "fit" or "member": for the screen, and a tag in MLflow.
        parent: MLflow run that the trainings' runs belong under.
    """
    for unit in units:
        work.tracker.open_training(unit.folder, unit.name, unit.labels, kind, parent)
    left = [unit for unit in units if unit.folder.result() is None]
    for unit in units:
        if unit not in left:
            work.tracker.forward(unit.folder)
    if len(left) < len(units):
        work.screen.say(f"{TITLES[kind]}: {len(units) - len(left)} of {len(units)} trainings reused")
    board = _Board(work, units, kind)
    jobs = [Job(unit.name, "effnet.train", (str(unit.folder.path),), unit.folder.log_path, unit.work) for unit in left]
    try:
        run_jobs(jobs, work.config.compute, tick=board.tick, done=board.done, warn=work.screen.warn)
    except BaseException:
        for unit in left:
            work.tracker.pause(unit.folder.key)
        raise
    finally:
        work.screen.settle()


class _Board:
    """Shows the trainings while they run, and forwards their journals."""

    def __init__(self, work: Work, units: Sequence[Unit], kind: str) -> None:
        self.work, self.units, self.kind = work, units, kind
        self._by_name = {unit.name: unit for unit in units}
        self._shown = self._forwarded = time.monotonic()

    def tick(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        if now - self._shown > SHOW_SECONDS:
            self._shown = now
            self._show()
        if now - self._forwarded > FORWARD_SECONDS:
            self._forwarded = now
            for unit in self.units:
                self.work.tracker.forward(unit.folder)

    def done(self, job: Job) -> None:
        """Say what came of a training."""
        unit = self._by_name[job.name]
        self.work.tracker.forward(unit.folder)
        if result := unit.folder.result():
            self.work.screen.say(
                f"{unit.name}: {short(unit.params)} params, {short(unit.macs)} MACs, "
                f"minival top-1 {result.top1:.1%}, {duration(result.seconds)}"
            )

    def _show(self) -> None:
        rows, share = [], 0.0
        for unit in self.units:
            epochs, row = _row(unit)
            rows.append(row)
            share += unit.work * min(epochs / unit.epochs, 1)
        self.work.screen.progress(TITLES[self.kind], share / sum(unit.work for unit in self.units), COLUMNS, rows)


def _row(unit: Unit) -> tuple[int, tuple[str, ...]]:
    """Return a training's epochs done, and its row of the table."""
    lines, _ = read_journal(unit.folder.metrics_path)
    best = max((line["minival_top1"] for line in lines), default=None)
    return len(lines), (
        unit.name,
        short(unit.params),
        short(unit.macs),
        f"{len(lines)}/{unit.epochs}",
        "" if best is None else f"{best:.1%}",
        duration(lines[-1]["seconds"]) if lines else "",
    )
