"""The validation split's verdict on a finished run."""

from __future__ import annotations

import torch
from torch import nn

from effnet.data.loader import Loader
from effnet.errors import DataError
from effnet.evaluation.latency import latency_ms
from effnet.evaluation.metrics import evaluate
from effnet.models.naming import OWN
from effnet.models.weights import load
from effnet.runs import Evaluation, RunFolder
from effnet.store import publish, sha256_file

BATCH = 256


def evaluate_run(folder: RunFolder) -> Evaluation:
    """Score a finished run on the validation split and time it; write evaluation.json, or return the one there is.

    Raises:
        DataError: if the run is not finished, or its weights are not those it was finished with.
    """
    if evaluation := folder.evaluation():
        return evaluation
    spec = folder.spec()
    resolution = spec.architecture.resolution
    network = load_network(folder)
    loader = Loader(
        folder.store.datasets / spec.dataset,
        "val",
        batch_size=BATCH,
        resolution=resolution,
        augment=spec.recipe.augment,
        threads=torch.get_num_threads(),
        cache=folder.store.cache,
    )
    scores = evaluate(network, spec.architecture, loader, torch.device("cpu"))
    evaluation = Evaluation(
        key=folder.key,
        dataset=spec.dataset,
        split="val",
        samples=scores.samples,
        top1=scores.top1,
        top5=scores.top5,
        loss=scores.loss,
        latency_ms=latency_ms(network, spec.architecture.in_channels, resolution),
        environment={"torch": torch.__version__, "device": "cpu", "threads_of_latency": "1"},
    )
    publish(folder.evaluation_path, evaluation.model_dump_json(indent=2).encode())
    return evaluation


def load_network(folder: RunFolder) -> nn.Module:
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
