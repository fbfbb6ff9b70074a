"""Test-time flips: what is averaged, and what is said of the difference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from effnet.arch.spec import Architecture
from effnet.config import Augment
from effnet.data.shards.manifest import Manifest
from effnet.evaluation.flips import Flipped, compare_flips
from effnet.evaluation.metrics import Predictions
from effnet.evaluation.predictor import Predictor
from effnet.evaluation.run import judge
from effnet.models.build import build
from effnet.statistics import difference
from effnet.store import Store


def test_probabilities_are_the_mean_of_an_image_and_its_mirror_image(baseline: Architecture) -> None:
    predictor = Predictor(build(baseline, 3, seed=0).eval(), "abc", 0)
    flipping = Predictor(predictor.network, "abc", 0, flips=True)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    plain, mirrored = predictor.probabilities(images), predictor.probabilities(images[:, :, ::-1])
    found = flipping.probabilities(images)
    np.testing.assert_allclose(found, (plain + mirrored) / 2, atol=1e-6)
    assert np.abs(found - plain).max() > 1e-4
    np.testing.assert_allclose(found, flipping.probabilities(images[:, :, ::-1]), atol=1e-6)


def test_the_loss_is_that_of_the_mean(baseline: Architecture, dataset_store: Store, manifest: Manifest) -> None:
    network, dataset = build(baseline, 10, seed=0).eval(), dataset_store.datasets / manifest.digest
    given = {"augment": Augment(crop_padding=0), "cache": None}
    plain = judge(network, dataset, "minival", **given)  # type: ignore[arg-type]
    flipped = judge(network, dataset, "minival", **given, flips=True)  # type: ignore[arg-type]
    np.testing.assert_array_equal(plain.labels, flipped.labels)
    wrong = flipped.found != flipped.labels
    np.testing.assert_allclose(np.exp(-flipped.losses[~wrong]), flipped.confidence[~wrong], rtol=1e-5)
    assert np.all(np.exp(-flipped.losses[wrong]) <= flipped.confidence[wrong] + 1e-6)
    # By Jensen's inequality a mean's loss is at most the mean of the losses; the mirrored half is not known here.
    assert (flipped.losses - plain.losses).max() <= np.log(2) + 1e-5


def test_a_network_that_cannot_tell_left_from_right_gains_nothing() -> None:
    class Mean(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3))

    images = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(Flipped(Mean())(images), Mean()(images).log_softmax(1))


def predictions(right: list[bool]) -> Predictions:
    hits, ones = np.array(right), np.ones(len(right), np.float32)
    return Predictions(np.zeros(len(right), np.int64), (~hits).astype(np.int64), hits | True, ones, 1 - ones)


@pytest.mark.parametrize(("better", "noise"), [(60, False), (3, True), (0, True)])
def test_the_difference_is_paired_and_says_what_noise_is(better: int, noise: bool) -> None:
    plain = np.array([True] * 500 + [False] * 500)
    flipped = np.array([True] * (500 + better) + [False] * (500 - better))
    found = compare_flips(plain, predictions(flipped.tolist()))
    known = difference(flipped, plain)
    assert found.top1 == 0.5 + better / 1000
    assert (found.lead, found.p) == (known.lead, known.p)
    assert found.interval.low < found.lead < found.interval.high
    assert found.told.endswith(", within noise") is noise
    assert found.told.startswith(f"{better / 10:+.2f} points (95 %: ")
