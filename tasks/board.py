"""Trainings on the screen while they run, and their journals on the way to MLflow."""

from __future__ import annotations

import time
from collections.abc import Sequence

from effnet.runs import FEATURES_KEPT, RunResult, read_journal
from effnet.stages import Stage
from tasks.build import Build, Training
from tasks.records.tracking import run_note
from tasks.terminal.screen import duration, short
from tasks.terminal.training import COLUMNS as PROGRESS
from tasks.terminal.training import progress_of
from tasks.whole import weight

FORWARD_SECONDS = 5.0  # between looks at the journals for MLflow
SHOW_SECONDS = 0.5
COLUMNS = ("", "params", "MACs", *PROGRESS)


class Board:
    """Shows trainings of a stage while they run, and forwards their journals.

    Args:
        build: whose trainings they are.
        stage: of all of them.
        trainings: all, also those that were done before.
        until: epochs after which they are stopped early; None: they are trained to the end.
    """

    def __init__(self, build: Build, stage: Stage, trainings: Sequence[Training], until: int | None) -> None:
        self.build, self.stage, self.trainings, self.until = build, stage, trainings, until
        self._by_name = {training.order_name: training for training in trainings}
        self._shown = self._forwarded = time.monotonic()
        waiting = [training for training in trainings if training.spec.start and not training.folder.result()]
        self._unprobed = [training for training in waiting if not training.folder.probe_path.exists()]

    def begin(self) -> None:
        """Say which trainings start from weights: their features are looked at first, long before an epoch is done."""
        if self.build.whole:
            self.build.whole.begin(self.stage, {each.folder.key: self._work(each) for each in self.trainings})
        if self._unprobed:
            names = ", ".join(training.name for training in self._unprobed)
            self.build.screen.say(f"{names}: reading weights and images")

    def tick(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        if now - self._shown > SHOW_SECONDS:
            self._shown = now
            self._tell_probes()
            self.show()
        if now - self._forwarded > FORWARD_SECONDS:
            self._forwarded = now
            for training in self.trainings:
                self.build.tracker.forward(training.folder)

    def _tell_probes(self) -> None:
        """Say what the features alone reach, once for each training: its first epoch may be far."""
        for training in [each for each in self._unprobed if each.folder.probe_path.exists()]:
            self._unprobed.remove(training)
            if found := training.folder.probe():
                self.build.screen.say(f"{training.name}: features alone: minival top-1 {found.top1:.1%}")

    def done(self, name: str) -> None:
        """Report the result of a training."""
        training = self._by_name[name]
        self.build.tracker.forward(training.folder)
        if result := training.folder.result():
            self.build.screen.say(
                f"{training.name}: {short(training.cost.params)} params, {short(training.cost.macs)} MACs, "
                f"minival top-1 {result.top1:.1%}, {duration(result.seconds)}{_ended(training, result)}"
            )
        note(self.build, name, training)

    def show(self) -> None:
        """Show every training, and how far all of them together are."""
        rows, share, done = [], 0.0, dict[str, float]()
        for training in self.trainings:
            goal = min(training.epochs, self.until or training.epochs)
            epochs, row = _row(training, goal)
            rows.append(row)
            done[training.folder.key] = self._work(training, epochs)
            share += training.size * (1 if training.folder.result() else min(epochs / goal, 1))
        whole = sum(training.size for training in self.trainings)
        early = any(each.spec.recipe.patience and not each.folder.result() for each in self.trainings)
        family = None
        if self.build.whole:
            progress = self.build.whole.look(self.stage, done)
            family = progress.share, progress.left("at most" if early else "about")
        self.build.screen.progress(self.stage.heading, share / whole, COLUMNS, rows, may_end_early=early, family=family)

    def _work(self, training: Training, epochs: float | None = None) -> float:
        """Return the work of the epochs that are done; of a training that ended early, as if it had not."""
        if training.folder.result():
            epochs = training.epochs
        elif epochs is None:
            epochs = progress_of(training.folder, training.epochs)[0]
        return weight(training.work(epochs, self.build.manifest.samples["train"]))


def _ended(training: Training, result: RunResult) -> str:
    """Say why a training ended before its last epoch, and what is kept if no epoch was better than its features."""
    told = f"; stopped after {result.epochs} of at most {training.epochs} epochs, as minival's top-1 rose no more"
    early = told if result.epochs < training.epochs else ""
    return early + ("" if result.best_epoch else FEATURES_KEPT)


def note(build: Build, name: str, training: Training) -> None:
    """Tell the flow run's page how far a training is, and where MLflow has it.

    Args:
        build: whose training it is.
        name: of the order that was carried out.
        training: what it was about.
    """
    folder = training.folder
    lines, (result, evaluation) = read_journal(folder.metrics_path)[0], (folder.result(), folder.evaluation())
    told = f"{name}: {len(lines)} of {training.epochs} epochs"
    told += f", minival top-1 {lines[-1]['minival_top1']:.2%}" if lines else ""
    told += f", {evaluation.split} top-1 {evaluation.top1:.2%}" if evaluation else ""
    page = build.tracker.page(folder.key)
    text = run_note(folder, result, evaluation) if result else ""
    if page:
        told += f"; MLflow: {page}"
        text += f"\n\n[The run in MLflow]({page})" if text else ""
    build.screen.note(name, told, text)


def _row(training: Training, goal: int) -> tuple[float, tuple[str, ...]]:
    """Return a training's epochs done, also in part, and its row of the table."""
    epochs, cells = progress_of(training.folder, goal)
    return epochs, (training.name, short(training.cost.params), short(training.cost.macs), *cells)
