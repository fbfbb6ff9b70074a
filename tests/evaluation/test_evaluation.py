"""Scores against plain counting, and a verdict that is given once."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from effnet.arch import zoo
from effnet.arch.spec import Architecture
from effnet.config import Augment
from effnet.data.loader import Loader, some_images
from effnet.data.shards.index import Index
from effnet.data.shards.manifest import INDEX, Manifest
from effnet.errors import DataError, StoppedError
from effnet.evaluation.cam import class_activation_maps
from effnet.evaluation.latency import throughput
from effnet.evaluation.metrics import (
    Predictions,
    batch_of,
    calibration,
    calibration_error,
    confusion,
    evaluate,
    mistakes,
    predict,
    scores_of,
)
from effnet.evaluation.run import WAIT_SECONDS, Turns, evaluate_run, other_resolutions
from effnet.hits import run_hits
from effnet.models.build import build
from effnet.models.preprocess import normalize
from effnet.runs import Evaluation, RunFolder
from effnet.store import Store
from effnet.train import loop
from effnet.train.loop import Stop
from tests.tiny import VAL


class Ranks(nn.Module):
    """Ranks the classes by fixed scores, whatever the image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.arange(10.0).expand(len(images), 10)


def test_scores_are_exact_counts(dataset_store: Store, manifest: Manifest) -> None:
    folder = dataset_store.datasets / manifest.digest
    loader = Loader(folder, "val", batch_size=100, resolution=8, augment=Augment(crop_padding=0))
    scores = evaluate(Ranks().eval(), zoo.get("efficientnet_b0"), loader, torch.device("cpu"))
    labels = torch.from_numpy(loader.index.labels)
    assert scores.samples == VAL
    assert scores.top1 == (labels == 9).sum().item() / VAL
    assert scores.top5 == (labels >= 5).sum().item() / VAL
    logits = torch.arange(10.0).expand(VAL, 10)
    assert scores.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


def test_nobody_scores_while_one_measures(tmp_path: Path) -> None:
    turns, seen, inside = Turns(tmp_path / "lock"), list[str](), threading.Event()

    def measure() -> None:
        with turns.timing():
            seen.append("measured")

    with turns.scoring(), turns.scoring():  # several may
        other = threading.Thread(target=measure)
        other.start()
        other.join(10 * WAIT_SECONDS)
        seen.append("scored")
    other.join(5)
    assert seen == ["scored", "measured"]

    def hold() -> None:
        with turns.timing():
            inside.set()
            time.sleep(10 * WAIT_SECONDS)
            seen.append("measured")

    other = threading.Thread(target=hold)
    other.start()
    assert inside.wait(5)
    with turns.scoring():
        seen.append("scored")
    assert seen == ["scored", "measured", "measured", "scored"]


def test_whoever_waits_for_a_turn_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns(tmp_path / "lock")
    monkeypatch.setattr("effnet.evaluation.run.stopping", lambda: True)
    with turns.timing(), pytest.raises(StoppedError, match="waited for its turn"), turns.scoring():
        pass


def test_large_images_are_scored_a_few_at_a_time() -> None:
    assert [batch_of(side) for side in (28, 128, 224, 600, 5000)] == [256, 256, 83, 11, 1]


def test_the_surest_mistakes_come_first(dataset_store, manifest) -> None:
    labels, found = np.array([0, 1, 2, 0, 1]), np.array([1, 1, 0, 2, 0])
    confidence = np.array([0.5, 0.9, 0.8, 0.7, 0.8], np.float32)
    told = mistakes(Predictions(labels, found, labels >= 0, confidence, confidence))
    assert [(each.sample, each.label, each.found) for each in told] == [(2, 2, 0), (4, 1, 0), (3, 0, 2), (0, 0, 1)]
    dataset = dataset_store.datasets / manifest.digest
    pixels, index = some_images(dataset, "val", [each.sample for each in told], 8)
    whole = Index.read(dataset / INDEX, "val")
    assert index.keys.to_pylist() == [whole.keys[each.sample].as_py() for each in told]
    assert index.labels.tolist() == [whole.labels[each.sample] for each in told]
    for image, each in zip(pixels, told, strict=True):
        alone, _ = some_images(dataset, "val", [each.sample], 8)
        assert np.array_equal(image, alone[0])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
@pytest.mark.filterwarnings("ignore")  # sklearn's, of classes that never occur
def test_averages_over_classes_are_sklearns(pairs: list[tuple[int, int]]) -> None:
    labels, found = np.array(pairs).T
    predictions = Predictions(labels, found, labels >= 0, np.ones(len(labels), np.float32), np.ones(len(labels)))
    evaluation = Evaluation(
        key="",
        dataset="",
        split="val",
        samples=len(labels),
        top1=0.5,
        top5=1.0,
        loss=1.0,
        calibration_error=0.0,
        class_samples=tuple(np.bincount(labels, minlength=5).tolist()),
        class_right=tuple(np.bincount(labels[labels == found], minlength=5).tolist()),
        confusion=tuple(confusion(predictions, 5)),
        resolutions={},
        latency_ms=1.0,
        images_per_second=1.0,
        best_batch=1,
        environment={},
    )
    assert evaluation.macro_f1 == pytest.approx(sklearn.metrics.f1_score(labels, found, average="macro"))
    assert evaluation.balanced_accuracy == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels, found))
    precision, recall, _, samples = sklearn.metrics.precision_recall_fscore_support(
        labels, found, labels=range(5), zero_division=np.nan
    )
    for label, score in enumerate(evaluation.class_scores):
        assert (score.recall is None) == (samples[label] == 0)
        assert score.recall is None or score.recall == pytest.approx(recall[label])
        assert score.precision is None or score.precision == pytest.approx(precision[label])


def test_verdict_is_given_once_and_on_the_weights_of_the_run(run_folder: RunFolder) -> None:
    with pytest.raises(DataError, match="not finished"):
        evaluate_run(run_folder)
    loop.train(run_folder, started=time.time(), stop=Stop(), warn=print)
    evaluation = evaluate_run(run_folder)
    assert (evaluation.split, evaluation.samples) == ("val", VAL)
    assert evaluation.latency_ms > 0
    result = run_folder.result()
    assert result is not None
    assert abs(evaluation.top1 - result.top1) < 0.15  # two samples of the same images
    stamp = run_folder.evaluation_path.stat().st_mtime_ns
    assert evaluate_run(run_folder) == evaluation
    assert run_folder.evaluation_path.stat().st_mtime_ns == stamp
    for split, top1 in (("val", evaluation.top1), ("minival", result.top1)):
        hits = run_hits(run_folder, split)
        assert hits is not None
        assert hits.mean() == pytest.approx(top1)
    labels = Index.read(run_folder.store.datasets / run_folder.spec().dataset / "index.parquet", "val").labels
    kept = run_hits(run_folder, "val")
    assert kept is not None
    assert np.bincount(labels[kept], minlength=10).tolist() == list(evaluation.class_right)  # in the index's order
    run_folder.hits_path.unlink()  # as an earlier version left it
    assert evaluate_run(run_folder) == evaluation
    again = run_hits(run_folder, "val")
    assert again is not None
    assert np.array_equal(kept, again)
    run_folder.evaluation_path.unlink()
    data = bytearray(run_folder.weights_path.read_bytes())
    data[-1] ^= 1
    run_folder.weights_path.write_bytes(data)
    with pytest.raises(DataError, match="not the weights that the run ended with"):
        evaluate_run(run_folder)


def test_scores_by_class_and_confidence_are_those_of_scikit_learn(dataset_store: Store, manifest: Manifest) -> None:
    folder = dataset_store.datasets / manifest.digest
    loader = Loader(folder, "val", batch_size=100, resolution=8, augment=Augment(crop_padding=0))
    arch = zoo.get("efficientnet_b0")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).eval()
    found = predict(network, arch, loader, torch.device("cpu"))
    assert scores_of(found) == pytest.approx(evaluate(network, arch, loader, torch.device("cpu")))
    table = np.zeros((10, 10), int)
    for label, other, number in confusion(found, 10):
        table[label, other] = number
    assert np.array_equal(table, sklearn.metrics.confusion_matrix(found.labels, found.found, labels=range(10)))
    edges = np.linspace(0, 1, 16)
    expected = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (found.confidence > low) & (found.confidence <= high)
        if inside.any():
            right = (found.found == found.labels)[inside]
            expected += inside.mean() * abs(right.mean() - found.confidence[inside].mean())
    assert calibration_error(calibration(found)) == pytest.approx(expected, abs=1e-6)


def test_maps_are_what_the_logit_is_the_mean_of(baseline: Architecture) -> None:
    network = build(baseline, 10, seed=0).eval()
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    maps, found = class_activation_maps(network, images)
    assert maps.shape == (3, 8, 8)
    assert torch.allclose(maps.amax((1, 2)), torch.ones(3))
    assert float(maps.min()) >= 0
    logits = network(normalize(images, baseline))
    assert torch.equal(found, logits.argmax(1))
    features = network.maps(normalize(images, baseline))
    raw = torch.einsum("nchw,nc->nhw", features, network.classifier.weight[found])
    assert torch.allclose(raw.mean((1, 2)) + network.classifier.bias[found], logits.amax(1), atol=1e-5)
    one, _ = class_activation_maps(network, images, torch.tensor([1, 1, 1]))
    other, _ = class_activation_maps(network, images, torch.tensor([2, 2, 2]))
    assert not torch.equal(one, other)


def test_throughput_names_its_batch(baseline: Architecture) -> None:
    network = build(baseline, 10, seed=0).eval()
    rate, batch = throughput(network, 3, 8, torch.device("cpu"))
    assert rate > 0
    assert batch in {2**power for power in range(9)}


def test_other_sides_are_multiples_of_the_stride() -> None:
    assert other_resolutions(zoo.get("efficientnet_b0")) == [128, 160, 288, 320]
