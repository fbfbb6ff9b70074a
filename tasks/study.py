"""The scaling study as a Prefect task: each way of scaling alone, and compound, at equal counted cost."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from effnet.arch import zoo
from effnet.arch.cost import count
from effnet.arch.scaling import Coefficients, realised, shares_of_cost
from effnet.arch.spec import Architecture
from effnet.config import StudyConfig
from effnet.hits import hits_of
from effnet.search.findings import STUDY, NetworkFound, StudyFindings
from effnet.search.study import StudyPoint, balance, contests, gains, main_way, study_points
from effnet.stages import Stage
from effnet.statistics import Hits, band, sees
from effnet.store import publish
from tasks.build import Build, Training
from tasks.trainings import evaluate, keep_minival_hits, train


@task(task_run_name="study scaling", cache_policy=NO_CACHE)
def study_scaling(build: Build, config: StudyConfig, coefficients: Coefficients) -> None:
    """Train every network of the study with every seed; write study.json and one figure per baseline.

    Args:
        build: the family.
        config: of the study.
        coefficients: α, β, γ of its compound networks.
    """
    names = config.baselines or ("",)
    baselines = [zoo.find(name, build.base) if name else build.baseline for name in names]
    trained = {baseline.name: _train(build, config, baseline, coefficients) for baseline in baselines}
    every = _unique(pair for pairs in trained.values() for pair in pairs)
    (evaluate if config.split == "val" else keep_minival_hits)(build, every)
    hits = {name: _hits(points, config.split) for name, points in trained.items()}
    macs = {name: {(each.strategy, each.factor): each.macs for each, _ in points} for name, points in trained.items()}
    findings = StudyFindings(
        config=config,
        dataset=build.manifest.digest,
        coefficients=tuple(coefficients),
        baselines={
            name: tuple(_found(points[0][0].architecture, *each, hits[name]) for each in points)
            for name, points in trained.items()
        },
        contests={name: tuple(contests(found, main_way(config))) for name, found in hits.items()},
        gains={name: tuple(gains(found, macs[name])) for name, found in hits.items()},
    )
    for name in trained:
        _say(build, name, findings)
    publish(build.folder / STUDY, findings.model_dump_json(indent=2).encode())
    from effnet.report.evidence import study_figure
    from effnet.report.once import once

    for name, networks in findings.baselines.items():
        title = f"{name}: ways of scaling at equal cost"
        facts = [title, config.split, [each.model_dump(mode="json") for each in networks]]
        draw = functools.partial(study_figure, networks, title, config.split)
        once(build.folder, f"study_{name}", facts, draw)


def _say(build: Build, name: str, findings: StudyFindings) -> None:
    split = findings.config.split
    for each in findings.baselines[name]:
        interval = f"{each.low:.2%} to {each.high:.2%}"
        shares = "; shares of log cost {:.2f}, {:.2f}, {:.2f}".format(*each.shares) if each.shares else ""
        build.screen.say(
            f"study {name}: {each.strategy} ×{each.factor:g}: {split} top-1 {each.mean:.2%} ({interval}){shares}"
        )
    if found := findings.gains[name]:
        build.screen.say(f"study {name}: {balance(found)}")
    for fight in findings.contests[name]:
        build.screen.say(
            f"study {name}: {fight.one} against {fight.other} ×{fight.factor:g}: {fight.lead:+.2%} ± "
            f"{fight.noise:.2%} (p {fight.p_holm:.2g}), {fight.told}"
            + (f"; {sees(fight.sees, findings.config.seeds)}" if fight.told == "a tie" and fight.sees else "")
        )


def _train(
    build: Build, config: StudyConfig, baseline: Architecture, coefficients: Coefficients
) -> list[tuple[StudyPoint, list[Training]]]:
    points = study_points(
        config,
        coefficients,
        baseline,
        num_classes=build.num_classes,
        resolution_multiple=build.config.resolution_multiple,
    )
    recipe = build.recipe.model_copy(update={"epochs": config.epochs})
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


def _hits(
    points: Iterable[tuple[StudyPoint, list[Training]]], split: Literal["val", "minival"]
) -> dict[tuple[str, float], Hits]:
    return {
        (point.strategy, point.factor): hits_of((training.folder for training in trainings), split)
        for point, trainings in points
    }


def _found(
    baseline: Architecture, point: StudyPoint, trainings: list[Training], hits: Mapping[tuple[str, float], Hits]
) -> NetworkFound:
    kept = hits[point.strategy, point.factor]
    scores = tuple(float(share) for share in kept.mean(1))
    multipliers = realised(baseline, point.architecture)
    cost, base = trainings[0].cost, count(baseline, trainings[0].spec.num_classes)
    return NetworkFound(
        strategy=point.strategy,
        factor=point.factor,
        macs=point.macs,
        params=point.params,
        activations=cost.activations,
        resolution=point.architecture.resolution,
        multipliers=multipliers,
        shares=shares_of_cost(multipliers, cost.macs / base.macs),
        seconds=float(np.mean([training.folder.trained().seconds for training in trainings])),
        runs=tuple(training.folder.key for training in trainings),
        top1=scores,
        **band(scores, kept.shape[1])._asdict(),
    )
