"""One stage of a family alone: the scaling study, the grid, the search. Order only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from effnet.config import FamilyConfig, SearchedBaseline, StudyConfig
from effnet.data.manifest import Manifest
from effnet.family import build_key
from effnet.store import Store
from flows.build_family import open_work, run_name
from tasks.fit import fit_coefficients as fit_task
from tasks.search import search_baseline as search_task
from tasks.stages import shard_dataset
from tasks.study import study_scaling as study_task
from tasks.training import Work


@flow(name="study_scaling", flow_run_name=run_name)
def study_scaling(config: FamilyConfig, base: str = ".", store: str | None = None) -> str:
    """Compare depth, width, resolution and compound scaling at equal cost; return the folder of the results.

    Args:
        config: the family; what a file of configs/ says.
        base: folder that relative paths in the config begin at.
        store: folder for everything the family leaves behind, instead of the one that the config names.
    """
    with _opened(config, base, store) as (work, manifest, parent):
        work = _with_baseline(work, manifest, parent)
        study_task(work, manifest, work.config.study or StudyConfig(), parent)
        return str(work.folder)


@flow(name="fit_coefficients", flow_run_name=run_name)
def fit_coefficients(config: FamilyConfig, base: str = ".", store: str | None = None) -> str:
    """Find α, β, γ by the grid; return the folder of the results.

    Args:
        config: the family; what a file of configs/ says.
        base: folder that relative paths in the config begin at.
        store: folder for everything the family leaves behind, instead of the one that the config names.
    """
    with _opened(config, base, store) as (work, manifest, parent):
        fit_task(_with_baseline(work, manifest, parent), manifest, parent)
        return str(work.folder)


@flow(name="search_baseline", flow_run_name=run_name)
def search_baseline(config: FamilyConfig, base: str = ".", store: str | None = None) -> str:
    """Search for the baseline; return the folder of the results.

    Args:
        config: the family; what a file of configs/ says.
        base: folder that relative paths in the config begin at.
        store: folder for everything the family leaves behind, instead of the one that the config names.
    """
    with _opened(config, base, store) as (work, manifest, parent):
        _with_baseline(work, manifest, parent)
        return str(work.folder)


def _with_baseline(work: Work, manifest: Manifest, parent: str | None) -> Work:
    """Search for the baseline, if the config says so."""
    if not isinstance(work.config.baseline, SearchedBaseline):
        return work
    return dataclasses.replace(work, baseline=search_task(work, manifest, work.config.baseline.search, parent))


@contextmanager
def _opened(settings: FamilyConfig, base: str, store: str | None) -> Iterator[tuple[Work, Manifest, str | None]]:
    """Open store, dataset and MLflow run of a config."""
    root = Store(Path(store or settings.store).absolute())
    root.prepare()
    with root.building(settings.family):
        work = open_work(settings, Path(base), root)
        tracker = work.tracker
        manifest = shard_dataset(work)
        work = dataclasses.replace(work, key=build_key(settings, work.baseline, manifest.digest))
        tags = {"prefect.flow_run_id": str(flow_run.id), "prefect.flow_run_url": flow_run.ui_url or ""}
        name = f"{settings.family} {work.key[:6]}"  # the family's own: `effnet family` goes on with it
        parent = tracker.open_family(
            work.key, name, settings.model_dump(mode="json"), tags, root.datasets / manifest.digest
        )
        try:
            yield work, manifest, parent
            tracker.attach(work.key, sorted(work.folder.iterdir()))
        finally:
            tracker.pause(work.key)
