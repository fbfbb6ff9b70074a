"""MLflow: the only file that imports it. What lies in run folders is the truth; this forwards it.

MLflow that cannot be reached is told once and never stops the work.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from effnet.runs import RunFolder, read_journal
from effnet.store import canonical_json, digest, publish

WATERMARK = "tracking.json"  # in the run folder: how much of it MLflow has


class Tracker:
    """Forwards one family's runs to an MLflow experiment of the same name.

    Args:
        uri: any MLflow tracking URI.
        experiment: the family's name.
        artifacts: where a new experiment keeps its files.
        warn: told in one line when MLflow breaks; nothing is tried afterwards.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path, warn: Callable[[str], None]) -> None:
        self.uri, self.experiment, self.artifacts, self.warn = uri, experiment, artifacts, warn
        self.broken = False

    def _guarded(self, call: Callable[[], Any]) -> Any:
        if self.broken:
            return None
        try:
            return call()
        except Exception as error:  # whatever MLflow or its database throws must not stop a training
            self.broken = True
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self.warn(f"MLflow at {self.uri} failed ({reason}); the work goes on, its records stay in the run folders")
            return None

    @functools.cached_property
    def _client(self) -> Any:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    @functools.cached_property
    def _experiment_id(self) -> str:
        known = self._client.get_experiment_by_name(self.experiment)
        if known:
            return str(known.experiment_id)
        location = self.artifacts.absolute().as_uri() if self.uri.startswith("sqlite") else None
        return str(self._client.create_experiment(self.experiment, artifact_location=location))

    @functools.cached_property
    def _known(self) -> dict[str, str]:
        """Run ids by the key they are tagged with."""
        found: dict[str, str] = {}
        token = None
        while True:
            page = self._client.search_runs([self._experiment_id], max_results=1000, page_token=token)
            for run in page:
                if key := run.data.tags.get("effnet.key"):
                    found[key] = run.info.run_id
            token = page.token
            if not token:
                return found

    def open_run(
        self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str], parent: str | None = None
    ) -> str | None:
        """Return the MLflow run tagged with `key`, made if there is none; None if MLflow is broken."""
        return self._guarded(lambda: self._open(key, name, params, tags, parent))  # type: ignore[no-any-return]

    def _open(self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str], parent: str | None) -> str:
        from mlflow.entities import Param

        if key in self._known:
            return self._known[key]
        all_tags = {"effnet.key": key, **tags} | ({"mlflow.parentRunId": parent} if parent else {})
        run_id = str(self._client.create_run(self._experiment_id, run_name=name, tags=all_tags).info.run_id)
        self._client.log_batch(run_id, params=[Param(k, str(v)[:6000]) for k, v in flatten(params).items()])
        self._known[key] = run_id
        return run_id

    def open_training(
        self, folder: RunFolder, name: str, params: Mapping[str, Any], kind: str, parent: str | None
    ) -> None:
        """Make sure that a run folder has its MLflow run, with config, architecture and dataset."""

        def call() -> None:
            if folder.key in self._known:
                return
            spec = folder.spec()
            shown = {**params, **spec.model_dump(mode="json", exclude={"architecture"})}
            run_id = self._open(folder.key, name, shown, {"effnet.kind": kind}, parent)
            self._client.log_text(run_id, spec.architecture.model_dump_json(indent=2), "architecture.json")
            self._client.log_artifact(run_id, str(folder.config_path))
            self._log_dataset(run_id, folder)

        self._guarded(call)

    def run_id(self, key: str) -> str | None:
        """Return the MLflow run tagged with a key, if there is one."""
        return self._guarded(lambda: self._known.get(key))  # type: ignore[no-any-return]

    def forward(self, folder: RunFolder) -> None:
        """Send the journal's new epochs, and the files of a finished run, each once."""
        mark = _read_mark(folder, self.uri)
        if mark.get("closed") == _closing(folder) and mark.get("bytes") == _size(folder.metrics_path):
            return
        self._guarded(lambda: self._forward(folder, mark))

    def close(self, run_id: str | None, metrics: Mapping[str, float], files: Sequence[Path], status: str) -> None:
        """Give a family's run its metrics and files, and end it."""

        def call() -> None:
            for name, value in metrics.items():
                self._client.log_metric(run_id, name, value)
            for path in files:
                self._client.log_artifact(run_id, str(path), "figures" if path.suffix in {".png", ".svg"} else None)
            self._client.set_terminated(run_id, status)

        if run_id:
            self._guarded(call)

    def _forward(self, folder: RunFolder, mark: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        run_id = self._known[folder.key]
        lines, end = read_journal(folder.metrics_path, int(mark.get("bytes", 0)))
        # The journal's own time makes a line that is sent twice the same row, which MLflow keeps once.
        metrics = [
            Metric(name, value, round(line["time"] * 1000), line["epoch"])
            for line in lines
            for name, value in line.items()
            if name not in {"epoch", "step", "time"} and value is not None
        ]
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(run_id, metrics=metrics[start : start + 1000])
        closing = _closing(folder)
        if closing != mark.get("closed"):
            self._close_training(run_id, folder)
        mark = {"uri": digest(self.uri), "bytes": end, "closed": closing}
        publish(folder.path / WATERMARK, canonical_json(mark))

    def _close_training(self, run_id: str, folder: RunFolder) -> None:
        result, evaluation = folder.result(), folder.evaluation()
        if result is None:
            return
        final = {"best_minival_top1": result.top1, "best_minival_loss": result.loss}
        final |= {"params": result.params, "macs": result.macs}
        if evaluation:
            final |= {"val_top1": evaluation.top1, "val_top5": evaluation.top5, "latency_ms": evaluation.latency_ms}
        for name, value in final.items():
            self._client.log_metric(run_id, name, float(value), step=result.best_epoch)
        for path in (folder.weights_path, folder.result_path, folder.metrics_path, folder.evaluation_path):
            if path.exists():
                self._client.log_artifact(run_id, str(path))
        self._client.set_terminated(run_id, "FINISHED")

    def _log_dataset(self, run_id: str, folder: RunFolder) -> None:
        from mlflow.data.dataset_source_registry import resolve_dataset_source
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag

        spec = folder.spec()
        source = resolve_dataset_source(str((folder.store.datasets / spec.dataset).absolute()))
        dataset = MetaDataset(source, name=self.experiment, digest=spec.dataset)
        entity = dataset._to_mlflow_entity()
        context = InputTag("mlflow.data.context", "training")
        self._client.log_inputs(run_id, [DatasetInput(entity, [context])])


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested maps as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _read_mark(folder: RunFolder, uri: str) -> dict[str, Any]:
    try:
        mark = json.loads((folder.path / WATERMARK).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return mark if mark.get("uri") == digest(uri) else {}


def _closing(folder: RunFolder) -> list[int]:
    """Return what changes when a run is finished or evaluated."""
    return [_size(folder.result_path), _size(folder.evaluation_path)]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
