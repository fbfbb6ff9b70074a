"""The family-building flow: the order of the stages, nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from effnet.arch.scaling import PAPER
from effnet.change import AnyConfig, Change, family_of, settle_config
from effnet.config import SearchedBaseline, load_baseline
from effnet.family import FamilyResult, build_key, plan_members
from effnet.process import report_to
from effnet.report.page import markdown
from effnet.stages import Stage
from effnet.store import Store
from tasks import again
from tasks.approve import ask_before, ask_before_trainings
from tasks.build import Build
from tasks.events import family_built
from tasks.fit import fit_coefficients
from tasks.forecast import forecast_members, swept_networks, trainings_of_sweep, with_forecast, worth_training
from tasks.history import keep_build, with_changes
from tasks.members import check_teacher, entrants, evaluate_members, train_members, trainings_of
from tasks.records.story import experiment_note
from tasks.records.tracking import store_tracker
from tasks.register import register_members
from tasks.report import family_metrics, report_files, write_report
from tasks.search import search_baseline
from tasks.servers.prefect_setup import quiet_worker, untagged
from tasks.servers.relocation import settle
from tasks.shard import shard_dataset, shard_folds
from tasks.study import study_scaling
from tasks.terminal.flow_page import FlowPage
from tasks.terminal.screen import Screen
from tasks.whole import PROGRESS, Whole


def run_name() -> str:
    """Return the name of a flow run: its family's."""
    return family_of(flow_run.parameters["config"], flow_run.parameters.get("change"))


@flow(name="build_family", flow_run_name=run_name)
def build_family(
    *,
    change: Change = Change(),  # noqa: B008 - frozen
    config: AnyConfig,
    approve: bool = False,
    base: str = ".",
    store: str | None = None,
) -> State[FamilyResult]:
    """Build a compound-scaled family.

    Args:
        change: what is different from the config
        config: what to start from; in text, what a file of configs/ says
        approve: begin every stage, whatever it costs, where the config has `approve_above`
        base: folder that relative paths begin at
        store: folder for everything the family leaves behind, instead of the one that the config names
    """
    with opened(change, config, approve, base, store) as build:
        config = build.config
        check_teacher(build)
        whole = Whole(config.family, build.folder / PROGRESS)
        build = dataclasses.replace(build, whole=whole)
        whole.expect(build.prices())
        build.tell_few_steps()
        build = shard_folds(with_baseline(build))
        coefficients = None
        if not config.members.published:
            ask_before(build, Stage.FIT)
            coefficients = fit_coefficients(build)
        whole.expect(build.prices(coefficients))
        if config.study:
            ask_before(build, Stage.STUDY, coefficients)
            study_scaling(build, config.study, coefficients or PAPER)
        members, forecast = plan_members(build.baseline, config, coefficients, build.num_classes), None
        if config.forecast and coefficients:
            swept = swept_networks(build, coefficients)
            ask_before_trainings(build, Stage.FORECAST, trainings_of_sweep(swept))
            forecast = forecast_members(build, swept, coefficients)
            members = worth_training(build, members, forecast)
            whole.expect(build.prices(coefficients, members))
        family = entrants(build, members)
        ask_before_trainings(build, Stage.MEMBER, trainings_of(family), forecast)
        reused = train_members(build, family)
        whole.end()
        result = evaluate_members(build, family, coefficients, reused)
        result = with_changes(build, with_forecast(build, result, forecast))
        chosen = {entrant.member.name: entrant.chosen for entrant in family}
        use = result.answer
        registered = register_members(build, chosen, use.member if use else None, use.because if use else "")
        result = result.model_copy(update={"standings": tuple(each.standing for each in registered)})
        facts = write_report(build, result, registered)
        build.tracker.close_family(build.key, family_metrics(facts), markdown(facts), report_files(facts))
        build.tracker.tell(build.key, partial(experiment_note, facts))
        keep_build(build, result)
        again.note(build, result)
        family_built(build, result, registered)
        return Completed(message=_message(result), data=result)


@contextmanager
def opened(change: Change, config: AnyConfig, approve: bool, base: str, store: str | None) -> Iterator[Build]:
    """Open store, dataset and MLflow run of a config; if the block fails, the run is marked as paused."""
    settings, folder = settle_config(config, change, Path(base))
    root = Store.at(store or settings.store)
    report_to(root.logs)
    quiet_worker()
    root.prepare()
    with root.building(settings.family), untagged():
        screen = Screen(FlowPage(settings.family))
        settle(root, screen.say)
        tracker = store_tracker(root, settings.family, screen.warn)
        baseline = load_baseline(settings, folder)
        manifest = shard_dataset(settings, root, folder, screen)
        build = Build(settings, baseline, manifest, root, tracker, screen, folder, approved=approve)
        build.tell_order()
        key = build_key(settings, baseline, manifest.digest, build.order.shuffle_shards)
        build = dataclasses.replace(build, key=key)
        name = f"{settings.family} {key[:6]}"
        tracker.open_family(key, name, settings.model_dump(mode="json"), _this_flow_run(), build.dataset)
        try:
            yield build
        except BaseException:
            tracker.pause(key)
            raise


def with_baseline(build: Build) -> Build:
    """Search for the baseline, if the config says so."""
    if not isinstance(build.config.baseline, SearchedBaseline):
        return build
    ask_before(build, Stage.SEARCH)
    return dataclasses.replace(build, baseline=search_baseline(build, build.config.baseline.search))


def _message(result: FamilyResult) -> str:
    """Return the answer in a line, for the state of the flow run."""
    use = result.answer
    return f"use {use.member}: {use.because}" if use else f"{len(result.members)} members"


def _this_flow_run() -> dict[str, str]:
    """Return the tags that lead from MLflow to this run on Prefect's page."""
    return {"prefect.flow_run_id": str(flow_run.id), "prefect.flow_run_url": flow_run.ui_url or ""}
