"""The grid over α, β, γ as a Prefect task: halving among the candidates, seeds for the finalists, a decision."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from effnet.arch.scaling import PAPER, Coefficients
from effnet.config import given_coefficients
from effnet.errors import DataError
from effnet.hits import run_hits
from effnet.search.decision import RULE, Decision, Finalist, decide
from effnet.search.findings import FIT, CandidateFound, FinalistFound, FitFindings, RungFound
from effnet.search.grid import Candidate, Grid, enumerate_grid, paper_candidate
from effnet.search.halving import promoted, rank_correlation, rungs, total_epochs
from effnet.stages import Stage
from effnet.statistics import Hits
from effnet.store import publish
from tasks.build import Build, Training
from tasks.trainings import keep_minival_hits, leave, measure_latency, score_after, train

SHORT = 4  # a grid trained for less than one part in so many of the members' epochs is not to be trusted


@task(task_run_name="fit coefficients", cache_policy=NO_CACHE)
def fit_coefficients(build: Build) -> Coefficients:
    """Return the config's own α, β, γ, or find them by training the grid at φ = 1."""
    if given := given_coefficients(build.config):
        build.screen.say(f"coefficients α {given.alpha:g}, β {given.beta:g}, γ {given.gamma:g} (from the config)")
        return given
    config = build.config
    if config.fit.epochs * SHORT < config.recipe.epochs:
        build.screen.warn(
            f"fit.epochs {config.fit.epochs} is short beside the members' {config.recipe.epochs}: short trainings "
            "favour width, long ones depth (arXiv 2103.07579)"
        )
    grid = enumerate_grid(build.baseline, build.num_classes, config.fit, config.resolution_multiple)
    _say_grid(build, grid)
    left, history = _halve(build, grid.candidates)
    paper = paper_candidate(build.baseline, build.num_classes, config.resolution_multiple)
    if paper.architecture.key() not in {candidate.architecture.key() for candidate in left}:
        left = [*left, paper]
    finalists = _finish(build, left)
    dropped = [_training(build, candidate) for candidate in grid.candidates if candidate not in left]
    measure_latency(build, dropped)
    leave(build, dropped)
    history.append(RungFound(epochs=config.fit.epochs, top1=_means(finalists)))
    decision = decide(finalists)
    _say_decision(build, finalists, decision, paper)
    seeds = range(config.fit.seeds)
    runs = {one: [_training(build, one, seed).folder.key for seed in seeds] for one in left}
    every = {_training(build, candidate).folder.key for candidate in grid.candidates}.union(*runs.values())
    findings = _findings(grid, history, finalists, decision, paper, runs, every)
    publish(build.folder / FIT, findings.model_dump_json(indent=2).encode())
    from effnet.report.evidence import grid_figure

    grid_figure(findings, build.manifest.samples["minival"], [build.folder / "grid.png", build.folder / "grid.svg"])
    return decision.winner.coefficients


def _halve(build: Build, candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[RungFound]]:
    """Return the candidates that reach the last rung, and what every rung found."""
    plan = rungs(len(candidates), build.config.fit.epochs, build.config.fit.halving)
    alive, history = list(candidates), list[RungFound]()
    for rung in plan[:-1]:
        trainings = {candidate: _training(build, candidate) for candidate in alive}
        train(build, list(trainings.values()), until=rung.epochs)
        scores = {candidate: score_after(training, rung.epochs) for candidate, training in trainings.items()}
        top1 = {_name(candidate): score[0] for candidate, score in scores.items()}
        history.append(RungFound(epochs=rung.epochs, top1=top1))
        alive = promoted(scores, plan[plan.index(rung) + 1].candidates)
        build.screen.say(f"halving: {len(trainings)} candidates after {rung.epochs} epochs, {len(alive)} go on")
    spent, whole = total_epochs(plan), len(candidates) * build.config.fit.epochs
    if len(plan) > 1:
        build.screen.say(f"halving trains {spent} epochs in all, where training every candidate would take {whole}")
    return alive, history


def _finish(build: Build, candidates: Sequence[Candidate]) -> dict[Candidate, Finalist]:
    """Train the finalists to the end, with every seed."""
    seeds = range(build.config.fit.seeds)
    trainings = {candidate: [_training(build, candidate, seed) for seed in seeds] for candidate in candidates}
    every = [training for each in trainings.values() for training in each]
    train(build, every)
    keep_minival_hits(build, every)
    measure_latency(build, every)
    return {
        candidate: Finalist(np.array([_hits(training) for training in each]), candidate.macs)
        for candidate, each in trainings.items()
    }


def _hits(training: Training) -> Hits:
    if (hits := run_hits(training.folder, "minival")) is None:
        raise DataError(f"{training.folder.hits_path}: has gone; run the command again")
    return hits


def _training(build: Build, candidate: Candidate, seed: int = 0) -> Training:
    alpha, beta, gamma = candidate.coefficients
    labels = {"alpha": alpha, "beta": beta, "gamma": gamma, "phi": 1.0}
    name = f"fit α{alpha:g} β{beta:g} γ{gamma:g}" + (f" seed {seed}" if seed else "")
    recipe = build.config.recipe.model_copy(update={"epochs": build.config.fit.epochs})
    return build.training(Stage.FIT, name, candidate.architecture, recipe, labels, seed=seed)


def _say_grid(build: Build, grid: Grid) -> None:
    networks, fitting = grid.points - grid.duplicates, len(grid.candidates) + grid.left_out
    tried = f", {len(grid.candidates)} tried" if grid.left_out else ""
    build.screen.say(
        f"grid over α, β, γ: {grid.points:,} points build {networks:,} networks, {fitting:,} of them cost about "
        f"{build.config.fit.cost_ratio:g} times the baseline{tried}"
    )


def _say_decision(
    build: Build, finalists: dict[Candidate, Finalist], decision: Decision[Candidate], paper: Candidate
) -> None:
    alpha, beta, gamma = decision.winner.coefficients
    verdict = (
        f"coefficients α {alpha:g}, β {beta:g}, γ {gamma:g} chosen: minival top-1 {finalists[decision.winner].mean:.1%}"
    )
    if decision.runner_up:
        verdict += f"; {decision.told()}"
    build.screen.say(verdict)
    mine = next(f for c, f in finalists.items() if c.architecture.key() == paper.architecture.key())
    build.screen.say(
        f"the paper's α {PAPER.alpha:g}, β {PAPER.beta:g}, γ {PAPER.gamma:g}: minival top-1 {mine.mean:.1%}"
    )


def _findings(
    grid: Grid,
    history: Sequence[RungFound],
    finalists: dict[Candidate, Finalist],
    decision: Decision[Candidate],
    paper: Candidate,
    runs: dict[Candidate, list[str]],
    every: set[str],
) -> FitFindings:
    """Return what fit.json holds: every rung, the correlation between rungs, the finalists, the decision."""
    return FitFindings(
        points=grid.points,
        candidates=tuple(
            CandidateFound(coefficients=tuple(c.coefficients), macs=c.macs, network=_name(c)) for c in grid.candidates
        ),
        rungs=tuple(history),
        rank_correlation=tuple(_correlation(one, two) for one, two in itertools.pairwise(history)),
        finalists=tuple(
            FinalistFound(
                coefficients=tuple(c.coefficients),
                network=_name(c),
                macs=f.macs,
                runs=tuple(runs[c]),
                top1=tuple(f.top1),
                mean=f.mean,
            )
            for c, f in finalists.items()
        ),
        paper=_name(paper),
        winner=tuple(decision.winner.coefficients),
        best=tuple(decision.best.coefficients),
        lead=decision.lead,
        noise=decision.noise,
        p=decision.p,
        tie=decision.tie,
        seeds=decision.seeds,
        told=decision.told(),
        rule=RULE,
        runs=tuple(sorted(every)),
    )


def _name(candidate: Candidate) -> str:
    """Return the beginning of its network's key."""
    return candidate.architecture.key()[:16]


def _means(finalists: dict[Candidate, Finalist]) -> dict[str, float]:
    return {_name(candidate): finalist.mean for candidate, finalist in finalists.items()}


def _correlation(one: RungFound, two: RungFound) -> float | None:
    both = [network for network in one.top1 if network in two.top1]
    return rank_correlation([one.top1[network] for network in both], [two.top1[network] for network in both])
