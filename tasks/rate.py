"""The search for a learning rate: short trainings at several, side by side, and which to take."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from effnet.arch.spec import Architecture
from effnet.config import Recipe
from effnet.errors import RunFailedError
from effnet.hits import hits_of
from effnet.runs import DIVERGED, Start, numbered
from effnet.search.decision import Finalist
from effnet.search.rates import ROUNDS, RateFindings, choose, findings, first_rates, further_rates
from effnet.stages import Stage
from tasks.build import Build, Training
from tasks.trainings import keep_minival_hits, train


class Wanted(NamedTuple):
    """The training that a rate is wanted for."""

    name: str
    architecture: Architecture
    recipe: Recipe  # with the number of epochs that each rate gets
    start: Start | None
    seeds: int


def find_rate(build: Build, wanted: Wanted) -> RateFindings:
    """Return the rate to take; trainings that are done are reused.

    Raises:
        RunFailedError: if the loss stops being a number at every rate; or as `train`.
    """
    own = wanted.recipe.learning_rate
    tried, diverged, rates = dict[float, Finalist](), set[float](), first_rates(own)
    for _ in range(1 + ROUNDS):
        trainings = {rate: _trainings(build, wanted, rate) for rate in rates}
        lost = _train(build, trainings)
        diverged |= lost
        left = {rate: each for rate, each in trainings.items() if rate not in lost}
        keep_minival_hits(build, [training for each in left.values() for training in each])
        tried |= {rate: _finalist(each) for rate, each in left.items()}
        if not tried:
            raise RunFailedError(f"{wanted.name}: the loss is no longer a number at any rate from {min(rates):g} up")
        if not (rates := further_rates(choose(tried).suggested, tried.keys(), diverged)):
            break
    return findings(own, tried, diverged)


def _trainings(build: Build, wanted: Wanted, rate: float) -> list[Training]:
    recipe = wanted.recipe.model_copy(update={"learning_rate": rate})

    def training(seed: int) -> Training:
        name = numbered(f"rate {rate:g} of {wanted.name}", 1, 1, seed, wanted.seeds)
        labels = {"learning_rate": rate}
        return build.training(Stage.RATE, name, wanted.architecture, recipe, labels, start=wanted.start, seed=seed)

    return [training(seed) for seed in range(wanted.seeds)]


def _train(build: Build, trainings: dict[float, list[Training]]) -> set[float]:
    """Train; return the rates that are too large: at which the loss was no longer a number, and all above them."""
    lost = set[float]()
    while left := [training for rate, each in trainings.items() if rate not in lost for training in each]:
        try:
            train(build, left)
            break
        except RunFailedError as error:  # the others were stopped, with checkpoints
            if DIVERGED not in str(error) or (rate := _rate_of(str(error), trainings)) is None:
                raise
            build.screen.say(f"rate {rate:g}: the loss is no longer a number, so that higher ones are left out")
            lost |= {each for each in trainings if each >= rate}
    return lost


def _rate_of(told: str, trainings: dict[float, list[Training]]) -> float | None:
    return next((rate for rate, each in trainings.items() if any(one.folder.key in told for one in each)), None)


def _finalist(trainings: Sequence[Training]) -> Finalist:
    folders = [training.folder for training in trainings]
    return Finalist(hits_of(folders, "minival"), fmean(folder.trained().loss for folder in folders))
