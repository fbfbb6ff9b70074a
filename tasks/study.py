"""The scaling study as a Prefect task: each way of scaling alone, and compound, at equal counted cost."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from effnet.arch import zoo
from effnet.arch.scaling import PAPER, STRATEGIES, compound
from effnet.arch.spec import Architecture
from effnet.config import StudyConfig, given_coefficients
from effnet.errors import DataError
from effnet.hits import run_hits
from effnet.search.findings import STUDY, Contest, NetworkFound, StudyFindings
from effnet.search.study import StudyPoint, contests, study_points
from effnet.stages import Stage
from effnet.statistics import Hits, band
from effnet.store import publish
from tasks.build import Build, Training
from tasks.trainings import evaluate, train


@task(task_run_name="study scaling", cache_policy=NO_CACHE)
def study_scaling(build: Build, config: StudyConfig) -> None:
    """Train every network of the study with every seed; write study.json and one figure per baseline."""
    names = config.baselines or ("",)
    baselines = [zoo.find(name, build.base) if name else build.baseline for name in names]
    trained = {baseline.name: _train(build, config, baseline) for baseline in baselines}
    evaluate(build, _unique(pair for pairs in trained.values() for pair in pairs))
    findings = StudyFindings(
        config=config,
        dataset=build.manifest.digest,
        baselines={name: tuple(_found(*each) for each in points) for name, points in trained.items()},
        contests={name: tuple(contests(_hits(points))) for name, points in trained.items()},
    )
    for name in trained:
        _say(build, name, findings.baselines[name], findings.contests[name])
    publish(build.folder / STUDY, findings.model_dump_json(indent=2).encode())
    from effnet.report.evidence import study_figure

    for name, networks in findings.baselines.items():
        targets = [build.folder / f"study_{name}.png", build.folder / f"study_{name}.svg"]
        study_figure(networks, f"{name}: ways of scaling at equal cost", targets)


def _say(build: Build, name: str, networks: Iterable[NetworkFound], fights: Iterable[Contest]) -> None:
    for each in networks:
        interval = f"{each.low:.2%} to {each.high:.2%}"
        build.screen.say(f"study {name}: {each.strategy} ×{each.factor:g}: val top-1 {each.mean:.2%} ({interval})")
    for fight in fights:
        build.screen.say(
            f"study {name}: {fight.one} against {fight.other} ×{fight.factor:g}: {fight.lead:+.2%} ± "
            f"{fight.noise:.2%} (p {fight.p_holm:.2g}), {fight.told}"
        )


def _train(build: Build, config: StudyConfig, baseline: Architecture) -> list[tuple[StudyPoint, list[Training]]]:
    coefficients = given_coefficients(build.config) or PAPER
    strategies = [compound(coefficients) if name == "compound" else STRATEGIES[name] for name in config.strategies]
    points = study_points(
        baseline,
        strategies,
        config.factors,
        num_classes=build.num_classes,
        resolution_multiple=build.config.resolution_multiple,
    )
    recipe = build.config.recipe.model_copy(update={"epochs": config.epochs})
    found = []
    for point in points:
        shared = "baseline" if point.factor == 1 else point.strategy
        found.append(
            (
                point,
                [
                    build.training(
                        Stage.STUDY,
                        f"study {baseline.name} {shared} ×{point.factor:g} seed {seed}",
                        point.architecture,
                        recipe,
                        {"factor": point.factor, "seed": float(seed)},
                        seed=seed,
                    )
                    for seed in range(config.seeds)
                ],
            )
        )
    train(build, _unique(found))
    return found


def _unique(found: Iterable[tuple[StudyPoint, list[Training]]]) -> list[Training]:
    """Return every training once: the baseline belongs to all strategies."""
    return list({training.folder.key: training for _, trainings in found for training in trainings}.values())


def _hits(points: Iterable[tuple[StudyPoint, list[Training]]]) -> dict[tuple[str, float], Hits]:
    found = {}
    for point, trainings in points:
        kept = [run_hits(training.folder, "val") for training in trainings]
        if any(hits is None for hits in kept):
            raise DataError(f"study {point.architecture.name}: its hits have gone; run the command again")
        found[point.strategy, point.factor] = np.array(kept)
    return found


def _found(point: StudyPoint, trainings: list[Training]) -> NetworkFound:
    evaluations = [training.folder.evaluated() for training in trainings]
    scores = tuple(evaluation.top1 for evaluation in evaluations)
    return NetworkFound(
        strategy=point.strategy,
        factor=point.factor,
        macs=point.macs,
        params=point.params,
        resolution=point.architecture.resolution,
        runs=tuple(training.folder.key for training in trainings),
        top1=scores,
        **band(scores, evaluations[0].samples)._asdict(),
    )
