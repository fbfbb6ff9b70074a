"""The scaling study as a Prefect task: each way of scaling alone, and compound, at equal counted cost."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from effnet.arch.scaling import PAPER, STRATEGIES, compound
from effnet.arch.spec import Architecture
from effnet.config import StudyConfig, given_coefficients, load_network
from effnet.data.manifest import Manifest
from effnet.search.study import StudyPoint, band, study_points
from effnet.store import publish
from tasks.training import Unit, Work, evaluate_units, make_unit, train_units


@task(task_run_name="study scaling", cache_policy=NO_CACHE)
def study_scaling(work: Work, manifest: Manifest, config: StudyConfig, parent: str | None) -> None:
    """Train every network of the study with every seed; write study.json and one figure per baseline."""
    names = config.baselines or ("",)
    baselines = [load_network(name, work.base) if name else work.baseline for name in names]
    trained = {baseline.name: _train(work, manifest, config, baseline, parent) for baseline in baselines}
    evaluate_units(work, _unique(pair for pairs in trained.values() for pair in pairs))
    content: dict[str, Any] = {"config": config.model_dump(mode="json"), "dataset": manifest.digest, "baselines": {}}
    for name, points in trained.items():
        content["baselines"][name] = [_row(point, units) for point, units in points]
        for row in content["baselines"][name]:
            spread = "" if row["low"] is None else f" ({row['low']:.2%} to {row['high']:.2%})"
            work.screen.say(f"study {name}: {row['strategy']} ×{row['factor']:g}: val top-1 {row['mean']:.2%}{spread}")
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


def _row(point: StudyPoint, units: list[Unit]) -> dict[str, Any]:
    scores = [unit.folder.evaluated().top1 for unit in units]
    return {
        "strategy": point.strategy,
        "factor": point.factor,
        "macs": point.macs,
        "params": point.params,
        "resolution": point.architecture.resolution,
        "runs": [unit.folder.key for unit in units],
        "top1": scores,
        **band(scores)._asdict(),
    }
