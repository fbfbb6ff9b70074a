"""The grid over α, β, γ as a Prefect task: halving among the candidates, seeds for the finalists, a decision."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from effnet.arch.cost import count
from effnet.arch.scaling import PAPER, PAPER_SPLIT, Coefficients, realised, split_of_cost
from effnet.config import given_coefficients
from effnet.errors import ConfigError
from effnet.hits import hits_of
from effnet.runs import numbered, read_value
from effnet.search.decision import Decision, Finalist, decide
from effnet.search.findings import FIT, CandidateFound, FinalistFound, FitFindings, RungFound
from effnet.search.grid import Candidate, Grid, distance_from_paper, enumerate_grid, in_window, paper_candidate
from effnet.search.halving import Rung, promoted, rank_correlation, rungs, total_epochs
from effnet.stages import Stage
from effnet.store import publish
from tasks.build import Build, Training
from tasks.trainings import keep_minival_hits, measure_latency, train

RULE = (
    "of the best and all that noise cannot tell from it, the one that splits the cost between depth, width and "
    "resolution most like the paper's coefficients do"
)
SHORT = 4  # candidates trained for less than 1/SHORT of the members' epochs say little


@task(task_run_name="fit coefficients", cache_policy=NO_CACHE)
def fit_coefficients(build: Build) -> Coefficients:
    """Return the config's own α, β, γ, or find them by training the grid at φ = 1."""
    if given := given_coefficients(build.config):
        build.screen.say(f"coefficients α {given.alpha:g}, β {given.beta:g}, γ {given.gamma:g} (from the config)")
        return given
    config = build.config
    grid = enumerate_grid(build.baseline, build.num_classes, config.fit, config.resolution_multiple)
    plan = rungs(len(grid.candidates), config.fit.epochs, config.fit.halving)
    _say_grid(build, grid, plan)
    left, history, tried = _halve(build, grid.candidates, plan)
    paper = paper_candidate(build.baseline, build.num_classes, config.fit, config.resolution_multiple)
    paper = next((one for one in left if one.architecture.key() == paper.architecture.key()), paper)
    finalists = _finish(build, list(dict.fromkeys([*left, paper])))
    history.append(RungFound(epochs=config.fit.epochs, top1=_means(finalists)))
    inside = in_window(paper.macs, count(build.baseline, build.num_classes).macs, config.fit)
    decision = decide({one: finalist for one, finalist in finalists.items() if inside or one is not paper})
    _say_decision(build, finalists, decision, paper, inside)
    seeds = range(config.fit.seeds)
    runs = {one: [_training(build, one, seed).folder.key for seed in seeds] for one in finalists}
    findings = _findings(grid, history, finalists, decision, paper, inside, runs, tried.union(*runs.values()))
    publish(build.folder / FIT, findings.model_dump_json(indent=2).encode())
    from effnet.report.evidence import grid_figure
    from effnet.report.once import once

    samples = build.manifest.samples["minival"]
    facts = [findings.model_dump(mode="json"), samples]
    once(build.folder, "grid", facts, lambda targets: grid_figure(findings, samples, targets))
    return decision.winner.coefficients


def fitted_coefficients(build: Build) -> Coefficients:
    """Return α, β, γ without training: the config's own, or those that were fitted for this build.

    Raises:
        ConfigError: if there are none.
    """
    if (found := _given_or_fitted(build)) is None:
        raise ConfigError(
            "no α, β, γ are fitted yet, and with others this would be of no use: run `effnet fit` with this config "
            "first, or give coefficients"
        )
    return found


def known_coefficients(build: Build) -> Coefficients:
    """Return α, β, γ without training: the config's own, those that were fitted for this build, or the paper's."""
    if found := _given_or_fitted(build):
        return found
    build.screen.warn("no α, β, γ are fitted yet: compound scaling goes by the paper's (effnet fit finds them)")
    return PAPER


def _given_or_fitted(build: Build) -> Coefficients | None:
    if given := given_coefficients(build.config):
        return given
    fitted = read_value(FitFindings, build.folder / FIT)
    return Coefficients(*fitted.winner) if fitted else None


def _halve(
    build: Build, candidates: Sequence[Candidate], plan: Sequence[Rung]
) -> tuple[list[Candidate], list[RungFound], set[str]]:
    """Return the candidates that reach the last rung, what each earlier rung found, and the keys of those rungs' runs.

    Every rung has a whole schedule of its own, down to the last learning rate, and ranks by loss: a training cut off
    in the middle of a long schedule only shows how fast a network learns, and top-1 takes too few distinct values.
    """
    alive, history, tried = list(candidates), list[RungFound](), set[str]()
    for rung, following in itertools.pairwise(plan):
        trainings = {candidate: _training(build, candidate, epochs=rung.epochs) for candidate in alive}
        train(build, list(trainings.values()))
        measure_latency(build, list(trainings.values()))
        found = {candidate: training.folder.trained() for candidate, training in trainings.items()}
        history.append(RungFound(epochs=rung.epochs, top1={_name(one): result.top1 for one, result in found.items()}))
        alive = promoted({one: (-result.loss, result.top1) for one, result in found.items()}, following.candidates)
        tried |= {training.folder.key for training in trainings.values()}
        build.screen.say(f"halving: {len(trainings)} candidates after {rung.epochs} epochs, {len(alive)} go on")
    spent, whole = total_epochs(plan), len(candidates) * build.config.fit.epochs
    if len(plan) > 1:
        build.screen.say(f"halving trains {spent} epochs in all, where training every candidate would take {whole}")
    return alive, history, tried


def _finish(build: Build, candidates: Sequence[Candidate]) -> dict[Candidate, Finalist]:
    """Train the finalists to the end, with every seed."""
    seeds = range(build.config.fit.seeds)
    trainings = {candidate: [_training(build, candidate, seed) for seed in seeds] for candidate in candidates}
    every = [training for each in trainings.values() for training in each]
    train(build, every)
    keep_minival_hits(build, every)
    measure_latency(build, every)
    base = count(build.baseline, build.num_classes).macs
    return {
        candidate: Finalist(
            hits_of((training.folder for training in each), "minival"),
            distance_from_paper(build.baseline, candidate, base),
        )
        for candidate, each in trainings.items()
    }


def _training(build: Build, candidate: Candidate, seed: int = 0, epochs: int | None = None) -> Training:
    """Return the training of a candidate: with its full schedule, or with one of `epochs` epochs."""
    alpha, beta, gamma = candidate.coefficients
    labels = {"alpha": alpha, "beta": beta, "gamma": gamma, "phi": 1.0}
    name = f"fit α{alpha:g} β{beta:g} γ{gamma:g}"
    if epochs:
        name += f", {epochs} of {build.config.fit.epochs} epochs"
    else:
        name = numbered(name, 1, 1, seed, build.config.fit.seeds)
    recipe = build.recipe.model_copy(update={"epochs": epochs or build.config.fit.epochs})
    return build.training(Stage.FIT, name, candidate.architecture, recipe, labels, seed=seed)


def _say_grid(build: Build, grid: Grid, plan: Sequence[Rung]) -> None:
    networks, fitting = grid.points - grid.duplicates, len(grid.candidates) + grid.left_out
    tried = f", {len(grid.candidates)} tried" if grid.left_out else ""
    build.screen.say(
        f"grid over α, β, γ: {grid.points:,} points build {networks:,} networks, {fitting:,} of them cost about "
        f"{build.config.fit.cost_ratio:g} times the baseline{tried}"
    )
    (build.screen.say if grid.compound else build.screen.warn)(grid.story)
    shortest, members = plan[0].epochs, build.recipe.epochs
    if shortest * SHORT < members:
        build.screen.warn(
            f"candidates are first compared after {shortest} epochs, and members are trained for {members}: short "
            "trainings favour width, long ones depth (arXiv 2103.07579); raise fit.epochs"
        )


def _say_decision(
    build: Build, finalists: dict[Candidate, Finalist], decision: Decision[Candidate], paper: Candidate, inside: bool
) -> None:
    alpha, beta, gamma = decision.winner.coefficients
    verdict = (
        f"coefficients α {alpha:g}, β {beta:g}, γ {gamma:g} chosen: minival top-1 {finalists[decision.winner].mean:.1%}"
    )
    if decision.runner_up:
        verdict += f"; {decision.told()}"
    if decision.tie:
        verdict += "; the split of the cost closest to the paper's decides"
    build.screen.say(verdict)
    base = count(build.baseline, build.num_classes).macs
    d, w, r = realised(build.baseline, decision.winner.architecture)
    split = split_of_cost(build.baseline, decision.winner.architecture, decision.winner.macs / base)
    shares = "; {:.0%} of it by depth, {:.0%} by width, {:.0%} by resolution".format(*split) if split else ""
    shares += " (the paper: {:.0%}, {:.0%}, {:.0%})".format(*PAPER_SPLIT) if split else ""
    build.screen.say(
        f"that is depth ×{d:.2f}, width ×{w:.2f}, resolution ×{r:.2f} for ×{decision.winner.macs / base:.2f} "
        f"multiply-adds{shares}"
    )
    far = "cheap" if paper.macs < build.config.fit.cost_ratio * base else "costly"
    outside = "" if inside else f", too {far} for the grid: for comparison only"
    build.screen.say(
        f"the paper's α {PAPER.alpha:g}, β {PAPER.beta:g}, γ {PAPER.gamma:g} at ×{paper.macs / base:.2f}: minival "
        f"top-1 {finalists[paper].mean:.1%}{outside}"
    )


def _findings(
    grid: Grid,
    history: Sequence[RungFound],
    finalists: dict[Candidate, Finalist],
    decision: Decision[Candidate],
    paper: Candidate,
    inside: bool,
    runs: dict[Candidate, list[str]],
    every: set[str],
) -> FitFindings:
    """Return what fit.json holds: every rung, the correlation between rungs, the finalists, the decision."""
    return FitFindings(
        points=grid.points,
        candidates=tuple(
            CandidateFound(coefficients=tuple(c.coefficients), macs=c.macs, network=_name(c), grows=c.grows)
            for c in grid.candidates
        ),
        rungs=tuple(history),
        rank_correlation=tuple(_correlation(one, two) for one, two in itertools.pairwise(history)),
        finalists=tuple(
            FinalistFound(
                coefficients=tuple(c.coefficients),
                network=_name(c),
                macs=c.macs,
                grows=c.grows,
                runs=tuple(runs[c]),
                top1=tuple(f.top1),
                mean=f.mean,
            )
            for c, f in finalists.items()
        ),
        paper=_name(paper),
        paper_in_window=inside,
        compound=grid.compound,
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
