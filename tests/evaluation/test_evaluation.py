"""Scores against plain counting, and a verdict that is given once."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from effnet.arch import zoo
from effnet.config import Augment
from effnet.data.loader import Loader
from effnet.data.shards import Manifest
from effnet.errors import DataError
from effnet.evaluation.metrics import evaluate
from effnet.evaluation.run import evaluate_run
from effnet.runs import RunFolder
from effnet.store import Store
from effnet.train import loop
from effnet.train.loop import Stop


class Ranks(nn.Module):
    """Ranks the classes by fixed scores, whatever the image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.arange(10.0).expand(len(images), 10)


def test_scores_are_exact_counts(dataset_store: Store, manifest: Manifest) -> None:
    folder = dataset_store.datasets / manifest.digest
    loader = Loader(folder, "val", batch_size=100, resolution=8, augment=Augment(crop_padding=0))
    scores = evaluate(Ranks().eval(), zoo.get("efficientnet_b0"), loader, torch.device("cpu"))
    labels = torch.from_numpy(loader.index.labels)
    assert scores.samples == 359
    assert scores.top1 == (labels == 9).sum().item() / 359
    assert scores.top5 == (labels >= 5).sum().item() / 359
    logits = torch.arange(10.0).expand(359, 10)
    assert scores.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


def test_verdict_is_given_once_and_on_the_weights_of_the_run(run_folder: RunFolder) -> None:
    with pytest.raises(DataError, match="not finished"):
        evaluate_run(run_folder)
    loop.train(run_folder, started=time.time(), stop=Stop(), warn=print)
    evaluation = evaluate_run(run_folder)
    assert (evaluation.split, evaluation.samples) == ("val", 359)
    assert evaluation.latency_ms > 0
    result = run_folder.result()
    assert result is not None
    assert abs(evaluation.top1 - result.top1) < 0.15  # two samples of the same images
    stamp = run_folder.evaluation_path.stat().st_mtime_ns
    assert evaluate_run(run_folder) == evaluation
    assert run_folder.evaluation_path.stat().st_mtime_ns == stamp
    run_folder.evaluation_path.unlink()
    data = bytearray(run_folder.weights_path.read_bytes())
    data[-1] ^= 1
    run_folder.weights_path.write_bytes(data)
    with pytest.raises(DataError, match="not the weights that the run ended with"):
        evaluate_run(run_folder)
