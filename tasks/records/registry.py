"""MLflow's models and registry: each member as a model that answers images; aliases candidate, champion and best."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from effnet.arch.cost import count
from effnet.champion import RULE, Contender, Standing, Verdict, judge
from effnet.config import Augment
from effnet.data.shards.manifest import Manifest, load_manifest
from effnet.errors import ConfigError, DataError, EffnetError
from effnet.hits import hits_of, keep_hits, read_hits, run_hits
from effnet.report.card import model_card
from effnet.runs import Evaluation, RunFolder, RunResult
from effnet.statistics import Hits
from effnet.store import Store
from tasks.records.tracking import Tracker, rounded

if TYPE_CHECKING:
    from effnet.models.build import Network

CANDIDATE, CHAMPION = "candidate", "champion"
BEST = "best"  # of the members of a family, on the one that its build says to use
# Of a registered model: the version that was the best champion ever, which none may be worse than; and its old name.
REFERENCE_TAG, OLD_REFERENCE_TAG = "effnet.reference", "effnet.best"
BECAUSE_TAG = "effnet.because"  # of the version with the alias `best`
_SHOWN = ("top1", "val_top5", "latency_ms", "params", "macs", "train_hours")  # metrics of a model, as its run has them
WEIGHTS_TAG = "effnet.weights"
TOOK_OVER_TAG = "effnet.took_over"  # of a version that the gate made champion once
SECONDS = 15.0  # that it takes to load, save and describe a small member, beside MLflow's own
_EXAMPLE_SIDE = 32  # pixels; the example is stored as text

_EXAMPLE = """\
```python
import mlflow

mlflow.set_tracking_uri("http://127.0.0.1:5000")  # the server's address: `effnet up` prints it
model = mlflow.pyfunc.load_model("models:/{name}/{version}")
model.predict([open("photo.png", "rb").read()])
```
"""


class Registered(NamedTuple):
    """A member in the registry."""

    name: str
    version: str
    new: bool  # made just now
    champion: bool
    reason: str  # why it is champion, or is not
    took_over: bool = False  # became champion just now
    before: str | None = None  # the version that was champion until then
    member: str = ""
    holder: str | None = None  # the version that is champion now

    @property
    def standing(self) -> Standing:
        """What the family keeps of it: what is the same when it is looked at again."""
        return Standing(
            member=self.member, model=self.name, version=self.version, champion=self.holder, reason=self.reason
        )


@dataclass(frozen=True)
class Registry:
    """MLflow's registry, for the members of one build."""

    tracker: Tracker
    store: Store
    manifest: Manifest  # whose val the gate compares on
    family: str
    key: str  # of the build
    licence: str | None
    say: Callable[[str], None]
    warn: Callable[[str], None]

    def register(self, member: str, folder: RunFolder) -> Registered | None:
        """Register an evaluated member unless it already is, and let the gate decide on the champion.

        Return None if MLflow is away.

        Args:
            member: its name, as B3.
            folder: of its run.
        """
        call = functools.partial(_register, self, member, folder)
        return self.tracker.attempt(call, uploads=[folder.weights_path], seconds=SECONDS)

    def mark_best(self, registered: Sequence[Registered], member: str, because: str) -> str | None:
        """Move the alias `best` to the member that the build says to use; return its URI, None if MLflow is away.

        Args:
            registered: the family's members.
            member: name of the one to use.
            because: why, which a tag of its version says.
        """

        def call() -> str | None:
            client, name = self.tracker.client, _model_name(self.family, member)
            version = next((each.version for each in registered if each.name == name), None)
            if version is None:  # MLflow was away just then: what it says stays
                return None
            for model in client.search_registered_models(filter_string=f"name LIKE '{self.family}-%'"):
                ours = "-" not in model.name.removeprefix(f"{self.family}-")  # and not of a family FAMILY-x
                if ours and (before := model.aliases.get(BEST)) and (model.name, before) != (name, version):
                    if BECAUSE_TAG in client.get_model_version(model.name, before).tags:
                        client.delete_model_version_tag(model.name, before, BECAUSE_TAG)
                    client.delete_registered_model_alias(model.name, BEST)
            if because:
                client.set_model_version_tag(name, version, BECAUSE_TAG, because)
            client.set_registered_model_alias(name, BEST, version)
            return f"models:/{name}@{BEST}"

        return self.tracker.attempt(call)


def fetch_registered(uri: str, store: Store) -> Path:
    """Return the folder of a registered model: its run's in the store, or else a copy below the store's cache.

    Args:
        uri: models:/NAME@ALIAS or models:/NAME/VERSION.
        store: whose MLflow is asked.

    Raises:
        ConfigError: if there is no such model, or MLflow does not answer.
    """
    import mlflow.artifacts
    from mlflow import MlflowClient

    from tasks.servers.local import mlflow_uri

    name, at, alias = uri.removeprefix("models:/").partition("@")
    name, _, number = (name, "", "") if at else name.partition("/")
    if not (store.root / "mlflow.db").is_file():  # MLflow would make one, and say so
        raise ConfigError(f"{uri}: no model is registered in {store.root}; name its store with --store")
    address = mlflow_uri(store.root)
    try:
        client = MlflowClient(address)
        version = client.get_model_version_by_alias(name, alias) if at else client.get_model_version(name, number)
        folder: Path = store.runs / version.tags.get("effnet.key", "")
        if (folder / "result.json").is_file():
            return folder
        target = store.cache / "models" / f"{name}-{version.version}"
        target.mkdir(parents=True, exist_ok=True)
        with _process_uri(address):
            mlflow.artifacts.download_artifacts(version.source, dst_path=str(target), tracking_uri=address)
    except Exception as error:  # MLflow's own kinds, and those of its database and its storage
        raise ConfigError(f"{uri}: cannot be loaded from MLflow at {address} ({str(error).splitlines()[0]})") from error
    if found := next(target.rglob("architecture.json"), None):
        return found.parent
    raise ConfigError(f"{uri}: not a model of effnet ({target})")


def _register(registry: Registry, member: str, folder: RunFolder) -> Registered:
    client = registry.tracker.client
    result, evaluation = folder.trained(), folder.evaluated()
    name = _model_name(registry.family, member)
    versions = list(client.search_model_versions(f"name = '{name}'"))
    same = [each for each in versions if each.tags.get(WEIGHTS_TAG) == result.weights_sha256]
    if not versions:
        _make_model(client, name, f"{member} of the family {registry.family}. {RULE[0].upper()}{RULE[1:]}.")
    found = same[0] if same else _add_version(registry, folder, name, result, evaluation)
    _show_numbers(registry, folder, found)
    client.set_registered_model_alias(name, CANDIDATE, found.version)
    current, number = _champion(client, name), str(found.version)
    if current is not None and current.version == found.version:
        reason = found.tags.get("effnet.gate", "")
        return Registered(name, number, not same, True, reason, member=member, holder=number)
    if current is not None and found.tags.get(TOOK_OVER_TAG):  # a person took it down, or a better one did
        reason = f"was champion until version {current.version} took over"
        return Registered(name, number, False, False, reason, member=member, holder=str(current.version))
    verdict = _gate(registry, folder, found, current)
    client.set_model_version_tag(name, found.version, "effnet.gate", verdict.reason)
    if verdict.takes_over:
        client.set_registered_model_alias(name, CHAMPION, found.version)
        client.set_model_version_tag(name, found.version, TOOK_OVER_TAG, "yes")
    if verdict.best:
        client.set_registered_model_tag(name, REFERENCE_TAG, verdict.best)
    takes_over, last = verdict.takes_over, str(current.version) if current else None
    before, holder = (last, number) if takes_over else (None, last)
    return Registered(name, number, not same, takes_over, verdict.reason, takes_over, before, member, holder)


def _show_numbers(registry: Registry, folder: RunFolder, version: Any) -> None:
    """Give a version's model the numbers of its run, so that the page of models can sort and draw them.

    MLflow notes a model's metrics in its run too: they are the run's own values, at the same step and time.
    """
    from mlflow.entities import Metric

    tracker, client = registry.tracker, registry.tracker.client
    logged, run_id = str(version.source).removeprefix("models:/"), tracker.run_id(folder.key)
    if not (run_id and logged.startswith("m-")) or (there := _numbers(client, logged)) is None:
        return
    dataset = {"dataset_name": f"{registry.family} val", "dataset_digest": registry.manifest.digest}
    shown = client.get_run(run_id).data.metrics
    metrics = []
    for name in (name for name in _SHOWN if name in shown and there.get(name) != shown[name]):
        last = max(client.get_metric_history(run_id, name), key=lambda metric: metric.step)
        metrics.append(Metric(name, last.value, last.timestamp, last.step, model_id=logged, **dataset))
    if metrics:
        client.log_batch(run_id, metrics=metrics)
    versions = json.dumps([{"name": version.name, "version": version.version}])
    client.set_logged_model_tags(logged, {"mlflow.modelVersions": versions})  # the column of registered models


def _numbers(client: Any, logged: str) -> dict[str, float] | None:
    """Return the newest numbers of a logged model; None if somebody deleted it: its version in the registry stands."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_logged_model(logged).metrics or ()
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return {metric.key: metric.value for metric in sorted(found, key=lambda metric: metric.step)}


def _model_name(family: str, member: str) -> str:
    return f"{family}-{member.lower()}"


def _gate(registry: Registry, folder: RunFolder, found: Any, current: Any) -> Verdict:
    """Compare a candidate with the current champion, and with the best champion so far, on the candidate's val."""
    (hits,) = hits_of([folder], "val")
    new = Contender(str(found.version), hits, folder.trained().macs)
    if current is None:
        return judge(new, None, _best(registry, found.name, found.version))
    try:
        champion = _contender(registry, current)
    except EffnetError as error:
        name = found.name
        reason = (
            f"not comparable: the champion, version {current.version}, cannot be scored on today's val ({error}); it "
            f"stays. To replace it: mlflow.MlflowClient().set_registered_model_alias('{name}', '{CHAMPION}', "
            f"'{found.version}')"
        )
        registry.warn(f"{name}: {reason}")
        return Verdict(False, reason, "")
    return judge(new, champion, _best(registry, current.name, current.version))


def _best(registry: Registry, name: str, known: Any) -> Contender | None:
    """Return the best champion ever, if it is a version other than `known` and can be scored."""
    from mlflow.exceptions import MlflowException

    tags = registry.tracker.client.get_registered_model(name).tags
    number = tags.get(REFERENCE_TAG, tags.get(OLD_REFERENCE_TAG))
    if number in (None, str(known)):
        return None
    try:
        return _contender(registry, registry.tracker.client.get_model_version(name, number))
    except EffnetError:
        return None
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _contender(registry: Registry, version: Any) -> Contender:
    """Return a registered version with its hits on the dataset's val, as stored or from one pass over it.

    Raises:
        EffnetError: if the version holds no model of ours, or lacks classes of the dataset.
    """
    own = RunFolder(registry.store.runs / version.tags.get("effnet.key", "none"))
    same, digest = version.tags.get(WEIGHTS_TAG), registry.manifest.digest
    if same and (result := own.result()) and result.weights_sha256 == same and own.spec().dataset == digest:
        hits = run_hits(own, "val")
        if hits is not None:
            return Contender(str(version.version), hits, result.macs)
    from effnet.models.weights import load_model

    with tempfile.TemporaryDirectory() as scratch:
        there = _downloaded(registry, version, scratch)
        folder = next((path.parent for path in sorted(there.rglob("architecture.json"))), None)
        if folder is None:
            raise DataError("it holds no architecture.json, so it is not a model of effnet")
        network = load_model(folder)
        macs = count(network.architecture, network.classifier.out_features).macs
        kept, weights = registry.store.cache / "hits" / f"{version.name}-{version.version}.json", str(version.source)
        hits = read_hits(kept, digest, weights, "val")
        if hits is None:
            hits = _score(registry, version, folder, network)
            keep_hits(kept, digest, weights, "val", hits)
    return Contender(str(version.version), hits, macs)


def _downloaded(registry: Registry, version: Any, folder: str) -> Path:
    """Return where a version's files lie now; raise DataError if they have gone."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    uri = f"models:/{version.name}/{version.version}"
    try:
        with _process_uri(registry.tracker.uri):
            return Path(download_artifacts(artifact_uri=uri, dst_path=folder, tracking_uri=registry.tracker.uri))
    except OSError as error:
        raise DataError(f"its files cannot be read: {error}") from error
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            raise
        raise DataError(f"its files are missing: {str(error).splitlines()[0]}") from error


def _score(registry: Registry, version: Any, folder: Path, network: Network) -> Hits:
    from effnet.evaluation.classes import classes_of_model, known_of
    from effnet.evaluation.run import judge as judge_images

    trained_on = load_manifest(registry.store.datasets / version.tags.get("dataset", "none"))
    known = known_of(trained_on) if trained_on else classes_of_model(folder)
    if not any(known):
        raise DataError("nothing says which classes it has")
    registry.say(f"registry: version {version.version} of {version.name} is scored on today's val")
    augment = Augment(crop_padding=_crop_padding(folder))
    dataset = registry.store.datasets / registry.manifest.digest
    return judge_images(network, dataset, "val", augment=augment, cache=registry.store.cache, known=known).hits


def _crop_padding(folder: Path) -> int | None:
    """Return the padding of the central crop that a model folder records; the default if it does not say."""
    try:
        padding = json.loads((folder / "predictor.json").read_bytes())["crop_padding"]
        return None if padding is None else int(padding)
    except (OSError, ValueError, KeyError, TypeError):
        return Augment().crop_padding


def _make_model(client: Any, name: str, description: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _champion(client: Any, name: str) -> Any:
    aliases = client.get_registered_model(name).aliases
    return client.get_model_version(name, aliases[CHAMPION]) if CHAMPION in aliases else None


def _add_version(registry: Registry, folder: RunFolder, name: str, result: RunResult, evaluation: Evaluation) -> Any:
    """Log the model and make a version of it."""
    tracker = registry.tracker
    card = model_card(name, folder.spec(), result, evaluation, registry.manifest, registry.licence)
    numbers = {"top1": evaluation.top1, "top5": evaluation.top5, "latency_ms": evaluation.latency_ms}
    numbers |= {"macs": result.macs, "params": result.params}
    model_id = _log_model(tracker, folder, registry.manifest, name, card)
    tags = {
        label: str(rounded(label, value) if isinstance(value, float) else value) for label, value in numbers.items()
    }
    if evaluation.latency:
        tags["latency_on"] = evaluation.latency.where()
    tags |= {
        "val_samples": str(evaluation.samples),
        "dataset": registry.manifest.digest,
        WEIGHTS_TAG: result.weights_sha256,
    }
    tags |= {"effnet.key": folder.key, "effnet.family": registry.key}
    with _process_uri(tracker.uri):  # where the SQL store looks the source up, whatever the client's address
        made = tracker.client.create_model_version(
            name,
            source=f"models:/{model_id}",
            run_id=tracker.run_id(folder.key),
            model_id=model_id,
            tags=tags,
        )
    told = (
        f"Top-1 {evaluation.top1:.2%} on val, {result.macs:,} multiply-adds, {evaluation.latency_ms:.2f} ms an image."
    )
    use = _EXAMPLE.format(name=name, version=made.version)
    return tracker.client.update_model_version(name, made.version, description=f"{told}\n\n{use}\n{card}")


@contextmanager
def _process_uri(uri: str) -> Iterator[None]:
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def _log_model(tracker: Tracker, folder: RunFolder, manifest: Manifest, name: str, card: str) -> str:
    """Log a member as a LoggedModel; return its id."""
    import mlflow.pyfunc
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    from effnet.data.loader import some_images
    from effnet.evaluation.classes import save_class_ids
    from effnet.evaluation.predictor import DEFAULT_TOP, copy_predictor

    client, run_id = tracker.client, tracker.run_id(folder.key)
    spec = folder.spec()
    weights = folder.trained().weights_sha256
    known = client.search_logged_models(
        [tracker.experiment_id], filter_string=f"name = '{name}' AND tags.`{WEIGHTS_TAG}` = '{weights}'"
    )
    for logged in known:
        if logged.status == "READY":  # logged by a process that was killed before it made the version
            return str(logged.model_id)
    shown = {"resolution": spec.architecture.resolution, "epochs": spec.recipe.epochs, "seed": spec.seed}
    logged = client.create_logged_model(
        tracker.experiment_id,
        name,
        source_run_id=run_id,
        model_type="effnet",
        params={label: str(value) for label, value in shown.items()},
        tags={WEIGHTS_TAG: weights},
    )
    signature = ModelSignature(
        None,  # the predictor checks its images itself: MLflow's schemas have no "pixels, or bytes, or base64"
        Schema([ColSpec("string", "label"), ColSpec("double", "probability")]),
        ParamSchema([ParamSpec("top", "long", DEFAULT_TOP)]),
    )
    with tempfile.TemporaryDirectory() as scratch:
        data, model = Path(scratch) / "member", Path(scratch) / "model"
        copy_predictor(data, folder, manifest.class_names)
        save_class_ids(data, manifest)
        (data / "README.md").write_text(card)
        dataset, number = folder.store.datasets / manifest.digest, min(2, manifest.samples["minival"])
        example, _ = some_images(dataset, "minival", range(number), _EXAMPLE_SIDE)
        mlflow.pyfunc.save_model(
            str(model),
            loader_module="tasks.records.serving",  # tensors and JSON are read by code that is installed
            data_path=str(data),
            signature=signature,
            input_example=example,
            pip_requirements=[f"effnet=={version('effnet')}"],
            mlflow_model=Model(model_id=logged.model_id),
        )
        client.log_model_artifacts(logged.model_id, str(model))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
    return str(logged.model_id)
