"""The forecast as a Prefect task: small networks of the family are trained, and the members foretold from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from prefect import task
from prefect.cache_policies import NO_CACHE

from effnet.arch.scaling import Coefficients
from effnet.config import ForecastConfig, ImageNetSource
from effnet.errors import ConfigError, DataError
from effnet.family import RESULT, FamilyResult, Member, left_out_story, plan_members
from effnet.forecast.findings import FORECAST, ForecastFindings, Gain, LeftOut, PointFound
from effnet.forecast.foretell import Candidate, foretell, left_out
from effnet.forecast.law import ELSEWHERE, IMAGENET, sweep_of
from effnet.forecast.points import Point, warnings_of
from effnet.hits import hits_of
from effnet.plan import forecast_epochs, points_of_forecast
from effnet.runs import numbered, read_value
from effnet.stages import Stage
from effnet.statistics import Hits, band, scatter
from effnet.store import publish
from tasks.build import Build, Training
from tasks.members import plain_training
from tasks.trainings import keep_minival_hits, train


class Swept(NamedTuple):
    """A network of the sweep and its trainings, by seed."""

    point: Point
    trainings: Sequence[Training]


def swept_networks(build: Build, coefficients: Coefficients) -> list[Swept]:
    """Return the networks that a forecast trains; where one is a member, its trainings are the member's own.

    Args:
        build: the family.
        coefficients: α, β, γ of all its networks.

    Raises:
        ConfigError: if rounding leaves too few costs, or members of such a family cannot be foretold.
    """
    if refused := build.config.no_forecast:
        raise ConfigError(f"forecast: {refused}")
    config = build.config.forecast or ForecastConfig()
    members = plan_members(build.baseline, build.config, coefficients, build.num_classes)
    named = {member.name: member for member in members}
    points = points_of_forecast(build.config, build.baseline, coefficients, members, build.num_classes)
    return [
        Swept(point, [_training(build, config, point, named.get(point.member), seed) for seed in range(config.seeds)])
        for point in points
    ]


def trainings_of_sweep(swept: Sequence[Swept]) -> list[Training]:
    """Return all trainings of a sweep."""
    return [training for each in swept for training in each.trainings]


@task(task_run_name="forecast members", cache_policy=NO_CACHE)
def forecast_members(build: Build, swept: Sequence[Swept], coefficients: Coefficients) -> ForecastFindings:
    """Train a sweep and foretell the members from it, on minival; write forecast.json and a figure.

    Args:
        build: the family.
        swept: its small networks.
        coefficients: α, β, γ of all its networks.
    """
    config = build.config.forecast or ForecastConfig()
    warnings = warnings_of([each.point for each in swept], build.baseline)
    for warning in warnings:
        build.screen.warn(f"forecast: {warning}")
    members = plan_members(build.baseline, build.config, coefficients, build.num_classes)
    if all(member.macs <= swept[-1].point.macs for member in members):
        build.screen.warn(
            "forecast: no member is dearer than the networks that are trained for it, so nothing is foretold; "
            "give smaller forecast.costs"
        )
    every = trainings_of_sweep(swept)
    train(build, every, stage=Stage.FORECAST)
    keep_minival_hits(build, every)
    hits = [hits_of((training.folder for training in each.trainings), "minival") for each in swept]
    prior = IMAGENET if isinstance(build.config.data.source, ImageNetSource) else ELSEWHERE
    val = build.manifest.samples["val"]
    foretold = foretell(
        sweep_of([(each.point.macs, rows) for each, rows in zip(swept, hits, strict=True)]),
        [Candidate(member.name, member.macs) for member in members],
        prior,
        seeds=build.config.members.seeds * build.config.members.folds,
        images=val,
    )
    findings = _as_before(
        build,
        ForecastFindings(
            config=config,
            dataset=build.manifest.digest,
            coefficients=tuple(coefficients),
            epochs=forecast_epochs(build.config, build.recipe),
            members_epochs=build.recipe.epochs,
            images=hits[0].shape[1],
            val_images=val,
            prior=tuple(prior),
            points=_found(swept, hits),
            foretold=foretold,
            warnings=tuple(warnings),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )
    publish(build.folder / FORECAST, findings.model_dump_json(indent=2).encode())
    from effnet.report.outcomes import draw_forecast, outcomes_of

    before = read_value(FamilyResult, build.folder / RESULT)  # built again, the figure stays as it is
    draw_forecast(build.folder, findings, outcomes_of(before) if before else ())
    _say(build, findings)
    return findings


def worth_training(build: Build, members: Sequence[Member], findings: ForecastFindings) -> list[Member]:
    """Return the members that members.stop_when wants trained after a forecast; say which it leaves out, and why."""
    if build.config.members.stop_when and findings.foretold.law is None:
        build.screen.warn("members.stop_when: all members are trained, as the forecast has too little to say")
    left = _left_out(build, findings)
    if left:
        build.screen.say(left_out_story(left))
    names = {each.name for each in left}
    return [member for member in members if member.name not in names]


def with_forecast(build: Build, result: FamilyResult, findings: ForecastFindings | None) -> FamilyResult:
    """Return a family with what was foretold of each member beside what it reached, and with what was left out.

    Args:
        build: the family.
        result: what became of it.
        findings: of its forecast, if it had one; trainings of another length foretell nothing that is reached.
    """
    if findings is None:
        return result
    foretold = {each.name: each for each in findings.foretold.members} if not findings.ranks_only else {}
    members = tuple(each.model_copy(update={"foretold": foretold.get(each.name)}) for each in result.members)
    return result.model_copy(update={"members": members, "left_out": _left_out(build, findings)})


def _left_out(build: Build, findings: ForecastFindings) -> tuple[LeftOut, ...]:
    """Return the members that are not trained; those that the sweep trained are there anyway."""
    if (stop := build.config.members.stop_when) is None:
        return ()
    trained = set() if findings.ranks_only else {point.member for point in findings.points}
    return tuple(each for each in left_out(findings.foretold, stop.gain_below) if each.name not in trained)


def _as_before(build: Build, findings: ForecastFindings) -> ForecastFindings:
    """Return the forecast that was made before, if this one says the same: it is as old as that."""
    try:
        before = read_value(ForecastFindings, build.folder / FORECAST)
    except DataError:  # of another version
        before = None
    return before if before and before == findings.model_copy(update={"made": before.made}) else findings


def _training(build: Build, config: ForecastConfig, point: Point, member: Member | None, seed: int) -> Training:
    """Return a training of a network of the sweep: the member's own, where it is one and trained as long."""
    epochs, folds = forecast_epochs(build.config, build.recipe), build.config.members.folds
    if member and epochs == build.recipe.epochs and seed < build.config.members.seeds:
        return plain_training(dataclasses.replace(build, fold=1 if folds > 1 else 0), member, seed)
    name = numbered(f"forecast ×{point.factor:g}", 1, 1, seed, config.seeds)
    recipe = build.recipe.model_copy(update={"epochs": epochs})
    return build.training(Stage.FORECAST, name, point.architecture, recipe, {"factor": point.factor}, seed=seed)


def _found(swept: Sequence[Swept], hits: Sequence[Hits]) -> tuple[PointFound, ...]:
    scores = [[float(share) for share in rows.mean(1)] for rows in hits]
    pooled = scatter(scores)
    found = []
    for each, top1, rows in zip(swept, scores, hits, strict=True):
        found.append(
            PointFound(
                factor=each.point.factor,
                macs=each.point.macs,
                params=each.point.params,
                resolution=each.point.architecture.resolution,
                runs=tuple(training.folder.key for training in each.trainings),
                top1=tuple(top1),
                member=each.point.member,
                **band(top1, rows.shape[1], pooled)._asdict(),
            )
        )
    return tuple(found)


def _say(build: Build, findings: ForecastFindings) -> None:
    foretold = findings.foretold
    build.screen.say(f"forecast {findings.source()}: {foretold.told}")
    if findings.caution:
        build.screen.warn(f"forecast: {findings.caution}")
    for each in foretold.members:
        if each.top1 is not None:
            build.screen.say(f"forecast {each.name}: top-1 {each.told()}{_gain(each.gain)}")


def _gain(gain: Gain | None) -> str:
    return f", {gain.told()} points on the one before" if gain else ""
