"""A split's verdict on weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from effnet.arch.spec import Architecture
from effnet.config import Augment
from effnet.data.loader import Loader
from effnet.data.manifest import load_manifest
from effnet.errors import ConfigError, DataError
from effnet.evaluation.latency import latency_ms, throughput
from effnet.evaluation.metrics import calibration, calibration_error, confusion, predict, scores_of
from effnet.models.build import Network, build
from effnet.models.naming import OWN
from effnet.models.weights import load
from effnet.runs import Evaluation, RunFolder
from effnet.store import publish, sha256_file

BATCH = 256
RESOLUTION_SHARES = (0.5, 0.75, 1.25, 1.5)  # of the network's own, to see how it bears other images


def evaluate_run(folder: RunFolder) -> Evaluation:
    """Score a finished run on the validation split and time it; write evaluation.json, or return the one there is.

    Raises:
        DataError: if the run is not finished, or its weights are not those it was finished with.
    """
    if evaluation := folder.evaluation():
        return evaluation
    spec = folder.spec()
    network = load_network(folder)
    dataset = folder.store.datasets / spec.dataset
    evaluation = evaluate_weights(
        network, dataset, "val", key=folder.key, augment=spec.recipe.augment, cache=folder.store.cache
    )
    publish(folder.evaluation_path, evaluation.model_dump_json(indent=2).encode())
    return evaluation


def time_run(folder: RunFolder) -> float:
    """Time a run's network, trained or not, and write latency.json, or return what is there: milliseconds."""
    if folder.latency_path.exists():
        return folder.latency_ms()
    spec = folder.spec()
    network = build(spec.architecture, spec.num_classes).eval()
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    latency = latency_ms(network, spec.architecture.in_channels, spec.architecture.resolution)
    publish(folder.latency_path, json.dumps({"latency_ms": latency}).encode())
    return latency


def evaluate_weights(
    network: Network, dataset: Path, split: str, *, key: str, augment: Augment, cache: Path | None
) -> Evaluation:
    """Score a network on every image of a dataset's split, each once, and time it.

    Args:
        network: on the CPU, in evaluation mode; it comes back there.
        dataset: folder.
        split: "train", "minival" or "val".
        key: says whose weights these are.
        augment: says how the central crop is cut.
        cache: folder for decoded pixels, if they are to be kept.

    Raises:
        ConfigError: if the network has another number of classes than the dataset.
        DataError: if the dataset is not there or broken.
    """
    manifest = load_manifest(dataset)
    if manifest is None:
        raise DataError(f"{dataset}: no dataset here; `effnet shard` writes one")
    num_classes = network.classifier.out_features
    if num_classes != len(manifest.classes):
        raise ConfigError(f"the network has {num_classes} classes, {dataset} has {len(manifest.classes)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads, arch = torch.get_num_threads(), network.architecture
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    loader = Loader(
        dataset, split, batch_size=BATCH, resolution=arch.resolution, augment=augment, threads=threads, cache=cache
    )
    predictions = predict(network, arch, loader, device)
    scores = scores_of(predictions)
    resolutions = {arch.resolution: scores.top1}
    for resolution in other_resolutions(arch):
        loader.resolution = resolution
        resolutions[resolution] = scores_of(predict(network, arch, loader, device)).top1
    loader.close()
    rate, batch = throughput(network, arch.in_channels, arch.resolution, device)
    bins = calibration(predictions)
    right = predictions.labels[predictions.found == predictions.labels]
    return Evaluation(
        key=key,
        dataset=manifest.digest,
        split=split,
        **scores._asdict(),
        calibration_error=calibration_error(bins),
        calibration=tuple(bins),
        class_samples=tuple(np.bincount(predictions.labels, minlength=num_classes).tolist()),
        class_right=tuple(np.bincount(right, minlength=num_classes).tolist()),
        confusion=tuple(confusion(predictions, num_classes)),
        resolutions=dict(sorted(resolutions.items())),
        images_per_second=rate,
        best_batch=batch,
        latency_ms=latency_ms(network.cpu(), arch.in_channels, arch.resolution),
        environment={
            "torch": str(torch.__version__),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": str(threads),
            "threads_of_latency": "1",
        },
    )


def other_resolutions(arch: Architecture) -> list[int]:
    """Return sides to try besides the network's own: multiples of its stride."""
    stride = arch.total_stride
    sides = {max(stride, round(arch.resolution * share / stride) * stride) for share in RESOLUTION_SHARES}
    return sorted(sides - {arch.resolution})


def load_network(folder: RunFolder) -> Network:
    """Return a finished run's network on the CPU, in evaluation mode, with its best weights."""
    result = folder.result()
    if result is None:
        raise DataError(f"{folder.path}: not finished, there are no weights to evaluate; train it first")
    if not folder.weights_path.is_file() or sha256_file(folder.weights_path) != result.weights_sha256:
        raise DataError(
            f"{folder.weights_path}: not the weights that the run ended with; remove the folder and train again"
        )
    spec = folder.spec()
    network = load(folder.weights_path, spec.architecture, OWN)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
