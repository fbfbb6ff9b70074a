"""The scaling study as a Prefect task: each way of scaling alone, and compound, at equal counted cost."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from effnet.arch.scaling import PAPER, STRATEGIES, compound
from effnet.arch.spec import Architecture
from effnet.config import StudyConfig, given_coefficients, load_network
from effnet.data.shards.manifest import Manifest
from effnet.errors import DataError
from effnet.hits import run_hits
from effnet.search.study import StudyPoint, contests, study_points
from effnet.statistics import Hits, band
from effnet.store import publish
from tasks.trainings import Unit, Work, evaluate_units, make_unit, train_units


@task(task_run_name="study scaling", cache_policy=NO_CACHE)
def study_scaling(work: Work, manifest: Manifest, config: StudyConfig, parent: str | None) -> None:
    """Train every network of the study with every seed; write study.json and one figure per baseline."""
    names = config.baselines or ("",)
    baselines = [load_network(name, work.base) if name else work.baseline for name in names]
    trained = {baseline.name: _train(work, manifest, config, baseline, parent) for baseline in baselines}
    evaluate_units(work, _unique(pair for pairs in trained.values() for pair in pairs))
    content: dict[str, Any] = {"config": config.model_dump(mode="json"), "dataset": manifest.digest, "baselines": {}}
    content["contests"] = {}
    for name, points in trained.items():
        content["baselines"][name] = [_row(point, units) for point, units in points]
        for row in content["baselines"][name]:
            spread = f"{row['low']:.2%} to {row['high']:.2%}"
            work.screen.say(
                f"study {name}: {row['strategy']} ×{row['factor']:g}: val top-1 {row['mean']:.2%} ({spread})"
            )
        content["contests"][name] = [each._asdict() for each in contests(_hits(points))]
        for each in content["contests"][name]:
            work.screen.say(
                f"study {name}: {each['one']} against {each['other']} ×{each['factor']:g}: {each['lead']:+.2%} ± "
                f"{each['noise']:.2%} (p {each['p_holm']:.2g}), {each['told']}"
            )
    publish(work.folder / "study.json", json.dumps(content, indent=2).encode())
    from effnet.report.evidence import Curve, study_figure

    for name, rows in content["baselines"].items():
        curves: dict[str, list[Curve]] = {}
        for row in rows:
            curves.setdefault(row["strategy"], []).append(Curve(row["macs"], row["mean"], row["low"], row["high"]))
        targets = [work.folder / f"study_{name}.png", work.folder / f"study_{name}.svg"]
        study_figure(curves, f"{name}: ways of scaling at equal cost", targets)


def _train(
    work: Work, manifest: Manifest, config: StudyConfig, baseline: Architecture, parent: str | None
) -> list[tuple[StudyPoint, list[Unit]]]:
    coefficients = given_coefficients(work.config) or PAPER
    strategies = [compound(coefficients) if name == "compound" else STRATEGIES[name] for name in config.strategies]
    points = study_points(
        baseline,
        strategies,
        config.factors,
        num_classes=len(manifest.classes),
        resolution_multiple=work.config.resolution_multiple,
    )
    recipe = work.config.recipe.model_copy(update={"epochs": config.epochs})
    found = []
    for point in points:
        shared = "baseline" if point.factor == 1 else point.strategy
        found.append(
            (
                point,
                [
                    make_unit(
                        work,
                        manifest,
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
    train_units(work, _unique(found), "study", parent)
    return found


def _unique(found: Iterable[tuple[StudyPoint, list[Unit]]]) -> list[Unit]:
    """Return every training once: the baseline belongs to all strategies."""
    return list({unit.folder.key: unit for _, units in found for unit in units}.values())


def _hits(points: Iterable[tuple[StudyPoint, list[Unit]]]) -> dict[tuple[str, float], Hits]:
    found = {}
    for point, units in points:
        kept = [run_hits(unit.folder, "val") for unit in units]
        if any(hits is None for hits in kept):
            raise DataError(f"study {point.architecture.name}: its hits have gone; run the command again")
        found[point.strategy, point.factor] = np.array(kept)
    return found


def _row(point: StudyPoint, units: list[Unit]) -> dict[str, Any]:
    evaluations = [unit.folder.evaluated() for unit in units]
    scores = [evaluation.top1 for evaluation in evaluations]
    return {
        "strategy": point.strategy,
        "factor": point.factor,
        "macs": point.macs,
        "params": point.params,
        "resolution": point.architecture.resolution,
        "runs": [unit.folder.key for unit in units],
        "top1": scores,
        **band(scores, evaluations[0].samples)._asdict(),
    }
