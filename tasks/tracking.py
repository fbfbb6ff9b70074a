"""MLflow's runs (its models: tasks.registry). What lies in run folders is the truth; this forwards it.

MLflow that cannot be reached is told once and never stops the work.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from effnet.arch.cost import count
from effnet.runs import Evaluation, RunFolder, RunResult, read_journal
from effnet.store import Store, canonical_json, digest, publish, sha256_file
from tasks.servers import HOST, MLFLOW, mlflow_uri

WATERMARK = "tracking.json"  # in the run folder: how much of it MLflow has


KEY, CONTENT, NOTE = "effnet.key", "effnet.content", "mlflow.note.content"  # tags
RUNNING, FINISHED, KILLED = "RUNNING", "FINISHED", "KILLED"


# What MLflow's page shows among a run's system metrics.
SYSTEM = {
    "cpu_cores_used": "system/cpu_cores_used",
    "memory_bytes": "system/memory_bytes",
    "gpu_memory_bytes": "system/gpu_memory_bytes",
    "data_wait": "system/data_wait",
    "images_per_second": "system/images_per_second",
}


PURPOSE = {
    "search": "A trial of the search for a baseline.",
    "study": "A network of the scaling study.",
    "fit": "A candidate of the grid over α, β, γ, at φ = 1.",
    "member": "A member of the family.",
}


class _Run(NamedTuple):
    run_id: str
    status: str


class Tracker:
    """Forwards one family's runs to an MLflow experiment of the same name.

    Args:
        uri: any MLflow tracking URI.
        experiment: the family's name.
        artifacts: where a new experiment keeps its files; None leaves it to the server.
        warn: told in one line when MLflow breaks; nothing is tried afterwards.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path | None, warn: Callable[[str], None]) -> None:
        self.uri, self.experiment, self.artifacts, self.warn = uri, experiment, artifacts, warn
        self.broken = False
        self.pages = uri.rstrip("/") if uri.startswith(("http://", "https://")) and "@" not in uri else None

    @property
    def experiment_id(self) -> str | None:
        """MLflow's id of the experiment; None if MLflow is broken."""
        return self.attempt(lambda: self._experiment)  # type: ignore[no-any-return]

    def run_id(self, key: str) -> str | None:
        """Return the MLflow run tagged with a key, if there is one."""
        return self.attempt(lambda: self._known[key].run_id if key in self._known else None)  # type: ignore[no-any-return]

    def page(self, key: str, artifact: str) -> str | None:
        """Return the address of a run's artifact on MLflow's page, as far as this process knows that there is one."""
        if not (self.pages and (run_id := self.run_id(key))):
            return None
        return f"{self.pages}/#/experiments/{self.experiment_id}/runs/{run_id}/artifacts/{artifact}"

    def open_family(
        self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str], dataset: Path
    ) -> str | None:
        """Return the run of a family build, made if there is none, and running again if it was stopped."""

        def call() -> str:
            new = key not in self._known
            run_id = self._open(key, name, params, {"effnet.kind": "family"}, None)
            if new:
                self._log_dataset(run_id, dataset.name, dataset.parent)
            for tag, value in tags.items():
                self.client.set_tag(run_id, tag, value)
            return run_id

        return self.attempt(call)  # type: ignore[no-any-return]

    def close_family(self, key: str, metrics: Mapping[str, float], note: str, files: Sequence[Path]) -> None:
        """Give a family's run its metrics, its note and files and end it, unless it has just these already."""
        content = digest({"metrics": dict(metrics), "note": note, "files": [sha256_file(path) for path in files]})

        def call() -> None:
            run = self._known[key]
            if run.status != FINISHED or self.client.get_run(run.run_id).data.tags.get(CONTENT) != content:
                for name, value in metrics.items():
                    self.client.log_metric(run.run_id, name, value)
                for path in files:
                    self.client.log_artifact(run.run_id, str(path), _artifact_folder(path))
                self.client.set_tag(run.run_id, NOTE, note)
                self.client.set_tag(run.run_id, CONTENT, content)
                self._set_status(key, FINISHED)

        self.attempt(call)

    def open_training(
        self, folder: RunFolder, name: str, params: Mapping[str, Any], kind: str, parent: str | None
    ) -> None:
        """Make sure that a run folder has its MLflow run, with config, architecture and dataset."""

        def call() -> None:
            if folder.key in self._known:
                if folder.result() is None:
                    self._set_status(folder.key, RUNNING)
                return
            spec = folder.spec()
            shown = {**params, **spec.model_dump(mode="json", exclude={"architecture"})}
            run_id = self._open(folder.key, name, shown, {"effnet.kind": kind}, parent)
            self.client.log_text(run_id, spec.architecture.model_dump_json(indent=2), "architecture.json")
            self.client.log_artifact(run_id, str(folder.config_path))
            self._log_dataset(run_id, spec.dataset, folder.store.datasets)

        self.attempt(call)

    def forward(self, folder: RunFolder) -> None:
        """Send the journal's new epochs, and the files of a finished run, each once."""
        mark = _read_mark(folder, self.uri)
        if mark.get("closed") == _closing(folder) and mark.get("bytes") == _size(folder.metrics_path):
            return
        self.attempt(lambda: self._forward(folder, mark))

    def leave(self, folder: RunFolder) -> None:
        """End the run of a training that was left before its end, because others promised more."""
        self.forward(folder)
        lines = read_journal(folder.metrics_path)[0]
        if folder.result() is not None or not lines:
            return

        def call() -> None:
            spec, last = folder.spec(), lines[-1]
            cost = count(spec.architecture, spec.num_classes)
            final = {"top1": last["minival_top1"], "params": cost.params, "macs": cost.macs}
            final |= {"train_hours": last["seconds"] / 3600} | _latency(folder)
            note = (
                f"Left after {last['epoch']} of {spec.recipe.epochs} epochs on dataset `{spec.dataset}`, with "
                f"{last['minival_top1']:.2%} on minival: others promised more (successive halving)."
            )
            self._end_training(folder.key, final, last["time"], "minival", note)

        self.attempt(call)

    def attach(self, key: str, files: Sequence[Path]) -> None:
        """Add files to the run with a key."""

        def call() -> None:
            for path in files:
                self.client.log_artifact(self._known[key].run_id, str(path), _artifact_folder(path))

        self.attempt(call)

    def pause(self, key: str) -> None:
        """Mark a run that has not finished as stopped."""

        def call() -> None:
            if key in self._known and self._known[key].status != FINISHED:
                self._set_status(key, KILLED)

        self.attempt(call)

    def attempt(self, call: Callable[[], Any]) -> Any:
        """Return what a call gives that talks to MLflow; None, and a warning once, if MLflow is broken."""
        if self.broken:
            return None
        try:
            return call()
        except Exception as error:  # whatever MLflow or its database throws must not stop a training
            self.broken = True
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self.warn(
                f"MLflow at {_without_password(self.uri)} failed ({reason}); the work goes on and its records stay in "
                "the run folders: run the command again later to send them"
            )
            return None

    @functools.cached_property
    def client(self) -> Any:
        """The MlflowClient; use it within `attempt`."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for results
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    @functools.cached_property
    def _experiment(self) -> str:
        known = self.client.get_experiment_by_name(self.experiment)
        if known:
            return str(known.experiment_id)
        location = self.artifacts.absolute().as_uri() if self.artifacts else None
        tags = {"mlflow.experimentKind": "custom_model_development"}  # the page then opens at the training runs
        return str(self.client.create_experiment(self.experiment, artifact_location=location, tags=tags))

    @functools.cached_property
    def _known(self) -> dict[str, _Run]:
        """Runs by the key they are tagged with."""
        found: dict[str, _Run] = {}
        token = None
        while True:
            page = self.client.search_runs([self._experiment], max_results=1000, page_token=token)
            for run in page:
                if key := run.data.tags.get(KEY):
                    found[key] = _Run(run.info.run_id, run.info.status)
            token = page.token
            if not token:
                return found

    def _open(self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str], parent: str | None) -> str:
        from mlflow.entities import Param
        from mlflow.tracking.context.default_context import DefaultRunContext

        if key in self._known:
            return self._known[key].run_id
        all_tags = {**DefaultRunContext().tags(), KEY: key, **tags}
        if parent:
            all_tags["mlflow.parentRunId"] = parent
        run_id = str(self.client.create_run(self._experiment, run_name=name, tags=all_tags).info.run_id)
        items = [Param(label, str(value)[:6000]) for label, value in flatten(params).items()]
        for start in range(0, len(items), 100):
            self.client.log_batch(run_id, params=items[start : start + 100])
        self._known[key] = _Run(run_id, RUNNING)
        return run_id

    def _set_status(self, key: str, status: str) -> None:
        run = self._known[key]
        if run.status == status:
            return
        if status == RUNNING:
            self.client.update_run(run.run_id, status=status)
        else:
            self.client.set_terminated(run.run_id, status)
        self._known[key] = _Run(run.run_id, status)

    def _forward(self, folder: RunFolder, mark: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        run_id = self._known[folder.key].run_id
        lines, end = read_journal(folder.metrics_path, int(mark.get("bytes", 0)))
        # The journal's own time makes a line that is sent twice the same row, which MLflow keeps once.
        metrics = [
            Metric(SYSTEM.get(name, name), value, round(line["time"] * 1000), line["epoch"])
            for line in lines
            for name, value in line.items()
            if name not in {"epoch", "step", "time"} and value is not None
        ]
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(run_id, metrics=metrics[start : start + 1000])
        closing = _closing(folder)
        if closing != mark.get("closed"):
            self._close_training(folder)
        mark = {"uri": digest(self.uri), "bytes": end, "closed": closing}
        publish(folder.path / WATERMARK, canonical_json(mark))

    def _close_training(self, folder: RunFolder) -> None:
        result, evaluation = folder.result(), folder.evaluation()
        if result is None:
            return
        # The same names in every run: top1 is of val where the run was evaluated, of minival where it was not.
        final = {"best_minival_top1": result.top1, "best_minival_loss": result.loss, "top1": result.top1}
        final["best_epoch"] = result.best_epoch
        final |= {"params": result.params, "macs": result.macs, "train_hours": result.seconds / 3600}
        final |= _latency(folder)
        if evaluation:
            final |= {"val_top1": evaluation.top1, "val_top5": evaluation.top5, "top1": evaluation.top1}
            final |= {"val_loss": evaluation.loss, "calibration_error": evaluation.calibration_error}
            final |= {"images_per_second_at_best_batch": evaluation.images_per_second}
        run_id = self._known[folder.key].run_id
        for path in (folder.weights_path, folder.result_path, folder.metrics_path, folder.evaluation_path):
            if path.exists():
                self.client.log_artifact(run_id, str(path))
        split, note = "val" if evaluation else "minival", run_note(folder, result, evaluation)
        # The file's own time: what is sent twice is the same row, which MLflow keeps once.
        self._end_training(folder.key, final, folder.result_path.stat().st_mtime, split, note)

    def _end_training(self, key: str, final: Mapping[str, float], seconds: float, split: str, note: str) -> None:
        from mlflow.entities import Metric

        run_id, stamp = self._known[key].run_id, round(seconds * 1000)
        # At step 0 MLflow's page draws them as bars beside those of other runs.
        self.client.log_batch(run_id, metrics=[Metric(name, float(value), stamp, 0) for name, value in final.items()])
        self.client.set_tag(run_id, "effnet.top1_of", split)
        self.client.set_tag(run_id, NOTE, note)
        self._set_status(key, FINISHED)

    def _log_dataset(self, run_id: str, name: str, datasets: Path) -> None:
        from mlflow.data.dataset_source_registry import resolve_dataset_source
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # two of MLflow's own source classes claim a folder; either will do
            source = resolve_dataset_source(str((datasets / name).absolute()))
        dataset = MetaDataset(source, name=self.experiment, digest=name)
        context = InputTag("mlflow.data.context", "training")
        self.client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity(), [context])])


def store_tracker(store: Store, family: str, warn: Callable[[str], None]) -> Tracker:
    """Return the tracker of a family: for the server that MLFLOW_TRACKING_URI names, or the store's own database."""
    if server := os.environ.get("MLFLOW_TRACKING_URI"):
        return Tracker(server, family, None, warn)
    tracker = Tracker(mlflow_uri(store.root), family, store.root / "artifacts" / family, warn)
    tracker.pages = f"http://{HOST}:{MLFLOW.port}"  # where `effnet up` shows that database
    return tracker


def run_note(folder: RunFolder, result: RunResult, evaluation: Evaluation | None) -> str:
    """Explain a finished training in words, as Markdown."""
    spec, about = folder.spec(), folder.about()
    kind = about.kind if about else ""
    what = PURPOSE.get(kind, "A training.")
    lines = [
        f"{what} `{spec.architecture.name}`: {result.params:,} parameters, {result.macs:,} multiply-adds at "
        f"{spec.architecture.resolution} pixels; {result.epochs} epochs on dataset `{spec.dataset}`.",
        "",
        f"* top-1 on minival, which decides: **{result.top1:.2%}** (epoch {result.best_epoch})",
    ]
    if evaluation:
        lines.append(
            f"* top-1 on {evaluation.split}, which reports: **{evaluation.top1:.2%}**, top-5 {evaluation.top5:.2%}, of "
            f"{evaluation.samples:,} images"
        )
        place = evaluation.latency.where() if evaluation.latency else "1 thread"
        lines.append(f"* median time of one image, {place}: {evaluation.latency_ms:.2f} ms")
    lines += ["", *(f"* {note}" for note in result.notes)]
    lines.append(f"Run folder `{folder.key}`; `effnet show {folder.key}` prints it.")
    return "\n".join(lines)


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested maps as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _latency(folder: RunFolder) -> dict[str, float]:
    latency = folder.known_latency_ms()
    return {} if latency is None else {"latency_ms": latency}


def _read_mark(folder: RunFolder, uri: str) -> dict[str, Any]:
    try:
        mark = json.loads((folder.path / WATERMARK).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return mark if mark.get("uri") == digest(uri) else {}


def _closing(folder: RunFolder) -> list[int]:
    """Return what changes when a run is finished or evaluated."""
    return [_size(folder.result_path), _size(folder.evaluation_path), _size(folder.latency_path)]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _artifact_folder(path: Path) -> str | None:
    return "figures" if path.suffix in {".png", ".svg"} else None


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.netloc else uri
