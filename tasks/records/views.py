"""MLflow's pages of a family as values: addresses, and saved views of an experiment. Nothing is called here.

A saved view is a tag of the experiment (columns, filter, order, charts); an address that names it opens it. Neither is
a public interface of MLflow: tests/flows/test_pages.py opens each of them.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from effnet.stages import Stage

MEMBERS, COST, CURVES, GRID, SEARCH, STUDY = "members", "accuracy-cost", "curves", "grid", "search", "study"
FORECAST = "forecast"
# `mlflow.workflowType`: without it a new browser opens an experiment as one of language models.
_MODE = "workflowType=machine_learning"
_MADE = 1_760_000_000_000  # milliseconds, for all: MLflow lists the newest first, so what people save stands above
_NUMBERS = ("params", "macs", "latency_ms", "train_hours")
_WIDTH = 105  # pixels of a column
_MODELS = "attributes.`Models`"


class View(NamedTuple):
    """A saved view."""

    id: str
    name: str  # for people
    columns: Sequence[str]  # ids: kind.`name`
    order: str  # id of a column
    ascending: bool
    charts: Mapping[str, Sequence[Mapping[str, Any]]]  # by section


def family_page(base: str, experiment: str, view: str = MEMBERS, *, charts: bool = False) -> str:
    """Return the address of a family's page: a saved view of its experiment, as a table or as charts.

    Args:
        base: the server's address, without a slash at its end; empty for a link within MLflow's pages.
        experiment: MLflow's id of the experiment.
        view: id of the view.
        charts: show its charts instead of its table.
    """
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"{base}/#/experiments/{experiment}/runs?{_MODE}&viewStateShareKey={view}{mode}"


def run_page(base: str, experiment: str, run_id: str, artifact: str = "") -> str:
    """Return the address of a run, or of one of its artifacts; for `base` see `family_page`."""
    place = f"/artifacts/{artifact}" if artifact else ""
    return f"{base}/#/experiments/{experiment}/runs/{run_id}{place}?{_MODE}"


def model_page(base: str, name: str, version: str) -> str:
    """Return the address of a version of a registered model; for `base` see `family_page`."""
    return f"{base}/#/models/{name}/versions/{version}?{_MODE}"


def models_page(base: str, experiment: str) -> str:
    """Return the address of an experiment's models; for `base` see `family_page`."""
    return f"{base}/#/experiments/{experiment}/models?{_MODE}"


def tag_of(view: str) -> str:
    """Return the experiment's tag that holds a view."""
    return f"mlflow.sharedViewState.{view}"


def role(stage: str) -> str:
    """Return the tag of a run that names the builds in which it is of a stage: `effnet.member_of`."""
    return f"effnet.{stage}_of"


def views_of(stage: Stage) -> Sequence[View]:
    """Return the views that show a stage's trainings; those of a rate finder have none."""
    return _VIEWS.get(stage, ())


def view_tags(stage: Stage, build: str) -> dict[str, str]:
    """Return the experiment's tags that hold the views of a stage.

    Args:
        stage: whose trainings they show.
        build: key of the build whose trainings they show.
    """
    listed = [view.id for found in _VIEWS.values() for view in found]
    tags = {}
    for view in views_of(stage):
        made = _MADE - 1000 * listed.index(view.id)
        state = zlib.compress(json.dumps(_state(view, stage, build)).encode())
        value = {"name": view.name, "createdAt": made, "updatedAt": made}
        tags[tag_of(view.id)] = json.dumps(value | {"state": "deflate;" + base64.b64encode(state).decode()})
    return tags


def _state(view: View, stage: Stage, build: str) -> dict[str, Any]:
    """Return a view as MLflow's page keeps it."""
    sections = [_section(f"{view.id}-{place}", name) for place, name in enumerate(view.charts)]
    own = _section(f"{view.id}-own", "Model metrics", deleted=True)  # one bar for each metric there is
    charts = [
        {"uuid": f"{section['uuid']}-{place}", "metricSectionId": section["uuid"], "deleted": False}
        | {"isGenerated": False, "runsCountToCompare": 100, **chart}
        for section, cards in zip(sections, view.charts.values(), strict=True)
        for place, chart in enumerate(cards)
    ]
    return {
        "searchFilter": f"tags.`{role(stage)}` LIKE '%{build}%'",
        "orderByKey": view.order,
        "orderByAsc": view.ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": list(view.columns),
        "columnOrder": list(view.columns),
        "columnWidths": {name: _WIDTHS.get(name, _WIDTH) for name in view.columns},
        "runsHiddenMode": "SHOW_ALL",  # MLflow's own choice draws the first ten
        "groupBy": None,
        "groupsExpanded": {},
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "compareRunSections": [*sections, own],
        "compareRunCharts": charts,
    }


def _section(uuid: str, name: str, *, deleted: bool = False) -> dict[str, Any]:
    shown = {"uuid": uuid, "name": name, "display": not deleted, "isReordered": False, "deleted": deleted}
    return shown | {"columns": 2, "cardHeight": 360}


def _metric(name: str) -> str:
    return f"metrics.`{name}`"


def _param(name: str) -> str:
    return f"params.`{name}`"


def _scatter(x: str, y: str) -> dict[str, Any]:
    return {"type": "SCATTER", "xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}


def _curve(metric: str) -> dict[str, Any]:
    line = {"type": "LINE", "metricKey": metric, "selectedMetricKeys": [metric], "xAxisKey": "step"}
    return line | {
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "lineSmoothness": 0,
        "selectedXAxisMetricKey": "",
    }


def _parallel(params: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    """Return parallel coordinates; the last metric colours the lines."""
    return {
        "type": "PARALLEL",
        "selectedParams": list(params),
        "selectedMetrics": list(metrics),
        "showAllRuns": False,
    }


_WIDTHS = {_param("phi"): 60, _param("seed"): 60, _MODELS: 160}
_AGAINST_COST = [_scatter(name, "val_top1") for name in ("macs", "latency_ms")]
_COLUMNS = [_metric("val_top1"), _param("phi"), *(_metric(name) for name in _NUMBERS), _param("seed"), _MODELS]
_TRIALS = [_scatter("macs", "top1"), _curve("minival_top1")]
_ALPHA = ("alpha", "beta", "gamma")
_FACTOR = ("factor", "seed")


def _trials(params: Sequence[str]) -> list[str]:
    names = ("macs", "latency_ms", "train_hours")
    return [_metric("top1"), *(_param(name) for name in params), *(_metric(name) for name in names)]


_VIEWS: Mapping[Stage, Sequence[View]] = {
    Stage.MEMBER: (
        View(
            MEMBERS,
            "members",
            _COLUMNS,
            _param("phi"),
            True,
            {"Accuracy against cost": _AGAINST_COST, "Learning curves": [_curve("minival_top1"), _curve("train_loss")]},
        ),
        View(
            COST,
            "accuracy against cost",
            _COLUMNS,
            _metric("val_top1"),
            False,
            {
                "Accuracy against cost": [
                    *_AGAINST_COST,
                    _scatter("params", "val_top1"),
                    _scatter("train_hours", "val_top1"),
                ]
            },
        ),
        View(
            CURVES,
            "learning curves",
            [_metric(name) for name in ("best_minival_top1", "best_epoch", "val_top1", "train_hours")],
            _param("phi"),
            True,
            {
                "Learning curves": [
                    _curve(name) for name in ("minival_top1", "minival_loss", "train_loss", "learning_rate")
                ]
            },
        ),
    ),
    Stage.FIT: (
        View(
            GRID,
            "grid",
            _trials(_ALPHA),
            _metric("top1"),
            False,
            {"Candidates for α, β, γ": [_parallel(_ALPHA, ("macs", "top1")), *_TRIALS]},
        ),
    ),
    Stage.SEARCH: (
        View(
            SEARCH,
            "search",
            _trials(()),
            _metric("top1"),
            False,
            {"Trials": [_parallel((), ("params", "macs", "latency_ms", "top1")), *_TRIALS]},
        ),
    ),
    Stage.FORECAST: (
        View(
            FORECAST,
            "forecast",
            _trials(_FACTOR),
            _metric("macs"),
            True,
            {"Networks that members are foretold from": [_scatter("macs", "top1"), _curve("minival_top1")]},
        ),
    ),
    Stage.STUDY: (
        View(
            STUDY,
            "study",
            _trials(_FACTOR),
            _metric("macs"),
            True,
            {"Ways of scaling": [_scatter("macs", "top1"), _scatter("latency_ms", "top1"), _curve("minival_top1")]},
        ),
    ),
}
