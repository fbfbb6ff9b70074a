"""MLflow's runs (its models: tasks.records.registry). Run folders are the source of truth; this forwards them.

If MLflow cannot be reached, one warning says so; the work never stops for it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from effnet.arch.cost import count
from effnet.files import without_password
from effnet.runs import About, Evaluation, RunFolder, RunResult, read_journal
from effnet.stages import Stage
from effnet.store import Store, canonical_json, digest, hold, sha256_file
from tasks.records import views
from tasks.records.breaker import Breaker
from tasks.servers.local import HOST, MLFLOW, mlflow_uri, running

# Tags. SENT is the watermark: how much of its run folder an MLflow run has. It is stored in that run itself, so that a
# database that was replaced, or restored from an older copy, is sent what it lacks.
KEY, KIND, CONTENT, SENT = "effnet.key", "effnet.kind", "effnet.content", "effnet.sent"
NOTE, PARENT, TOP1_OF = "mlflow.note.content", "mlflow.parentRunId", "effnet.top1_of"
OUR_NOTE = "effnet.note"  # digests of the experiment's notes that are not a person's
RUNNING, FINISHED, KILLED = "RUNNING", "FINISHED", "KILLED"
# Digits after the point of a run's final numbers, which MLflow's page shows as they are; significant ones of others.
PLACES = {"top1": 4, "top5": 4, "latency_ms": 2, "hours": 4}  # by a part of the name, as val_top1
DIGITS = 5
BATCH = 999  # metrics that MLflow takes in a request that also has a tag: its client would cut a larger one in two
UPLOAD_RATE = 1e6  # bytes per second: a server that takes files more slowly counts as away
DATABASE_SECONDS = 60.0  # extra time for a database file: this process does its work, perhaps on a loaded machine
_ARCHITECTURE = "architecture.json"
_ON_VAL = {stage.value for stage in Stage if stage.on_val}  # their top1 is val's, and comes with it
_ROLES = [views.role(stage) for stage in Stage]
_LARGEST = 1.7976931348623157e308  # what MLflow's database keeps of an infinity


# What MLflow's page shows among a run's system metrics.
SYSTEM = {
    "cpu_cores_used": "system/cpu_cores_used",
    "memory_bytes": "system/memory_bytes",
    "gpu_memory_bytes": "system/gpu_memory_bytes",
    "gpu_utilization": "system/gpu_utilization",
    "gpu_power_watts": "system/gpu_power_watts",
    "gpu_energy_joules": "system/gpu_energy_joules",
    "joules_per_image": "system/joules_per_image",
    "gpu_temperature_celsius": "system/gpu_temperature_celsius",
    "gpu_sm_clock_mhz": "system/gpu_sm_clock_mhz",
    "gpu_ecc_errors": "system/gpu_ecc_errors",
    "data_wait": "system/data_wait",
    "images_per_second": "system/images_per_second",
}


_T = TypeVar("_T")


class _Run(NamedTuple):
    """A run in MLflow."""

    run_id: str
    name: str
    status: str
    kind: str
    parent: str | None
    sent: str | None  # the tag SENT
    roles: Mapping[str, str]  # the builds in which it is of a stage, by the tag of that stage

    @property
    def epochs(self) -> int:
        """Epochs of the journal that it has."""
        return int(json.loads(self.sent)["epochs"]) if self.sent else 0

    @property
    def closed(self) -> str | None:
        """Digest of the results that it has."""
        return json.loads(self.sent)["closed"] if self.sent else None


class Tracker:
    """Forwards one family's runs to an MLflow experiment of the same name.

    Args:
        uri: any MLflow tracking URI.
        experiment: the family's name.
        artifacts: where a new experiment keeps its files; None leaves it to the server.
        warn: told in one line when MLflow breaks, and when it is back.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path | None, warn: Callable[[str], None]) -> None:
        self.uri, self.experiment, self.artifacts, self.warn = uri, experiment, artifacts, warn
        self.broken = False  # whether the last call failed; true until calls are made again
        self.missed = False  # whether any call was not made, or failed
        self._breaker = Breaker(f"MLflow at {without_password(uri)}", self._probe, warn)
        self._seen: dict[str, str] = {}  # by key, the state of a run folder that MLflow has
        self._family: Callable[[], str] | None = None  # opens the family's run
        self._build: str | None = None  # its key
        self._wanted: dict[str, About] = {}  # trainings of this process, by key
        self.pages = uri.rstrip("/") if uri.startswith(("http://", "https://")) and "@" not in uri else None

    def wake(self) -> None:
        """Import MLflow and open its database, which the first time makes the tables: seconds."""
        self.attempt(lambda: self.client)

    @property
    def forwarded(self) -> list[str]:
        """Keys of the runs that MLflow was sent what there was of."""
        return list(self._seen)

    @property
    def experiment_id(self) -> str | None:
        """MLflow's id of the experiment; None if MLflow is broken."""
        return self.attempt(lambda: self._experiment)

    def run_id(self, key: str) -> str | None:
        """Return the MLflow run tagged with a key, if there is one."""
        return self.attempt(lambda: self._known[key].run_id if key in self._known else None)

    def page(self, key: str, artifact: str = "") -> str | None:
        """Return the address of MLflow's page of a run or its artifact, if this process knows of one.

        For a store's own database, the page is up while `effnet up` runs.
        """
        if not (self.pages and (run_id := self.run_id(key))):
            return None
        return views.run_page(self.pages, str(self.experiment_id), run_id, artifact)

    def open_family(
        self, key: str, name: str, params: Mapping[str, Any], flow_run: Mapping[str, str], dataset: Path
    ) -> str | None:
        """Return the run of a family build, made if there is none, and running again if it was stopped.

        Args:
            key: of the build.
            name: of the run.
            params: the config.
            flow_run: tags that lead to the Prefect run. A finished run keeps those of the one that did the work
                and gets these as `.last`.
            dataset: its folder.
        """

        def call() -> str:
            new = key not in self._known
            run_id = self._open(key, name, params, "family", None, {}, time.time())
            self._save_views(Stage.MEMBER, key)
            if new:
                self._log_dataset(run_id, dataset.name, dataset.parent)
            again = self._known[key].status == FINISHED
            if not again:
                self._set_status(key, RUNNING)
            for tag, value in flow_run.items():
                self.client.set_tag(run_id, f"{tag}.last" if again else tag, value)
            return run_id

        self._family, self._build = call, key
        return self.attempt(call)

    def close_family(self, key: str, metrics: Mapping[str, float], note: str, files: Sequence[Path]) -> None:
        """Give a family's run its metrics, its note and files and end it, unless it has just these already."""
        content = digest({"metrics": dict(metrics), "note": note, "files": [sha256_file(path) for path in files]})

        def call() -> None:
            self._open_family_again()
            run = self._known[key]
            if run.status != FINISHED or self.client.get_run(run.run_id).data.tags.get(CONTENT) != content:
                for path in files:
                    self.client.log_artifact(run.run_id, str(path), _artifact_folder(path))
                self._log_final(run.run_id, metrics, time.time(), {TOP1_OF: "val", NOTE: note, CONTENT: content})
                self._set_status(key, FINISHED)

        self.attempt(call, uploads=files)

    def tell(self, key: str, note: Callable[[str, str], str]) -> None:
        """Give the experiment its note, unless a person wrote another one.

        Args:
            key: of the build that it tells of.
            note: returns it, given MLflow's ids of the experiment and of the build's run.
        """

        def call() -> None:
            text, known = note(self._experiment, self._known[key].run_id), self._tags.get(NOTE, "")
            ours = [digest(each)[:16] for each in (known, text)]
            if known != text and (not known or ours[0] in self._tags.get(OUR_NOTE, "")):
                for tag, value in ((OUR_NOTE, " ".join(ours)), (NOTE, text)):
                    self.client.set_experiment_tag(self._experiment, tag, value)
                    self._tags[tag] = value

        self.attempt(call)

    def open_training(self, folder: RunFolder, about: About) -> None:
        """Let a run folder have its MLflow run, with config and dataset, from when its training begins."""
        self._wanted[folder.key] = about
        self.attempt(lambda: self._open_training(folder, about))

    def forward(self, folder: RunFolder) -> None:
        """Send the journal's new epochs, and the files of a finished run, each once."""
        state = _state(folder)
        if self._seen.get(folder.key) == state:
            return

        def call() -> None:
            self._forward(folder)
            self._seen[folder.key] = state

        self.attempt(call, uploads=_files(folder))

    def verify(self, folder: RunFolder) -> bool:
        """Forward what MLflow really lacks, whatever its watermark says; say whether it has everything now."""

        def call() -> bool:
            if folder.key in self._known:
                self._look_again(folder)
            self._forward(folder)
            return True

        return bool(self.attempt(call, uploads=_files(folder)))

    def leave(self, folder: RunFolder) -> None:
        """End the run of a training that was stopped early because others promised more."""
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
                f"Stopped after {last['epoch']} of {spec.recipe.epochs} epochs on dataset `{spec.dataset}`, with "
                f"{last['minival_top1']:.2%} on minival: others were more promising (successive halving)."
            )
            self._end_training(folder.key, final, last["time"], "minival", note)

        self.attempt(call)

    def attach(self, key: str, files: Sequence[Path]) -> None:
        """Add files to the run with a key."""

        def call() -> None:
            self._open_family_again()
            for path in files:
                self.client.log_artifact(self._known[key].run_id, str(path), _artifact_folder(path))

        self.attempt(call, uploads=files)

    def add_metrics(self, folder: RunFolder, metrics: Mapping[str, float]) -> None:
        """Give a training's run numbers that its folder does not hold: what it and others came to together."""

        def call() -> None:
            self._forward(folder)
            if folder.key in self._known:
                self._log_final(self._known[folder.key].run_id, metrics, time.time())

        self.attempt(call)

    def pause(self, key: str) -> None:
        """Mark a run that has not finished as stopped."""

        def call() -> None:
            if key in self._known and self._known[key].status != FINISHED:
                self._set_status(key, KILLED)

        self.attempt(call)

    def resume(self, key: str) -> None:
        """Mark a run that was stopped as running again."""

        def call() -> None:
            if key in self._known and self._known[key].status == KILLED:
                self._set_status(key, RUNNING)

        self.attempt(call)

    def attempt(self, call: Callable[[], _T], uploads: Sequence[Path] = (), seconds: float = 0.0) -> _T | None:
        """Return the result of a call that talks to MLflow; None, with a single warning, if MLflow is broken.

        For a server that does not answer, all calls together wait at most about a minute.

        Args:
            call: the call.
            uploads: files that it sends, which may take their time.
            seconds: what else it may take beyond the usual, for what it computes.
        """
        if not self._breaker.closed():
            self.missed = True
            return None
        if self.broken:  # and now back, perhaps with another database
            self.broken = False
            for name in ("_known", "_experiment", "_tags"):
                self.__dict__.pop(name, None)
            self._seen.clear()
        import mlflow  # noqa: F401 - here, so that the import does not count against the time limit

        here = self.uri.startswith("sqlite:")
        seconds += sum(_size(path) for path in uploads) / UPLOAD_RATE + (DATABASE_SECONDS if here else 0)
        try:
            return self._breaker.call(call, seconds)
        except Exception as error:  # whatever MLflow or its database throws must not stop a training
            self.broken = self.missed = True
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self.warn(
                f"MLflow at {without_password(self.uri)} failed ({reason}); the work goes on and its records stay in "
                "the run folders: they are sent when it is back, or by the same command later"
            )
            return None

    def _probe(self) -> None:
        self.client.search_experiments(max_results=1)

    @functools.cached_property
    def client(self) -> Any:
        """The MlflowClient; use it within `attempt`."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for results
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from mlflow import MlflowClient

        with opening(self.uri), _default_artifacts(self.artifacts):
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
                tags = run.data.tags
                if key := tags.get(KEY):
                    status, kind = run.info.status, tags.get(KIND, "")
                    roles = {name: tags[name] for name in _ROLES if name in tags}
                    found[key] = _Run(
                        run.info.run_id, run.info.run_name, status, kind, tags.get(PARENT), tags.get(SENT), roles
                    )
            token = page.token
            if not token:
                return found

    def _open(
        self,
        key: str,
        name: str,
        params: Mapping[str, Any],
        kind: str,
        parent: str | None,
        roles: Mapping[str, str],
        began: float,
    ) -> str:
        from mlflow.entities import Param
        from mlflow.tracking.context.default_context import DefaultRunContext

        if key in self._known:
            return self._known[key].run_id
        all_tags = {**DefaultRunContext().tags(), KEY: key, KIND: kind, SENT: _sent(0, None), **roles}
        if parent:
            all_tags[PARENT] = parent
        made = self.client.create_run(self._experiment, round(began * 1000), all_tags, name)
        run_id = str(made.info.run_id)
        items = [Param(label, str(value)[:6000]) for label, value in flatten(params).items()]
        for start in range(0, len(items), 100):
            self.client.log_batch(run_id, params=items[start : start + 100])
        self._known[key] = _Run(run_id, name, RUNNING, kind, parent, all_tags[SENT], roles)
        return run_id

    def _open_family_again(self) -> None:
        """Open the family's run if that could not be done while MLflow was away."""
        if self._family and self._build not in self._known:
            self._family()

    def _save_views(self, stage: Stage, build: str) -> None:
        """Make the views of a stage, or let those that are there show a build.

        Views of people's own have other ids. Where no build is open, as when records are sent later, those that are
        there stay.
        """
        for tag, value in views.view_tags(stage, build).items():
            known = self._tags.get(tag)
            if known is None or (known != value and build == self._build):
                self.client.set_experiment_tag(self._experiment, tag, value)
                self._tags[tag] = value

    @functools.cached_property
    def _tags(self) -> dict[str, str]:
        """Tags of the experiment."""
        return dict(self.client.get_experiment(self._experiment).tags)

    def _add_role(self, key: str, about: About) -> None:
        """Let a run that was there count as one of its stage's in a build: views show these."""
        run, tag = self._known[key], views.role(about.kind)
        known = run.roles.get(tag, "")
        if not about.family or about.family in known:
            return
        params = self.client.get_run(run.run_id).data.params
        for name in about.labels.keys() - params.keys():  # it was made for another stage
            self.client.log_param(run.run_id, name, about.labels[name])
        builds = f"{known} {about.family}".strip()
        self.client.set_tag(run.run_id, tag, builds)
        self._known[key] = run._replace(roles={**run.roles, tag: builds})

    def _rename(self, key: str, about: About) -> None:
        """Let `B7` be `B7 seed 0` where it is no longer alone, or the other way; a name that a person gave stays."""
        run = self._known[key]
        if run.name != about.name and about.model_copy(update={"name": run.name}).plain == about.plain:
            self.client.update_run(run.run_id, name=about.name)
            self._known[key] = run._replace(name=about.name)

    def _open_training(self, folder: RunFolder, about: About) -> None:
        family = self._known.get(about.family)
        parent = family.run_id if family else None
        if about.family:
            self._save_views(about.kind, about.family)
        if folder.key in self._known:
            self._add_role(folder.key, about)
            self._rename(folder.key, about)
        if run := self._known.get(folder.key):
            if folder.result() is None:
                self._set_status(folder.key, RUNNING)
            if parent and not run.parent:
                self.client.set_tag(run.run_id, PARENT, parent)
                self._known[folder.key] = self._known[folder.key]._replace(parent=parent)
            return
        began = _began(folder)
        if began is None:  # MLflow could not be told later when it did
            return
        spec = folder.spec()
        shown = {**about.labels, **spec.model_dump(mode="json", exclude={"architecture"})}
        if spec.start and spec.start.grown_from:
            shown["start"]["grown_from"] = spec.start.grown_from.name
        if spec.teacher:
            shown["teacher"]["architecture"] = spec.teacher.architecture.name
        roles = {views.role(about.kind): about.family} if about.family else {}
        run_id = self._open(folder.key, about.name, shown, about.kind.value, parent, roles, began)
        self._log_spec(run_id, folder)
        self._log_dataset(run_id, spec.dataset, folder.store.datasets)

    def _log_spec(self, run_id: str, folder: RunFolder) -> None:
        self.client.log_text(run_id, folder.spec().architecture.model_dump_json(indent=2), _ARCHITECTURE)
        self.client.log_artifact(run_id, str(folder.config_path))

    def _set_status(self, key: str, status: str, at: float | None = None) -> None:
        run = self._known[key]
        if run.status == status:
            return
        if status == RUNNING:
            self.client.update_run(run.run_id, status=status)
        else:
            self.client.set_terminated(run.run_id, status, round(1000 * (time.time() if at is None else at)))
        self._known[key] = run._replace(status=status)

    def _forward(self, folder: RunFolder) -> None:
        if folder.key not in self._known and (about := self._wanted.get(folder.key) or folder.about()):
            with contextlib.suppress(KeyError):
                self._open_family_again()
            self._open_training(folder, about)
            if folder.key not in self._known:  # it has not begun
                return
        run = self._known[folder.key]
        if run.sent is None:  # made by a version that stored the watermark elsewhere
            self._look_again(folder)
        self._send_epochs(folder)
        closing = _closing(folder)
        if closing != self._known[folder.key].closed:
            self._close_training(folder)
            self._note_sent(folder.key, self._known[folder.key].epochs, closing)

    def _send_epochs(self, folder: RunFolder) -> None:
        """Send the epochs that MLflow does not have; those that a training repeated are not sent again."""
        from mlflow.entities import Metric

        run = self._known[folder.key]
        metrics: list[Metric] = []
        last = run.epochs
        for line in read_journal(folder.metrics_path)[0]:
            if line["epoch"] <= run.epochs:
                continue
            stamp = round(line["time"] * 1000)
            found = [
                Metric(SYSTEM.get(name, name), value, stamp, line["epoch"])
                for name, value in line.items()
                if name not in {"epoch", "step", "time"} and value is not None
            ]
            if len(metrics) + len(found) > BATCH:
                self._send_batch(folder.key, metrics, last)
                metrics = []
            metrics, last = metrics + found, line["epoch"]
        if metrics:
            self._send_batch(folder.key, metrics, last)

    def _send_batch(self, key: str, metrics: Sequence[Any], epochs: int) -> None:
        """Send whole epochs, and move the watermark in the same request."""
        from mlflow.entities import RunTag

        run = self._known[key]
        sent = _sent(epochs, run.closed)
        self.client.log_batch(run.run_id, metrics=metrics, tags=[RunTag(SENT, sent)])
        self._known[key] = run._replace(sent=sent)

    def _note_sent(self, key: str, epochs: int, closed: str | None) -> None:
        run = self._known[key]
        sent = _sent(epochs, closed)
        if sent != run.sent:
            self.client.set_tag(run.run_id, SENT, sent)
        self._known[key] = run._replace(sent=sent)

    def _look_again(self, folder: RunFolder) -> None:
        """Set the watermark to what MLflow really has of a run folder: its epochs, and whether it is complete."""
        run = self._known[folder.key]
        steps = {metric.step for metric in self.client.get_metric_history(run.run_id, "minival_top1")}
        epochs = next(epoch for epoch in range(len(steps) + 1) if epoch + 1 not in steps)
        there = {(item.path, item.file_size) for item in self.client.list_artifacts(run.run_id)}
        if not {_ARCHITECTURE, folder.config_path.name} <= {name for name, _ in there}:
            self._log_spec(run.run_id, folder)
        names = {(path.name, path.stat().st_size) for path in _files(folder)}
        numbers = self.client.get_run(run.run_id).data.metrics
        whole = names <= there and "params" in numbers
        self._note_sent(folder.key, epochs, run.closed if whole else None)

    def _close_training(self, folder: RunFolder) -> None:
        result, evaluation = folder.result(), folder.evaluation()
        if result is None:
            return
        final = {"best_minival_top1": result.top1, "best_minival_loss": result.loss}
        final["best_epoch"] = result.best_epoch
        final |= {"params": result.params, "macs": result.macs, "train_hours": result.seconds / 3600}
        final |= _latency(folder)
        run = self._known[folder.key]
        split = "minival"
        # The same name in every run: top1 is on val if the run is evaluated there, else on minival.
        if evaluation:
            split = "val"
            final |= {"val_top1": evaluation.top1, "val_top5": evaluation.top5, "top1": evaluation.top1}
            final |= {"val_loss": evaluation.loss, "calibration_error": evaluation.calibration_error}
            final |= {"images_per_second_at_best_batch": evaluation.images_per_second}
            final |= {"val_balanced_accuracy": evaluation.balanced_accuracy, "val_macro_f1": evaluation.macro_f1}
            if evaluation.features_alone is not None:
                final["val_top1_features_alone"] = evaluation.features_alone
        elif run.kind not in _ON_VAL:
            final["top1"] = result.top1
        for path in _files(folder):
            self.client.log_artifact(run.run_id, str(path))
        note = run_note(folder, result, evaluation)
        lines = read_journal(folder.metrics_path)[0]
        ended = lines[-1]["time"] if lines else folder.result_path.stat().st_mtime
        self._end_training(folder.key, final, ended, split, note)

    def _end_training(self, key: str, final: Mapping[str, float], seconds: float, split: str, note: str) -> None:
        tags = {NOTE: note} | ({TOP1_OF: split} if "top1" in final else {})
        self._log_final(self._known[key].run_id, final, seconds, tags)
        self._set_status(key, FINISHED, at=seconds)

    def _log_final(
        self, run_id: str, values: Mapping[str, float], seconds: float, tags: Mapping[str, str] | None = None
    ) -> None:
        """Log a run's final numbers at step 0, where MLflow's page draws them as bars; a changed one at the next step.

        Of two values at the same step, MLflow would show the larger.
        """
        from mlflow.entities import Metric, RunTag

        there = self.client.get_run(run_id).data.metrics
        metrics = []
        for name, given in values.items():
            value = rounded(name, given)
            if math.isinf(value):
                value = math.copysign(_LARGEST, value)
            step = 0
            if name in there:
                if rounded(name, there[name]) == value or (math.isnan(there[name]) and math.isnan(value)):
                    continue
                step = 1 + max(metric.step for metric in self.client.get_metric_history(run_id, name))
            metrics.append(Metric(name, value, round(seconds * 1000), step))
        self.client.log_batch(run_id, metrics=metrics, tags=[RunTag(*tag) for tag in (tags or {}).items()])

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
        return tracker_at(server, store, family, warn)
    tracker = tracker_at(mlflow_uri(store.root), store, family, warn)
    here = (server.url for server in running(store.root) if server.name == MLFLOW.name)
    tracker.pages = next(here, f"http://{HOST}:{MLFLOW.port}")  # where `effnet up` shows that database, or will
    return tracker


def tracker_at(uri: str, store: Store, family: str, warn: Callable[[str], None]) -> Tracker:
    """Return the tracker of a store's family, for any MLflow.

    If a database is opened directly, no server stores the artifacts, and MLflow would write them where the command was
    started: here, they go to the store.
    """
    server = uri.startswith(("http://", "https://", "databricks", "uc:"))
    return Tracker(uri, family, None if server else store.root / "artifacts" / family, warn)


def run_note(folder: RunFolder, result: RunResult, evaluation: Evaluation | None) -> str:
    """Explain a finished training in words, as Markdown."""
    spec, about = folder.spec(), folder.about()
    what = about.kind.purpose if about else "A training."
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
        if evaluation.features_alone is not None:
            lines.append(f"* the features alone, without fine-tuning: {evaluation.features_alone:.2%}")
        place = evaluation.latency.where() if evaluation.latency else "1 thread"
        lines.append(f"* median time of one image, {place}: {evaluation.latency_ms:.2f} ms")
    if spec.start:
        lines.append(f"* started from {spec.start.told()}")
    if spec.teacher:
        lines.append(f"* learnt from {spec.teacher.told()}, as well as from the labels")
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


@contextlib.contextmanager
def opening(uri: str) -> Iterator[None]:
    """Keep other processes from opening a database file meanwhile: two that make its tables break it for good."""
    with contextlib.ExitStack() as stack:
        path = Path(uri.removeprefix("sqlite:///"))
        if uri.startswith("sqlite:///") and path.parent.is_dir():
            stack.enter_context(hold(path.with_name(f"{path.name}.lock")))
        yield


@contextlib.contextmanager
def _default_artifacts(artifacts: Path | None) -> Iterator[None]:
    """Let a database created in the block keep the files of MLflow's default experiment in the store as well.

    Otherwise, they go to `./mlruns`, where the command was started.
    """
    name = "_MLFLOW_SERVER_ARTIFACT_ROOT"  # what `mlflow server --default-artifact-root` sets
    if artifacts is None or name in os.environ:
        yield
        return
    os.environ[name] = artifacts.absolute().parent.as_uri()
    try:
        yield
    finally:
        del os.environ[name]


def rounded(name: str, value: float) -> float:
    """Return a number as people want it; whole ones, such as counts, stay as they are, and nothing becomes 0."""
    if not math.isfinite(value) or float(value).is_integer():
        return float(value)
    places = next((places for part, places in PLACES.items() if part in name), None)
    return (places and round(float(value), places)) or float(f"{value:.{DIGITS}g}")


def _latency(folder: RunFolder) -> dict[str, float]:
    latency = folder.known_latency_ms()
    return {} if latency is None else {"latency_ms": latency}


def _sent(epochs: int, closed: str | None) -> str:
    return canonical_json({"epochs": epochs, "closed": closed}).decode()


def _state(folder: RunFolder) -> str:
    """Return what changes when there is something to send."""
    begun = (folder.path / "lock").exists() or folder.pace_path.exists()
    return f"{begun} {_size(folder.metrics_path)} {_closing(folder)}"


def _began(folder: RunFolder) -> float | None:
    """Return the Unix seconds at which a training began; None if it has not."""
    if lines := read_journal(folder.metrics_path)[0]:
        return float(lines[0]["time"] - lines[0].get("seconds", 0.0))
    lock = folder.path / "lock"  # made by the first process that trains it
    if lock.exists():
        return lock.stat().st_mtime
    if folder.pace_path.exists() or folder.result_path.exists():  # it is trained elsewhere
        return time.time()
    return None


def _closing(folder: RunFolder) -> str:
    """Return what changes when a run is finished or evaluated."""
    paths = (folder.result_path, folder.evaluation_path, folder.latency_path)
    return digest([sha256_file(path) if path.exists() else None for path in paths])[:16]


def _files(folder: RunFolder) -> list[Path]:
    """Return the files of a run that MLflow keeps, once it is finished."""
    if not folder.result_path.exists():
        return []
    paths = (folder.weights_path, folder.result_path, folder.metrics_path, folder.evaluation_path)
    return [path for path in paths if path.exists()]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _artifact_folder(path: Path) -> str | None:
    return "figures" if path.suffix in {".png", ".svg"} else None
