"""Trainings of a family: from run folders to child processes, the screen and MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from effnet.arch.cost import count
from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig, PoolCompute, Recipe
from effnet.data.shards.manifest import Manifest
from effnet.errors import DataError
from effnet.hits import run_hits
from effnet.runs import About, RunFolder, RunSpec, Start, read_journal
from effnet.store import Store
from tasks.compute.place import Order, carry_out
from tasks.records.tracking import Tracker
from tasks.terminal.screen import Screen, duration, short

FORWARD_SECONDS = 5.0  # between looks at the journals for MLflow
SHOW_SECONDS = 0.5

TITLES = {"search": "search baseline", "study": "study scaling", "fit": "fit coefficients", "member": "train members"}
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
    key: str = ""  # of the build; where no family is built, of nothing

    @property
    def folder(self) -> Path:
        """Where the family's results lie; made if it is new."""
        folder = self.store.families / self.key
        folder.mkdir(parents=True, exist_ok=True)
        return folder


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
    work: Work,
    manifest: Manifest,
    name: str,
    arch: Architecture,
    recipe: Recipe,
    labels: Mapping[str, float],
    start: Start | None = None,
    seed: int = 0,
) -> Unit:
    """Return the training of an architecture on a dataset; its run folder is made if it is new."""
    num_classes = len(manifest.classes)
    spec = RunSpec(
        architecture=arch,
        dataset=manifest.digest,
        num_classes=num_classes,
        recipe=recipe,
        seed=work.config.seed + seed,
        start=start,
    )
    cost = count(arch, num_classes)
    return Unit(name, RunFolder.create(work.store, spec), cost.params, cost.macs, recipe.epochs, labels)


def train_units(
    work: Work, units: Sequence[Unit], kind: str, parent: str | None, *, ranks: int = 1, until: int | None = None
) -> None:
    """Train what is not trained yet, in child processes, and forward the journals to MLflow meanwhile.

    Args:
        work: the family.
        units: trainings; those that are done are only forwarded.
        kind: "fit" or "member": for the screen, and a tag in MLflow.
        parent: MLflow run that the trainings' runs belong under.
        ranks: processes of a machine that train each together; a work pool's config may ask for more.
        until: epochs after which to leave them, to be gone on with later.
    """
    for unit in units:
        labels = dict(unit.labels)
        unit.folder.describe(
            About(experiment=work.config.family, name=unit.name, kind=kind, labels=labels, family=work.key)
        )
        work.tracker.open_training(unit.folder, unit.name, unit.labels, kind, parent)
    left = [unit for unit in units if not _reached(unit, until)]
    for unit in units:
        if unit not in left:
            work.tracker.forward(unit.folder)
    if len(left) < len(units):
        work.screen.say(f"{TITLES[kind]}: {len(units) - len(left)} of {len(units)} trainings reused")
    board = _Board(work, units, kind, until)
    machines = 1
    if isinstance(compute := work.config.compute, PoolCompute):
        ranks, machines = max(ranks, compute.ranks), compute.machines
    orders = [
        Order(
            name=unit.name,
            action="train",
            runs=(unit.folder.key,),
            work=unit.work,
            ranks=ranks,
            machines=machines,
            until=until,
        )
        for unit in left
    ]
    try:
        carry_out(orders, work.config.compute, work.store, tick=board.tick, done=board.done, warn=work.screen.warn)
        if left:
            board.show()  # that all is done
    except BaseException:
        for unit in left:
            work.tracker.pause(unit.folder.key)
        raise
    finally:
        work.screen.settle()


def time_units(work: Work, units: Sequence[Unit]) -> None:
    """Time every network that has not been timed, one after the other, while nothing else runs."""
    missing = {unit.folder.key: unit for unit in units if not unit.folder.latency_path.exists()}
    if missing:
        _carry_out_one(work, Order(name="latency", action="latency", runs=tuple(missing)), lambda: None)
    for unit in units:
        work.tracker.forward(unit.folder)


def keep_unit_hits(work: Work, units: Sequence[Unit]) -> None:
    """Keep which images of minival every finished training is right about, where it is not kept yet."""
    missing = [unit.folder.key for unit in units if run_hits(unit.folder, "minival") is None]
    if missing:
        _carry_out_one(work, Order(name="hits", action="hits", runs=tuple(missing)), lambda: None)


def leave_units(work: Work, units: Sequence[Unit]) -> None:
    """End the runs in MLflow of trainings that halving left."""
    for unit in units:
        work.tracker.leave(unit.folder)


def evaluate_units(work: Work, units: Sequence[Unit]) -> int:
    """Score every finished training on the validation split, once; return how many were scored before.

    A latency that other work disturbed is measured again, while nothing of ours runs, on this machine's own trainings.
    """
    missing = [unit for unit in units if unit.folder.evaluation() is None or run_hits(unit.folder, "val") is None]
    known = [unit for unit in units if unit not in missing]
    if missing:
        order = Order(name="evaluation", action="evaluate", runs=tuple(unit.folder.key for unit in missing))

        def tick() -> None:
            done = sum(unit.folder.evaluation_path.exists() for unit in missing)
            work.screen.progress("evaluate", done / len(missing), ("members", "of"), [(str(done), str(len(missing)))])

        try:
            _carry_out_one(work, order, tick)
        finally:
            work.screen.settle()
    _time_again(work, known)
    for unit in units:
        work.tracker.forward(unit.folder)
    return len(units) - len(missing)


def _time_again(work: Work, units: Sequence[Unit]) -> None:
    noisy = [unit for unit in units if (known := unit.folder.latency()) and not known.settled]
    if noisy and not isinstance(work.config.compute, PoolCompute):  # a pool's machines differ
        names = ", ".join(unit.name for unit in noisy)
        work.screen.say(f"latency of {names} is measured again: other work disturbed it")
        runs = tuple(unit.folder.key for unit in noisy)
        _carry_out_one(work, Order(name="latency", action="latency", runs=runs), lambda: None)


def _carry_out_one(work: Work, order: Order, tick: Callable[[], None]) -> None:
    carry_out([order], work.config.compute, work.store, tick=tick, done=lambda _order: None, warn=work.screen.warn)


def _reached(unit: Unit, until: int | None) -> bool:
    """Say whether a training is done, or as far as wanted."""
    return unit.folder.result() is not None or (until is not None and epochs_done(unit) >= until)


def epochs_done(unit: Unit) -> int:
    """Return the epochs in a training's journal."""
    return len(read_journal(unit.folder.metrics_path)[0])


def score_after(unit: Unit, epochs: int) -> tuple[float, float]:
    """Return minival's (top-1, -loss): of the kept weights if the training is over after so many epochs, or then."""
    result = unit.folder.result()
    if result is not None and result.epochs <= epochs:
        return result.top1, -result.loss
    lines = read_journal(unit.folder.metrics_path)[0][:epochs]
    if len(lines) < epochs:
        raise DataError(f"{unit.folder.path}: its journal has gone; run the command again")
    return lines[-1]["minival_top1"], -lines[-1]["minival_loss"]


class _Board:
    """Shows the trainings while they run, and forwards their journals."""

    def __init__(self, work: Work, units: Sequence[Unit], kind: str, until: int | None) -> None:
        self.work, self.units, self.kind, self.until = work, units, kind, until
        self._by_name = {unit.name: unit for unit in units}
        self._shown = self._forwarded = time.monotonic()

    def tick(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        if now - self._shown > SHOW_SECONDS:
            self._shown = now
            self.show()
        if now - self._forwarded > FORWARD_SECONDS:
            self._forwarded = now
            for unit in self.units:
                self.work.tracker.forward(unit.folder)

    def done(self, order: Order) -> None:
        """Say what came of a training."""
        unit = self._by_name[order.name]
        self.work.tracker.forward(unit.folder)
        if result := unit.folder.result():
            self.work.screen.say(
                f"{unit.name}: {short(unit.params)} params, {short(unit.macs)} MACs, "
                f"minival top-1 {result.top1:.1%}, {duration(result.seconds)}"
            )

    def show(self) -> None:
        """Show every training, and how far all of them together are."""
        rows, share = [], 0.0
        for unit in self.units:
            goal = min(unit.epochs, self.until or unit.epochs)
            epochs, row = _row(unit, goal)
            rows.append(row)
            share += unit.work * (1 if unit.folder.result() else min(epochs / goal, 1))
        self.work.screen.progress(TITLES[self.kind], share / sum(unit.work for unit in self.units), COLUMNS, rows)


def _row(unit: Unit, goal: int) -> tuple[int, tuple[str, ...]]:
    """Return a training's epochs done, and its row of the table."""
    lines, _ = read_journal(unit.folder.metrics_path)
    best = max((line["minival_top1"] for line in lines), default=None)
    return len(lines), (
        unit.name,
        short(unit.params),
        short(unit.macs),
        f"{len(lines)}/{goal}",
        "" if best is None else f"{best:.1%}",
        duration(lines[-1]["seconds"]) if lines else "",
    )
