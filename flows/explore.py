"""One stage of a family alone: the scaling study, the grid, the search. Order only."""

from __future__ import annotations

from prefect import flow

from effnet.config import FamilyConfig, StudyConfig
from flows.build_family import opened, run_name, with_baseline
from tasks.fit import fit_coefficients as fit_task
from tasks.study import study_scaling as study_task
from tasks.trainings import Work


@flow(name="study_scaling", flow_run_name=run_name)
def study_scaling(config: FamilyConfig, base: str = ".", store: str | None = None) -> str:
    """Compare depth, width, resolution and compound scaling at equal cost; return the folder of the results.

    Args:
        config: the family; what a file of configs/ says.
        base: folder that relative paths in the config begin at.
        store: folder for everything the family leaves behind, instead of the one that the config names.
    """
    with opened(config, base, store) as (work, manifest, parent):
        work = with_baseline(work, manifest, parent)
        study_task(work, manifest, work.config.study or StudyConfig(), parent)
        return _left(work)


@flow(name="fit_coefficients", flow_run_name=run_name)
def fit_coefficients(config: FamilyConfig, base: str = ".", store: str | None = None) -> str:
    """Find α, β, γ by the grid; return the folder of the results.

    Args:
        config: the family; what a file of configs/ says.
        base: folder that relative paths in the config begin at.
        store: folder for everything the family leaves behind, instead of the one that the config names.
    """
    with opened(config, base, store) as (work, manifest, parent):
        work = with_baseline(work, manifest, parent)
        fit_task(work, manifest, parent)
        return _left(work)


@flow(name="search_baseline", flow_run_name=run_name)
def search_baseline(config: FamilyConfig, base: str = ".", store: str | None = None) -> str:
    """Search for the baseline; return the folder of the results.

    Args:
        config: the family; what a file of configs/ says.
        base: folder that relative paths in the config begin at.
        store: folder for everything the family leaves behind, instead of the one that the config names.
    """
    with opened(config, base, store) as (work, manifest, parent):
        return _left(with_baseline(work, manifest, parent))


def _left(work: Work) -> str:
    """Attach what the stage wrote to the family's run, which `effnet family` goes on with; return its folder."""
    work.tracker.attach(work.key, sorted(work.folder.iterdir()))
    work.tracker.pause(work.key)
    return str(work.folder)
