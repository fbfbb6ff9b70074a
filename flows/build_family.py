"""The family-building flow: the order of the stages, nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from effnet.config import FamilyConfig, SearchedBaseline, load_baseline
from effnet.family import FamilyResult, build_key, plan_members
from effnet.report.page import markdown
from effnet.store import Store
from tasks.fit import fit_coefficients
from tasks.progress import StageProgress
from tasks.registry import register_members
from tasks.report import family_metrics, report_files, write_report
from tasks.screen import Screen
from tasks.search import search_baseline
from tasks.servers import HOST, MLFLOW, mlflow_uri
from tasks.stages import evaluate_members, shard_dataset, train_members
from tasks.study import study_scaling
from tasks.tracking import Tracker
from tasks.training import Work, make_unit


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
    root = Store(Path(store or config.store).absolute())
    root.prepare()
    with root.building(config.family):
        return _build(config, Path(base), root)


def open_work(settings: FamilyConfig, base: Path, root: Store) -> Work:
    """Return what every stage needs."""
    screen = Screen(get_run_logger().info, StageProgress(settings.family))
    tracker = Tracker(mlflow_uri(root.root), settings.family, root.root / "artifacts" / settings.family, screen.warn)
    tracker.pages = tracker.pages or f"http://{HOST}:{MLFLOW.port}"  # where `effnet up` shows the store's own database
    return Work(settings, load_baseline(settings, base), root, base, tracker, screen)


def _build(settings: FamilyConfig, base: Path, root: Store) -> FamilyResult:
    work = open_work(settings, base, root)
    tracker = work.tracker
    manifest = shard_dataset(work)
    key = build_key(settings, work.baseline, manifest.digest)
    work = dataclasses.replace(work, key=key)
    tags = {"prefect.flow_run_id": str(flow_run.id), "prefect.flow_run_url": flow_run.ui_url or ""}
    parent = tracker.open_family(
        key, f"{settings.family} {key[:6]}", settings.model_dump(mode="json"), tags, root.datasets / manifest.digest
    )
    try:
        if isinstance(settings.baseline, SearchedBaseline):
            work = dataclasses.replace(work, baseline=search_baseline(work, manifest, settings.baseline.search, parent))
        if settings.study:
            study_scaling(work, manifest, settings.study, parent)
        coefficients = fit_coefficients(work, manifest, parent)
        members = plan_members(work.baseline, settings, coefficients, len(manifest.classes))
        units = [
            make_unit(work, manifest, member.name, member.architecture, settings.recipe, {"phi": member.phi})
            for member in members
        ]
        reused = train_members(work, units, parent)
        result = evaluate_members(work, manifest, list(zip(members, units, strict=True)), coefficients, reused)
        register_members(work, manifest, units)
        facts = write_report(work, result)
    except BaseException:
        tracker.pause(key)
        raise
    tracker.close_family(key, family_metrics(facts), markdown(facts), report_files(facts))
    return result
