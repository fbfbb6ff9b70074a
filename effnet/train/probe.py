"""A linear probe: how far the features of given weights go without training them, and a floor for a fine-tuning.

Logistic regression on the features that the weights give the images as they are. It takes less than
an epoch. Its classifier is kept beside the run, and counts as epoch 0: a training that never beats it ends with it.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from effnet.arch.spec import Architecture
from effnet.data.loader import Loader
from effnet.evaluation.metrics import Scores, evaluate
from effnet.models.build import Network
from effnet.models.preprocess import normalize
from effnet.models.weights import save_weights
from effnet.runs import Probe, RunFolder
from effnet.store import publish

STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # inverse of the penalty, C; the best one on minival is taken
MOST = 10_000  # images that it learns from
BATCH = 64


class Features(NamedTuple):
    """What a network makes of images before its classifier."""

    values: NDArray[np.float64]  # (images, features)
    labels: NDArray[np.int64]  # (images,)


def probe(
    folder: RunFolder, network: Network, device: torch.device, threads: int = 1, look: Callable[[], None] = lambda: None
) -> Probe:
    """Return a run's probe, from its folder if it is there; else find it, and write probe.safetensors and probe.json.

    Args:
        folder: of the run.
        network: with the weights that the run starts from, on `device`; only read.
        device: where to compute.
        threads: that decode.
        look: called now and then; may raise to stop.
    """
    if found := folder.probe():
        return found
    spec, was_training = folder.spec(), network.training
    network.eval()
    with _loader(folder, "train", threads) as train:
        learnt = features(network, spec.architecture, train, device)
    probed = Network(spec.architecture, spec.num_classes)
    probed.load_state_dict(network.state_dict())
    probed.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    tried: list[tuple[Scores, float]] = []
    with _loader(folder, "minival", threads) as minival:  # all of it, also where there are other ranks
        for strength in STRENGTHS:
            look()
            _fit(probed.classifier, learnt, strength, spec.recipe.balance)
            tried.append((evaluate(probed, spec.architecture, minival, device), strength))
    network.train(was_training)
    scores, strength = max(tried, key=lambda each: (each[0].top1, -each[0].loss))
    _fit(probed.classifier, learnt, strength, spec.recipe.balance)
    save_weights(folder.probe_weights_path, probed)
    found = Probe(top1=scores.top1, top5=scores.top5, loss=scores.loss, strength=strength, images=len(learnt.labels))
    publish(folder.probe_path, found.model_dump_json(indent=2).encode())
    return found


@contextmanager
def _loader(folder: RunFolder, split: str, threads: int) -> Iterator[Loader]:
    spec, store = folder.spec(), folder.store
    loader = Loader(
        store.datasets / spec.dataset,
        split,
        batch_size=BATCH,
        resolution=spec.architecture.resolution,
        augment=spec.recipe.augment,
        threads=threads,
        cache=store.cache,
    )
    try:
        yield loader
    finally:
        loader.close()


@torch.inference_mode()
def features(network: Network, arch: Architecture, loader: Loader, device: torch.device) -> Features:
    """Return the features of a split's first MOST images, which are any: shards are shuffled."""
    values, labels = [], []
    for batch in itertools.islice(loader.epoch(0), -(-MOST // loader.batch_size)):
        values.append(network.features(normalize(batch.images.to(device), arch)).double().cpu().numpy())
        labels.append(batch.labels.numpy())
    return Features(np.concatenate(values), np.concatenate(labels))


def _fit(classifier: nn.Linear, learnt: Features, strength: float, balance: bool) -> None:
    """Give a classifier the weights of the penalised regression."""
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():  # that it has not quite converged; minival says what it is worth
        warnings.simplefilter("ignore")
        share = "balanced" if balance else None
        found = LogisticRegression(C=strength, max_iter=300, class_weight=share).fit(learnt.values, learnt.labels)
    weights, biases = np.zeros((classifier.out_features, classifier.in_features)), np.zeros(classifier.out_features)
    if len(found.classes_) == 2:  # one row, for the second class against the first
        half, bias = found.coef_[0] / 2, found.intercept_[0] / 2
        weights[found.classes_], biases[found.classes_] = np.stack([-half, half]), np.array([-bias, bias])
    else:
        weights[found.classes_], biases[found.classes_] = found.coef_, found.intercept_
        missing = np.setdiff1d(np.arange(len(biases)), found.classes_)
        biases[missing] = found.intercept_.min() - 10  # classes without an image to learn from
    with torch.no_grad():
        classifier.weight.copy_(torch.from_numpy(weights))
        classifier.bias.copy_(torch.from_numpy(biases))
