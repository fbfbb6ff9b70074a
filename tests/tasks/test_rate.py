"""Rates that are too large are an answer, not a failure; where the best is the last one, more are tried."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig
from effnet.data.shards.manifest import Manifest
from effnet.errors import RunFailedError
from effnet.runs import DIVERGED, RunFolder
from effnet.search.decision import Finalist
from effnet.store import Store
from tasks import rate
from tasks.build import Build, Training
from tasks.rate import Wanted, find_rate
from tasks.records.tracking import Tracker
from tasks.terminal.screen import Screen


class Trained:
    """Trainings that are right about more images the nearer their rate is to the best, and diverge from one rate on."""

    def __init__(self, best: float, diverges: float) -> None:
        self.best, self.diverges, self.calls = best, diverges, list[list[float]]()

    def train(self, _build: Build, trainings: Sequence[Training]) -> None:
        self.calls.append([training.spec.recipe.learning_rate for training in trainings])
        for training in reversed(trainings):  # the largest first: others are stopped with it
            if training.spec.recipe.learning_rate >= self.diverges:
                raise RunFailedError(f"{training.name}: exit code 70 (run {training.folder.key}: …; {DIVERGED}); …")

    def finalist(self, trainings: Sequence[Training]) -> Finalist:
        far = abs(np.log2(trainings[0].spec.recipe.learning_rate / self.best))
        return Finalist(np.array([np.arange(1000) < 900 - 100 * far] * len(trainings)), far)


@pytest.fixture
def build(config: FamilyConfig, baseline: Architecture, manifest: Manifest, store: Store) -> Build:
    nobody = cast(Tracker, SimpleNamespace())
    return Build(config, baseline, manifest, store, nobody, Screen(), Path())


def found(build: Build, trained: Trained, monkeypatch: pytest.MonkeyPatch, seeds: int = 2) -> rate.RateFindings:
    monkeypatch.setattr(rate, "train", trained.train)
    monkeypatch.setattr(rate, "keep_minival_hits", lambda _build, _trainings: None)
    monkeypatch.setattr(rate, "_finalist", trained.finalist)
    return find_rate(build, Wanted("B0", build.baseline, build.recipe, None, seeds))


def test_rates_at_which_the_loss_is_no_number_are_left_out(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = Trained(best=0.12, diverges=0.2)
    rates = found(build, trained, monkeypatch)
    assert rates.suggested == 0.12
    assert {each.learning_rate: each.top1 is None for each in rates.rates} == {
        0.06 * 2**step: step >= 2 for step in range(-3, 4)
    }
    assert [max(call) for call in trained.calls] == [0.48, 0.24, 0.12]  # each time without what was too large
    assert not rates.at_edge


def test_where_the_best_is_the_last_one_more_are_tried(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = Trained(best=0.06 * 2**-5, diverges=10)
    rates = found(build, trained, monkeypatch)
    assert rates.suggested == 0.06 * 2**-5
    assert sorted(trained.calls[1]) == sorted(2 * [0.06 * 2**-5, 0.06 * 2**-4])
    assert len(trained.calls) == 3  # that one was the last of them, so that two more follow
    assert not rates.at_edge
    far = found(build, Trained(best=1e-6, diverges=10), monkeypatch)
    assert far.at_edge


def test_every_seed_has_a_run_of_its_own(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    found(build, Trained(best=0.06, diverges=10), monkeypatch, seeds=3)
    specs = [RunFolder(path).spec() for path in build.store.runs.iterdir()]
    assert sorted({spec.seed for spec in specs}) == [0, 1, 2]
    assert len(specs) == 21


def test_other_failures_stay_failures(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunFailedError, match="at any rate from"):
        found(build, Trained(best=0.06, diverges=0), monkeypatch)

    def fail(*_: object) -> None:
        raise RunFailedError("rate: exit code 70 (an error that effnet did not expect)")

    monkeypatch.setattr(rate, "train", fail)
    with pytest.raises(RunFailedError, match="did not expect"):
        find_rate(build, Wanted("B0", build.baseline, build.recipe, None, 1))
