"""The search for a baseline as a Prefect task. Run folders hold what was tried; there is no other state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from prefect import task
from prefect.cache_policies import NO_CACHE

from effnet.arch.cost import count
from effnet.arch.spec import Architecture
from effnet.config import SearchConfig
from effnet.search.evolution import Search, Trial, pareto, reward
from effnet.search.findings import SEARCH, SearchFindings, TrialFound
from effnet.search.halving import promoted
from effnet.search.space import Choices, Space, imagenet_space
from effnet.stages import Stage
from effnet.store import publish
from tasks.build import Build, Training
from tasks.trainings import leave, measure_latency, score_after, train

Method = Literal["evolution", "random"]


class Tried(NamedTuple):
    """A trial that was trained."""

    trial: Trial  # with its reward after the epochs that every trial gets, which evolution selects by
    training: Training
    cost: float  # multiply-adds, or milliseconds
    top1: float  # on minival, as far as it was trained
    final: float | None  # reward, if it was trained to the end


@task(task_run_name="search baseline", cache_policy=NO_CACHE)
def search_baseline(build: Build, config: SearchConfig) -> Architecture:
    """Return the best network found; write it, the history and the Pareto front beside the family's other files."""
    choices = Choices.of(config.blocks)
    space = imagenet_space(choices) if config.reference == "mnasnet" else Space(build.baseline, choices)
    tried = _search(build, config, config.method, space)
    control = _search(build, config, "random", space) if config.control else []
    if control:
        mine, random = (sum(each.trial.reward for each in found) / len(found) for found in (tried, control))
        build.screen.say(f"mean reward of the trials: {mine:.4f} by {config.method}, {random:.4f} at random")
    best = max([*tried, *control], key=lambda each: (each.final or -math.inf, -each.trial.number))
    arch = space.build(best.trial.genes, f"{build.config.family}_baseline")
    cost = best.training.cost
    build.screen.say(
        f"baseline found: {best.training.name}, {cost.params:,} params, {cost.macs:,} MACs, "
        f"minival top-1 {best.top1:.1%}, reward {best.final:.4f}"
    )
    _write(build, config, tried, control, arch)
    return arch


def _search(build: Build, config: SearchConfig, method: Method, space: Space) -> list[Tried]:
    """Try as many networks as the config says, batch by batch."""
    low, high = (share * config.target_macs for share in config.window)
    search = Search(
        space,
        lambda arch: low <= count(arch, build.num_classes).macs <= high,
        seed=build.config.seed,
        method=method,
        population=config.population,
        sample=config.sample,
    )
    build.screen.say(
        f"search by {method}: {config.trials} of {space.size:.1e} networks of {low / 1e6:,.1f} to "
        f"{high / 1e6:,.1f} M MACs"
    )
    recipe = build.recipe.model_copy(update={"epochs": config.epochs})
    tried: list[Tried] = []
    while len(tried) < config.trials:
        proposals = search.propose([each.trial for each in tried], min(config.batch, config.trials - len(tried)))
        trainings = []
        for number, genes in enumerate(proposals, start=len(tried)):
            name = f"{'search' if method == config.method else 'control'} {number:03}"
            arch = space.build(genes, f"trial_{number}")
            trainings.append(build.training(Stage.SEARCH, name, arch, recipe, {"trial": float(number)}))
        found = _try(build, config, trainings)
        for genes, (training, cost, first, top1, done) in zip(proposals, found, strict=True):
            trial = Trial(len(tried), genes, _reward(config, first, cost))
            tried.append(Tried(trial, training, cost, top1, _reward(config, top1, cost) if done else None))
    measure_latency(build, [each.training for each in tried])
    leave(build, [each.training for each in tried if each.final is None])
    return tried


def _try(
    build: Build, config: SearchConfig, trainings: Sequence[Training]
) -> list[tuple[Training, float, float, float, bool]]:
    """Train a batch, the better ones to the end; return cost, early and latest top-1, and whether it is complete."""
    costs = _costs(build, config, trainings)
    first = config.epochs // config.halving
    train(build, trainings, until=first if config.halving > 1 else None)
    early = [score_after(training, first)[0] for training in trainings]
    going_on = set(range(len(trainings)))
    if config.halving > 1:
        scores = {place: (_reward(config, early[place], costs[place]), 0.0) for place in going_on}
        going_on = set(promoted(scores, math.ceil(len(trainings) / config.halving)))
        train(build, [trainings[place] for place in sorted(going_on)])
    found = []
    for place, training in enumerate(trainings):
        done = place in going_on
        late = score_after(training, config.epochs)[0] if done else early[place]
        found.append((training, costs[place], early[place], late, done))
    return found


def _costs(build: Build, config: SearchConfig, trainings: Sequence[Training]) -> list[float]:
    """Return multiply-adds, or milliseconds, measured once while nothing else runs."""
    if config.target_latency_ms is None:
        return [float(training.cost.macs) for training in trainings]
    measure_latency(build, trainings)
    return [training.folder.latency_ms() for training in trainings]


def _reward(config: SearchConfig, top1: float, cost: float) -> float:
    return reward(top1, cost, config.target_latency_ms or config.target_macs, config.exponent)


def _write(
    build: Build, config: SearchConfig, tried: Sequence[Tried], control: Sequence[Tried], best: Architecture
) -> None:
    from effnet.report.evidence import search_figure
    from effnet.report.once import once

    findings = SearchFindings(
        config=config,
        trials=tuple(map(_found, tried)),
        control=tuple(map(_found, control)),
        pareto=tuple(pareto([(each.cost, each.top1) for each in tried])),
    )
    publish(build.folder / SEARCH, findings.model_dump_json(indent=2).encode())
    publish(build.folder / "baseline.json", best.model_dump_json(indent=2).encode() + b"\n")
    samples = build.manifest.samples["minival"]
    facts = [findings.model_dump(mode="json"), samples]
    once(build.folder, "search", facts, lambda targets: search_figure(findings, samples, targets))


def _found(each: Tried) -> TrialFound:
    return TrialFound(
        number=each.trial.number,
        reward=each.trial.reward,
        final_reward=each.final,
        top1=each.top1,
        cost=each.cost,
        macs=each.training.cost.macs,
        params=each.training.cost.params,
        run=each.training.folder.key,
    )
