"""The scores of weights on a split."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from effnet.arch.spec import Architecture
from effnet.config import Augment
from effnet.data.loader import Loader
from effnet.data.shards.manifest import Manifest, load_manifest
from effnet.data.sources.origin import files_of
from effnet.errors import BusyError, ConfigError, DataError, StoppedError
from effnet.evaluation.classes import Known, Matching, known_of, match_classes
from effnet.evaluation.flips import Flipped
from effnet.evaluation.latency import measure_latency, quieter, throughput
from effnet.evaluation.metrics import (
    Predictions,
    batch_of,
    calibration,
    calibration_error,
    confusion,
    mistakes,
    predict,
    probabilities,
    scores_of,
)
from effnet.evaluation.suspects import suspects
from effnet.hits import keep_hits, run_hits
from effnet.machine import cores
from effnet.models.build import Network, build
from effnet.models.naming import OWN
from effnet.models.weights import load
from effnet.process import stopping
from effnet.runs import Evaluation, Latency, RunFolder
from effnet.statistics import Hits
from effnet.store import hold, publish, sha256_file

WAIT_SECONDS = 0.05  # between looks whether it is one's turn
HELD_OUT = ("minival", "val")  # splits that no training learns from
RESOLUTION_SHARES = (0.5, 0.75, 1.25, 1.5)  # of the network's own, to see how it copes with other sizes


@dataclass(frozen=True)
class Turns:
    """Several processes of a machine may score runs of a store at a time; while one measures times, the others wait."""

    path: Path | None  # of the lock file; None: there are no others

    @classmethod
    def of(cls, folder: RunFolder) -> Turns:
        """Return the turns of whoever scores runs of the same store on this machine."""
        return cls(folder.store.logs / f"evaluate-{platform.node()}.lock")

    def scoring(self) -> AbstractContextManager[None]:
        """Return the block in which to score."""
        return self._turn(shared=True)

    def timing(self) -> AbstractContextManager[None]:
        """Return the block in which to measure times."""
        return self._turn(shared=False)

    @contextmanager
    def _turn(self, shared: bool) -> Iterator[None]:
        with ExitStack() as stack:
            while self.path:
                try:
                    stack.enter_context(hold(self.path, "others score or measure", shared=shared))
                    break
                except BusyError:
                    if stopping():
                        raise StoppedError("asked to stop while it waited for its turn to score or measure") from None
                    time.sleep(WAIT_SECONDS)
            yield


def evaluate_run(folder: RunFolder, timed: Evaluation | None = None) -> Evaluation:
    """Score a finished run on the validation split and time it; write hits.json and evaluation.json if missing.

    Args:
        folder: of the run.
        timed: the evaluation of a run of the same network, whose times are taken over; None: they are measured, while
            nobody else evaluates a run of this store on this machine.

    Raises:
        DataError: if the run is not finished, or its weights are not those it was finished with.
    """
    turns = Turns.of(folder)
    with turns.scoring():
        keep_run_hits(folder)
    evaluation = folder.evaluation()
    if evaluation and run_hits(folder, "val") is not None:
        return evaluation
    spec, dataset = folder.spec(), folder.store.datasets / folder.spec().dataset
    augment, cache = spec.recipe.augment, folder.store.cache
    network = load_network(folder)
    if evaluation:  # by a version that kept no hits
        with turns.scoring():
            hits = judge(network, dataset, "val", augment=augment, cache=cache).hits
    else:
        evaluation, hits = evaluate_weights(
            network,
            dataset,
            "val",
            key=folder.key,
            augment=augment,
            cache=cache,
            timed=timed,
            turns=turns,
        )
        with turns.scoring():
            evaluation = evaluation.model_copy(update={"features_alone": _features_alone(folder)})
    keep_hits(folder.hits_path, spec.dataset, folder.trained().weights_sha256, "val", hits)
    publish(folder.evaluation_path, evaluation.model_dump_json(indent=2).encode())
    return evaluation


def _features_alone(folder: RunFolder) -> float | None:
    """Return the probe's top-1 on val; None if the run has no probe."""
    if folder.probe() is None:
        return None
    spec = folder.spec()
    network = load(folder.probe_weights_path, spec.architecture, OWN, spec.num_classes)
    dataset = folder.store.datasets / spec.dataset
    found = judge(network, dataset, "val", augment=spec.recipe.augment, cache=folder.store.cache)
    return float(found.hits.mean())


def keep_run_hits(folder: RunFolder) -> None:
    """Write a finished run's hits on minival into its hits.json, unless they are there."""
    if run_hits(folder, "minival") is not None:
        return
    spec = folder.spec()
    dataset = folder.store.datasets / spec.dataset
    hits = judge(load_network(folder), dataset, "minival", augment=spec.recipe.augment, cache=folder.store.cache).hits
    keep_hits(folder.hits_path, spec.dataset, folder.trained().weights_sha256, "minival", hits)


def time_run(folder: RunFolder, measured: Latency | None = None) -> Latency:
    """Time a run's network, trained or not; a settled time is not measured again.

    The figure is the evaluation's, if there is one, else that of latency.json. A quiet one replaces a noisy one.

    Args:
        folder: of the run.
        measured: the time of a run of the same network, which is taken over; None: it is measured.
    """
    evaluation, known = folder.evaluation(), folder.latency()
    if known and known.settled:
        return known
    if (latency := measured) is None:
        with Turns.of(folder).timing():
            latency = _measure(folder)
    if known:
        latency = quieter(known, latency).model_copy(update={"tries": known.tries + 1})
    if evaluation:
        evaluation = evaluation.model_copy(update={"latency": latency, "latency_ms": latency.latency_ms})
        publish(folder.evaluation_path, evaluation.model_dump_json(indent=2).encode())
    else:
        publish(folder.latency_path, latency.model_dump_json(indent=2).encode())
    return latency


def _measure(folder: RunFolder) -> Latency:
    spec = folder.spec()
    network = build(spec.architecture, spec.num_classes).eval()
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return measure_latency(network, spec.architecture.in_channels, spec.architecture.resolution)


def judge(
    network: Network,
    dataset: Path,
    split: str,
    *,
    augment: Augment,
    cache: Path | None,
    known: Known | None = None,
    flips: bool = False,
) -> Predictions:
    """Return a network's predictions for every image of a dataset's split, by one pass; classes are matched by id.

    Args:
        network: on the CPU, in evaluation mode; it is moved back there at the end.
        dataset: folder.
        split: "train", "minival" or "val".
        augment: says how the central crop is cut.
        cache: folder for decoded pixels, if they are to be kept.
        known: the network's classes; without it those of the dataset.
        flips: average the probabilities of each image and its mirror image (effnet.evaluation.flips).

    Raises:
        ConfigError: if the dataset has classes that the network lacks.
        DataError: if the dataset is not there or broken.
    """
    manifest = _manifest(dataset)
    matching = _matching(network, manifest, known, dataset)
    with _opened(network, dataset, split, augment, cache, matching) as (loader, device):
        return predict(Flipped(network) if flips else network, network.architecture, loader, device)


class SuspectImage(NamedTuple):
    """An image of a dataset whose label may be wrong; its classes by their ids."""

    split: str
    file: str  # that it was made from; "" where the dataset was not made from files, or they are not here
    image: str  # its key
    label: str
    suggested: str  # the class that the run finds instead
    label_probability: float  # that the run gives the label, 0..1
    suggested_probability: float


class Suspects(NamedTuple):
    """Suspected label errors."""

    rows: list[SuspectImage]  # most suspicious first
    images: int  # that were looked at
    class_names: dict[str, str]  # what people call the classes, by id


def suspects_of(folder: RunFolder, splits: Sequence[str], base: Path = Path()) -> Suspects:
    """Return the suspected label errors of a run's dataset.

    Args:
        folder: of a finished run.
        splits: of HELD_OUT; the thresholds of confident learning are those of all their images together.
        base: folder that a relative path of the dataset's source may be relative to; the store's own is another.

    Raises:
        ConfigError: if the run was trained on one of the splits.
        DataError: if the run is not finished, its dataset is not there or broken, or the images are of one class.
    """
    if learnt := [split for split in splits if split not in HELD_OUT]:
        raise ConfigError(
            f"{', '.join(learnt)}: the run was trained on these images and may have learned wrong labels by heart; "
            f"take {' or '.join(HELD_OUT)}"
        )
    spec, network = folder.spec(), load_network(folder)
    dataset = folder.store.datasets / spec.dataset
    manifest = _manifest(dataset)
    matching = _matching(network, manifest, None, dataset)
    found, where = [], list[tuple[str, str]]()
    for split in splits:
        with _opened(network, dataset, split, spec.recipe.augment, folder.store.cache, matching) as (loader, device):
            found.append(probabilities(network, network.architecture, loader, device))
            where += [(split, key) for key in loader.index.keys.to_pylist()]
    outputs, labels = (np.concatenate(column) for column in zip(*found, strict=True))
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"{dataset}: the images of {' and '.join(splits)} are of one class; there is none to mistake it for"
        )
    rows = suspects(outputs, labels)
    files = files_of(manifest.settings.source, (base, folder.store.root.parent), {where[row.image][1] for row in rows})
    ids = manifest.classes
    shown = []
    for image, label, suggested, *sure in rows:
        split, key = where[image]
        shown.append(SuspectImage(split, files.get(key, ""), key, ids[label], ids[suggested], *sure))
    return Suspects(shown, len(labels), dict(zip(ids, manifest.class_names, strict=True)))


def evaluate_weights(
    network: Network,
    dataset: Path,
    split: str,
    *,
    key: str,
    augment: Augment,
    cache: Path | None,
    known: Known | None = None,
    timed: Evaluation | None = None,
    turns: Turns | None = None,
) -> tuple[Evaluation, Hits]:
    """Score a network on every image of a dataset's split, each once, and time it; arguments and errors as for `judge`.

    `key` says whose weights these are. The classes in the result are the network's. Times are those of `timed`, if an
    evaluation of the same network is given. `turns` keeps other scoring away from the timing.
    """
    manifest = _manifest(dataset)
    matching = _matching(network, manifest, known, dataset)
    num_classes, threads, arch = network.classifier.out_features, torch.get_num_threads(), network.architecture
    turns = turns or Turns(None)
    with turns.scoring(), _opened(network, dataset, split, augment, cache, matching) as (loader, device):
        began = time.perf_counter()
        predictions = predict(network, arch, loader, device)
        scores = scores_of(predictions)
        resolutions = {arch.resolution: scores.top1}
        for resolution in other_resolutions(arch):
            loader.resolution, loader.batch_size = resolution, batch_of(resolution)
            resolutions[resolution] = scores_of(predict(network, arch, loader, device)).top1
        seconds = time.perf_counter() - began
    if timed and timed.latency:
        rate, batch, latency = timed.images_per_second, timed.best_batch, timed.latency
    else:
        with turns.timing():
            began = time.perf_counter()
            latency = measure_latency(network, arch.in_channels, arch.resolution)
            rate, batch = throughput(network.to(device), arch.in_channels, arch.resolution, device)
            network.cpu()
            seconds += time.perf_counter() - began
    bins = calibration(predictions)
    evaluation = Evaluation(
        key=key,
        dataset=manifest.digest,
        split=split,
        **scores._asdict(),
        calibration_error=calibration_error(bins),
        calibration=tuple(bins),
        class_samples=tuple(np.bincount(predictions.labels, minlength=num_classes).tolist()),
        class_right=tuple(np.bincount(predictions.labels[predictions.hits], minlength=num_classes).tolist()),
        confusion=tuple(confusion(predictions, num_classes)),
        mistakes=tuple(mistakes(predictions)),
        resolutions=dict(sorted(resolutions.items())),
        images_per_second=rate,
        best_batch=batch,
        latency_ms=latency.latency_ms,
        latency=latency,
        matched=matching.told,
        environment={
            "torch": str(torch.__version__),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": str(threads),
            "threads_of_latency": "1",
        },
        seconds=seconds,
    )
    return evaluation, predictions.hits


def _manifest(dataset: Path) -> Manifest:
    manifest = load_manifest(dataset)
    if manifest is None:
        raise DataError(f"{dataset}: no dataset here; `effnet shard` writes one")
    return manifest


def _matching(network: Network, manifest: Manifest, known: Known | None, dataset: Path) -> Matching:
    return match_classes(known or known_of(manifest), network.classifier.out_features, manifest, str(dataset))


@contextmanager
def _opened(
    network: Network, dataset: Path, split: str, augment: Augment, cache: Path | None, matching: Matching
) -> Iterator[tuple[Loader, torch.device]]:
    """Yield a loader whose labels are the network's outputs, and the device where the network is meanwhile."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = Loader(
        dataset,
        split,
        batch_size=batch_of(network.architecture.resolution),
        resolution=network.architecture.resolution,
        augment=augment,
        threads=torch.get_num_threads() if device.type == "cpu" else cores(),
        cache=cache,
    )
    loader.index = dataclasses.replace(loader.index, labels=matching.outputs[loader.index.labels])
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield loader, device
    finally:
        loader.close()
        network.cpu()


def other_resolutions(arch: Architecture) -> list[int]:
    """Return sides to try besides the network's own: multiples of its stride."""
    stride = arch.total_stride
    sides = {max(stride, round(arch.resolution * share / stride) * stride) for share in RESOLUTION_SHARES}
    return sorted(sides - {arch.resolution})


def load_network(folder: RunFolder) -> Network:
    """Return a finished run's network on the CPU, in evaluation mode, with its best weights."""
    network = load(checked_weights(folder), folder.spec().architecture, OWN)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def checked_weights(folder: RunFolder) -> Path:
    """Return the file of a finished run's best weights; raise DataError if they are not those that it ended with."""
    result = folder.result()
    if result is None:
        raise DataError(folder.unfinished())
    if not folder.weights_path.is_file() or sha256_file(folder.weights_path) != result.weights_sha256:
        raise DataError(
            f"{folder.weights_path}: not the weights that the run ended with; remove the folder and train again"
        )
    return folder.weights_path
