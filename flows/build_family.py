"""The family-building flow: the order of the stages, nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from effnet.config import FamilyConfig, SearchedBaseline, load_baseline
from effnet.data.shards.manifest import Manifest
from effnet.family import FamilyResult, build_key, plan_members
from effnet.process import report_to
from effnet.report.page import markdown
from effnet.store import Store
from tasks.fit import fit_coefficients
from tasks.members import evaluate_members, train_members
from tasks.records.tracking import store_tracker
from tasks.register import register_members
from tasks.report import family_metrics, report_files, write_report
from tasks.search import search_baseline
from tasks.servers.prefect_setup import quiet_worker
from tasks.servers.relocation import settle
from tasks.shard import shard_dataset
from tasks.study import study_scaling
from tasks.terminal.progress import StageProgress
from tasks.terminal.screen import Screen
from tasks.trainings import Work, make_unit


def run_name() -> str:
    """Return the name of a flow run: its family's."""
    config = flow_run.parameters["config"]
    return str(config["family"] if isinstance(config, dict) else config.family)


@flow(name="build_family", flow_run_name=run_name)
def build_family(config: FamilyConfig, base: str = ".", store: str | None = None) -> FamilyResult:
    """Build a compound-scaled family.

    Args:
        config: the family; what a file of configs/ says.
        base: folder that relative paths in the config begin at.
        store: folder for everything the family leaves behind, instead of the one that the config names.
    """
    with opened(config, base, store) as (work, manifest, parent):
        work = with_baseline(work, manifest, parent)
        if config.study:
            study_scaling(work, manifest, config.study, parent)
        coefficients = fit_coefficients(work, manifest, parent)
        members = plan_members(work.baseline, config, coefficients, len(manifest.classes))
        units = [
            make_unit(work, manifest, member.name, member.architecture, config.recipe, {"phi": member.phi})
            for member in members
        ]
        reused = train_members(work, units, parent)
        result = evaluate_members(work, manifest, list(zip(members, units, strict=True)), coefficients, reused)
        register_members(work, manifest, units)
        facts = write_report(work, result)
        work.tracker.close_family(work.key, family_metrics(facts), markdown(facts), report_files(facts))
        return result


@contextmanager
def opened(settings: FamilyConfig, base: str, store: str | None) -> Iterator[tuple[Work, Manifest, str | None]]:
    """Open store, dataset and MLflow run of a config; the run is left as paused if the block fails."""
    root = Store.at(store or settings.store)
    report_to(root.logs)
    quiet_worker()
    root.prepare()
    with root.building(settings.family):
        screen = Screen(get_run_logger().info, StageProgress(settings.family))
        settle(root, screen.say)
        tracker = store_tracker(root, settings.family, screen.warn)
        work = Work(settings, load_baseline(settings, Path(base)), root, Path(base), tracker, screen)
        manifest = shard_dataset(work)
        work = dataclasses.replace(work, key=build_key(settings, work.baseline, manifest.digest))
        name = f"{settings.family} {work.key[:6]}"
        folder = root.datasets / manifest.digest
        parent = tracker.open_family(work.key, name, settings.model_dump(mode="json"), _this_flow_run(), folder)
        try:
            yield work, manifest, parent
        except BaseException:
            tracker.pause(work.key)
            raise


def with_baseline(work: Work, manifest: Manifest, parent: str | None) -> Work:
    """Search for the baseline, if the config says so."""
    if not isinstance(work.config.baseline, SearchedBaseline):
        return work
    return dataclasses.replace(work, baseline=search_baseline(work, manifest, work.config.baseline.search, parent))


def _this_flow_run() -> dict[str, str]:
    """Return the tags that lead from MLflow to this run on Prefect's page."""
    return {"prefect.flow_run_id": str(flow_run.id), "prefect.flow_run_url": flow_run.ui_url or ""}
