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
from tasks.terminal.training import Followed
from tasks.whole import weight

FORWARD_SECONDS = 5.0  # between looks at the journals for MLflow
SHOW_SECONDS = 0.5
MOST_ROWS = 40  # of the table; of more trainings, only those that are under way are shown
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
        self._shares = [
            _Share(build, training, min(training.epochs, until or training.epochs)) for training in trainings
        ]
        self._shown = self._forwarded = time.monotonic()
        waiting = [training for training in trainings if training.spec.start and not training.folder.result()]
        self._unprobed = [training for training in waiting if not training.folder.probe_path.exists()]

    def begin(self) -> None:
        """Say which trainings start from weights: their features are looked at first, long before an epoch is done."""
        if self.build.whole:
            for each in self._shares:
                each.look()
            self.build.whole.begin(self.stage, {each.training.folder.key: each.work for each in self._shares})
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
        for each in self._shares:
            each.look()
        share, whole = (
            sum(sizes) for sizes in zip(*((each.size_done, each.size) for each in self._shares), strict=True)
        )
        early = any(each.may_end_early for each in self._shares)
        family = None
        if self.build.whole:
            done = {each.training.folder.key: each.work for each in self._shares}
            progress = self.build.whole.look(self.stage, done)
            family = progress.share, progress.left("at most" if early else "about")
        self.build.screen.progress(
            self.stage.heading, share / whole, COLUMNS, self._rows(), may_end_early=early, family=family
        )

    def _rows(self) -> list[tuple[str, ...]]:
        """Return the table's rows; of many trainings, those that are under way, and how many others there are."""
        if len(self._shares) <= MOST_ROWS:
            return [each.row for each in self._shares]
        done = sum(each.done for each in self._shares)
        under_way = [each.row for each in self._shares if each.under_way]
        waiting = len(self._shares) - done - len(under_way)
        return [*under_way, (f"{done:,} done, {waiting:,} waiting", *("" for _ in COLUMNS[1:]))]


class _Share:
    """A training's share of a stage, as far as was looked."""

    def __init__(self, build: Build, training: Training, goal: int) -> None:
        self.training, self.size, self._goal = training, training.size, goal
        self._images = build.manifest.samples["train"]
        self._followed = Followed(training.folder)
        self.size_done = self.work = 0.0
        self.row: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether it has its result, or got as far as it is trained for now."""
        return self._followed.done or self.size_done >= self.size

    @property
    def under_way(self) -> bool:
        """Whether it has begun, and is not done."""
        return self._followed.begun and not self.done

    @property
    def may_end_early(self) -> bool:
        """Whether its end may come before its last epoch."""
        return bool(self.training.spec.recipe.patience) and not self._followed.done

    def look(self) -> None:
        """See how far it is; a training that ended early did as much as if it had not."""
        if self._followed.done:  # and was looked at since
            return
        self._followed.look()
        training = self.training
        epochs, cells = self._followed.progress(self._goal)
        self.size_done = self.size * (1 if self._followed.done else min(epochs / self._goal, 1))
        self.work = weight(training.work(training.epochs if self._followed.done else epochs, self._images))
        self.row = training.name, short(training.cost.params), short(training.cost.macs), *cells


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
