"""Flows that run one stage of a family alone: study, grid, forecast, search. Order of steps only."""

from __future__ import annotations

from prefect import flow

from effnet.change import AnyConfig, Change
from effnet.config import StudyConfig
from effnet.stages import Stage
from flows.build_family import opened, run_name, with_baseline
from tasks.approve import ask_before, ask_before_trainings
from tasks.build import Build
from tasks.fit import fit_coefficients as fit_task
from tasks.fit import fitted_coefficients, known_coefficients
from tasks.forecast import forecast_members as forecast_task
from tasks.forecast import swept_networks, trainings_of_sweep
from tasks.study import study_scaling as study_task


@flow(name="study_scaling", flow_run_name=run_name)
def study_scaling(
    *,
    change: Change = Change(),  # noqa: B008 - frozen
    config: AnyConfig,
    approve: bool = False,
    base: str = ".",
    store: str | None = None,
) -> str:
    """Compare depth, width, resolution and compound scaling at equal cost; return the folder of the results.

    Args:
        change: what is different from the config
        config: what to start from; in text, what a file of configs/ says
        approve: begin, whatever it costs, where the config has `approve_above`
        base: folder that relative paths begin at
        store: folder for everything the family leaves behind, instead of the one that the config names
    """
    with opened(change, config, approve, base, store) as build:
        build = with_baseline(build)
        coefficients = known_coefficients(build)
        ask_before(build, Stage.STUDY, coefficients)
        study_task(build, build.config.study or StudyConfig(), coefficients)
        return _left(build)


@flow(name="fit_coefficients", flow_run_name=run_name)
def fit_coefficients(
    *,
    change: Change = Change(),  # noqa: B008 - frozen
    config: AnyConfig,
    approve: bool = False,
    base: str = ".",
    store: str | None = None,
) -> str:
    """Find α, β, γ by the grid; return the folder of the results.

    Args:
        change: what is different from the config
        config: what to start from; in text, what a file of configs/ says
        approve: begin, whatever it costs, where the config has `approve_above`
        base: folder that relative paths begin at
        store: folder for everything the family leaves behind, instead of the one that the config names
    """
    with opened(change, config, approve, base, store) as build:
        build = with_baseline(build)
        ask_before(build, Stage.FIT)
        fit_task(build)
        return _left(build)


@flow(name="forecast_members", flow_run_name=run_name)
def forecast_members(
    *,
    change: Change = Change(),  # noqa: B008 - frozen
    config: AnyConfig,
    approve: bool = False,
    base: str = ".",
    store: str | None = None,
) -> str:
    """Train small networks of the family, and foretell its members from them; return the folder of the results.

    Args:
        change: what is different from the config
        config: what to start from; in text, what a file of configs/ says
        approve: begin, whatever it costs, where the config has `approve_above`
        base: folder that relative paths begin at
        store: folder for everything the family leaves behind, instead of the one that the config names
    """
    with opened(change, config, approve, base, store) as build:
        build = with_baseline(build)
        coefficients = fitted_coefficients(build)
        swept = swept_networks(build, coefficients)
        ask_before_trainings(build, Stage.FORECAST, trainings_of_sweep(swept))
        forecast_task(build, swept, coefficients)
        return _left(build)


@flow(name="search_baseline", flow_run_name=run_name)
def search_baseline(
    *,
    change: Change = Change(),  # noqa: B008 - frozen
    config: AnyConfig,
    approve: bool = False,
    base: str = ".",
    store: str | None = None,
) -> str:
    """Search for the baseline; return the folder of the results.

    Args:
        change: what is different from the config
        config: what to start from; in text, what a file of configs/ says
        approve: begin, whatever it costs, where the config has `approve_above`
        base: folder that relative paths begin at
        store: folder for everything the family leaves behind, instead of the one that the config names
    """
    with opened(change, config, approve, base, store) as build:
        return _left(with_baseline(build))


def _left(build: Build) -> str:
    """Attach the stage's files to the family's run, which `effnet family` continues later; return their folder."""
    build.tracker.attach(build.key, sorted(build.folder.iterdir()))
    build.tracker.pause(build.key)
    return str(build.folder)
