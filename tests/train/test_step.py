"""What a step does besides arithmetic: keyed noise, memory that runs out, weights to start from, odd checkpoints."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from effnet.arch import zoo
from effnet.arch.scaling import scale
from effnet.arch.spec import Architecture
from effnet.config import Recipe
from effnet.data.shards.manifest import Manifest
from effnet.errors import ConfigError, DataError, MachineError, StoppedError
from effnet.evaluation.run import judge, load_network
from effnet.memory import FEW_IMAGES, MicroBatch, plan_micro_batch
from effnet.models.build import Network, build
from effnet.runs import About, RunFolder, RunSpec, Start, read_journal
from effnet.stages import Stage
from effnet.store import Store, sha256_file
from effnet.train import checkpoint, loop, state, step
from effnet.train import settle as module_of_settle
from effnet.train.distributed import World
from effnet.train.loop import Stop
from effnet.train.micro_batch import norm_ranks, number_of_parts, parts
from effnet.train.schedule import stage
from effnet.train.settle import settle
from effnet.train.state import TrainingState, balanced, prepare
from tasks.board import _ended
from tasks.build import Training
from tests.tiny import store_beside
from tests.train.test_loop import StopAt, train


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make(tmp_path: Path, dataset_store: Store, baseline, config, manifest: Manifest):
    """Make the tiny run with another recipe."""
    store = store_beside(dataset_store, tmp_path / "store")

    def make(start: Start | None = None, arch: Architecture = baseline, **changes: object) -> RunFolder:
        recipe = config.recipe.model_copy(update=changes)
        spec = RunSpec(architecture=arch, dataset=manifest.digest, num_classes=10, recipe=recipe, start=start)
        return RunFolder.create(store, spec)

    return make


def training_of(folder: RunFolder, told: list[str] | None = None) -> TrainingState:
    return prepare(folder, World(), time.time(), (told if told is not None else []).append)


def first_batch(training: TrainingState) -> Any:
    return next(training.train_loader.epoch(0))


def test_noise_belongs_to_the_sample_not_to_its_place(make) -> None:
    training = training_of(make())
    samples = np.arange(20)
    noise = step.draw_noise(training, samples, 0)
    order = np.random.default_rng(0).permutation(20)
    mixed = step.draw_noise(training, samples[order], 0)
    assert torch.equal(mixed.depth, noise.depth[order])
    assert torch.equal(mixed.features, noise.features[order])
    assert not torch.equal(step.draw_noise(training, samples, 1).depth, noise.depth)
    assert noise.depth.shape == (20, len(training.network.blocks))
    assert noise.features.shape == (20, 32)
    assert 0.4 < float(noise.features.mean()) < 0.6


def test_noise_decides_what_is_dropped(make) -> None:
    network = training_of(make()).network.train()
    x = torch.randn(4, 3, 8, 8)
    noise = step.Noise(torch.zeros(4, 3), torch.zeros(4, 32))  # all features are dropped
    assert torch.equal(network(x, noise), network.classifier.bias.expand(4, 10))
    kept = step.Noise(torch.zeros(4, 3), torch.ones(4, 32))
    assert torch.equal(network(x, kept), network(x, kept))


def steps_taken(folder: RunFolder, steps: int = 2) -> tuple[TrainingState, list[int]]:
    """Take the first steps of a run; return it, and how many images went through the network each time."""
    training, sizes = training_of(folder), []
    settle(training)
    training.network.train()
    training.network.stem.register_forward_hook(lambda _m, given, _f: sizes.append(len(given[0])))
    now = stage(training.spec.recipe, training.spec.architecture, 0)
    for batch in itertools.islice(training.train_loader.epoch(0), steps):
        step.take_step(training, batch, now)
    return training, sizes


def test_a_batch_goes_in_as_few_parts_as_possible_all_alike(make) -> None:
    assert steps_taken(make(), 1)[1] == [32]
    assert steps_taken(make(micro_batch=10), 1)[1] == [8, 8, 8, 8]
    assert steps_taken(make(micro_batch=100), 1)[1] == [32]


def test_micro_batches_with_frozen_norms_are_the_batch(make) -> None:
    trainings = []
    for images in (None, 10):
        training = training_of(make(micro_batch=images))
        now = stage(training.spec.recipe, training.spec.architecture, 0)
        for norm in training.network.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.eval()
        step.take_step(training, first_batch(training), now)
        trainings.append(training)
    assert float(trainings[0].loss_sum) == pytest.approx(float(trainings[1].loss_sum), rel=1e-6)
    for one, two in zip(*(each.network.parameters() for each in trainings), strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-6)


@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 300))
def test_every_rank_passes_as_often_as_the_others(batch: int, world: int, images: int) -> None:
    world = min(world, batch)
    number = number_of_parts(MicroBatch(images, recompute=False), batch, world)
    shares = [len(range(rank, batch, world)) for rank in range(world)]
    for share in shares:
        found = parts(share, number)
        sizes = [part.stop - part.start for part in found]
        assert len(found) == number
        assert sum(sizes) == share
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1
        assert max(sizes) <= images or number == min(shares)


def test_statistics_of_norms_move_as_far_in_a_step_of_several_passes(make) -> None:
    (whole, _), (cut, _) = (steps_taken(make(micro_batch=n), 1) for n in (None, 8))
    one, two = (training.network.stem.conv.norm for training in (whole, cut))
    assert torch.allclose(one.running_mean, two.running_mean, atol=0.02)
    assert torch.allclose(one.running_var, two.running_var, rtol=0.05)
    assert two.momentum == pytest.approx(1 - (1 - one.momentum) ** 0.25)


def test_blocks_computed_twice_give_the_same_bits(make) -> None:
    arch = make().spec().architecture
    whole, twice = (training_of(make()) for _ in range(2))
    twice.micro_batch = twice.micro_batch._replace(recompute=True)
    settle(twice)
    assert twice.network.recompute
    now = stage(whole.spec.recipe, arch, 0)
    for training in (whole, twice):
        training.network.train()
        for batch in itertools.islice(training.train_loader.epoch(0), 2):
            step.take_step(training, batch, now)
    for (name, one), two in zip(whole.network.state_dict().items(), twice.network.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_a_full_memory_is_told_with_what_to_set(make, monkeypatch: pytest.MonkeyPatch) -> None:
    training = training_of(make(micro_batch=8))

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Network, "forward", full)
    with pytest.raises(MachineError, match=r"full with 8 of a step's 32 images at a time.*micro_batch to less than 8"):
        step.take_step(training, first_batch(training), stage(training.spec.recipe, training.spec.architecture, 0))


def test_a_training_goes_on_with_the_micro_batch_it_began_with(make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(checkpoint_every=5)
    planned = []

    def small(*_: Any, **__: Any) -> MicroBatch:
        planned.append(None)
        return MicroBatch(8 if len(planned) == 1 else 32, recompute=False)

    monkeypatch.setattr(state, "plan_micro_batch", small)
    told: list[str] = []
    with pytest.raises(StoppedError):
        train(folder, stop=StopAt(300))
    resumed = training_of(folder, told)
    assert resumed.micro_batch.images == 32  # as another device would plan
    state.resume(resumed)
    assert resumed.progress.step
    assert resumed.micro_batch == MicroBatch(8, recompute=False)
    assert told == []  # the same bits


def test_deterministic_asks_torch_for_kernels_that_repeat(make) -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    try:
        training = training_of(make(deterministic=True))
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        now = stage(training.spec.recipe, training.spec.architecture, 0)
        step.take_step(training, first_batch(training), now)  # every operation of a step has such a kernel
    finally:
        torch.use_deterministic_algorithms(False)
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.parametrize(
    ("share", "memory", "wanted", "found"),
    [
        (4096, None, None, MicroBatch(4096, recompute=False)),  # a CPU
        (4096, None, 512, MicroBatch(512, recompute=False)),
        (512, 80_000_000_000, None, MicroBatch(512, recompute=False)),
        (4096, 80_000_000_000, None, MicroBatch(1024, recompute=False)),  # four alike, where three would not be
        (256, 80_000_000_000, 100, MicroBatch(100, recompute=False)),
        (256, 24_000_000_000, 459, MicroBatch(256, recompute=False)),
    ],
)
def test_micro_batch_is_planned_from_memory(
    share: int, memory: int | None, wanted: int | None, found: MicroBatch
) -> None:
    assert (
        plan_micro_batch(zoo.get("efficientnet_b0"), 1000, share, memory=memory, bfloat16=True, wanted=wanted) == found
    )


@pytest.mark.parametrize(
    ("images", "world", "wanted", "ranks"),
    [
        (32, 8, None, 1),
        (31, 8, None, 2),
        (8, 8, None, 4),
        (1, 8, None, 8),
        (512, 1, None, 1),
        (64, 8, 0, 8),
        (4, 8, 2, 2),
    ],
)
def test_ranks_share_norms_where_each_has_few_images(images: int, world: int, wanted: int | None, ranks: int) -> None:
    assert norm_ranks(images, world, wanted) == ranks


def test_norms_over_all_ranks_were_the_default_and_keep_their_key(make) -> None:
    assert make().key == make(norm_ranks=0).key
    assert make().key != make(norm_ranks=1).key


def test_the_largest_network_trains_on_a_small_card_by_computing_twice() -> None:
    b7 = zoo.get("efficientnet_b7")
    planned = plan_micro_batch(b7, 1000, 4096, memory=24_000_000_000, bfloat16=True, wanted=None)
    assert planned.recompute
    assert planned.images >= FEW_IMAGES
    with pytest.raises(ConfigError, match="one image of 600 pixels does not fit into this device's 1 GB"):
        plan_micro_batch(b7, 1000, 4096, memory=1_000_000_000, bfloat16=True, wanted=None)


def test_what_does_not_fit_after_all_is_halved_before_the_first_step_only(
    make, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = training_of(make())
    training.world.device = torch.device("cuda")  # its own memory is never asked: `_fits` is told what to find
    monkeypatch.setattr(module_of_settle, "_fits", lambda training: training.micro_batch.images <= 10)
    settle(training)
    assert training.micro_batch.images == 8
    training.micro_batch_is_settled = True
    monkeypatch.setattr(module_of_settle, "_fits", lambda _training: False)
    with pytest.raises(MachineError, match="began with 8 images at a time"):
        settle(training)
    training = training_of(make(micro_batch=16))
    training.world.device = torch.device("cuda")
    with pytest.raises(ConfigError, match=r"does not hold 16 images at a time; lower recipe\.micro_batch"):
        settle(training)


def test_patience_ends_a_training(make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(epochs=9, patience=2)
    real = loop.evaluate

    def flat(*arguments: Any) -> Any:
        return real(*arguments)._replace(top1=0.1, loss=1.0)

    monkeypatch.setattr(loop, "evaluate", flat)
    train(folder)
    result = folder.result()
    assert result is not None
    assert (result.best_epoch, result.epochs, result.steps) == (1, 3, 99)
    training = Training(
        folder.spec(), folder, About(experiment="f", name="B0", kind=Stage.MEMBER, labels={}, family="")
    )
    told = f"; stopped after 3 of at most {folder.spec().recipe.epochs} epochs, as minival's top-1 rose no more"
    assert _ended(training, result) == told
    kept = result.model_copy(update={"best_epoch": 0, "epochs": training.epochs})
    assert _ended(training, kept) == "; its features alone are kept: no epoch was better"


def test_progressive_training_runs_and_ends_at_the_networks_own_side(make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(epochs=4, stages=2, first_resolution=0.5, first_strength=0.5)
    seen: list[int] = []
    real = loop.take_step

    def note(training: TrainingState, batch: Any, now: Any) -> None:
        seen.append(batch.images.shape[-1])
        real(training, batch, now)

    monkeypatch.setattr(loop, "take_step", note)
    train(folder)
    assert seen == [4] * 66 + [8] * 66
    assert folder.result().notes  # type: ignore[union-attr]


@pytest.mark.parametrize("changes", [{"optimizer": "sgd"}, {"optimizer": "adamw", "learning_rate": 0.01}])
def test_other_optimizers_stop_and_go_on_to_the_bit(make, changes: dict[str, object]) -> None:
    straight = make(**changes, epochs=2, clip_norm=1.0, augment=Recipe().augment.model_copy(update={"mixup": 0.2}))
    train(straight)
    wanted = sha256_file(straight.weights_path)
    for path in ("checkpoints", "metrics.jsonl", "result.json", "model.safetensors"):
        target = straight.path / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(StoppedError):
        train(straight, StopAt(40))
    train(straight)
    assert sha256_file(straight.weights_path) == wanted


@given(st.lists(st.integers(0, 4), min_size=1, max_size=50))
def test_balanced_weights_are_sklearns(labels: list[int]) -> None:
    found = balanced(np.array(labels), 5).numpy()
    there = np.unique(labels)
    assert found[there] == pytest.approx(compute_class_weight("balanced", classes=there, y=labels), rel=1e-6)
    assert found.sum() == pytest.approx(found[there].sum())
    assert found[labels].mean() == pytest.approx(1, rel=1e-6)


def test_classes_are_weighed_in_training_if_the_recipe_says_so(make, monkeypatch: pytest.MonkeyPatch) -> None:
    only = torch.zeros(10).index_fill_(0, torch.tensor([3]), 10.0)
    monkeypatch.setattr(state, "balanced", lambda _labels, _classes: only)
    found = {}
    for balance in (False, True):
        folder = make(balance=balance, epochs=1)
        train(folder)
        dataset, augment = folder.store.datasets / folder.spec().dataset, folder.spec().recipe.augment
        predictions = judge(load_network(folder), dataset, "minival", augment=augment, cache=None)
        found[balance] = float((predictions.found == 3).mean())
    assert found[True] > 0.9 > 0.5 > found[False]


class TestStart:
    def weights(self, path: Path, baseline: Any, classes: int = 10) -> Start:
        network = build(baseline, classes, seed=9)
        safetensors.torch.save_file(network.state_dict(), path)
        return Start(path=str(path), sha256=sha256_file(path))

    def test_weights_are_taken(self, make, tmp_path: Path, baseline) -> None:
        start = self.weights(tmp_path / "w.safetensors", baseline)
        network, given = training_of(make(start)).network, build(baseline, 10, seed=9)
        for one, two in zip(network.parameters(), given.parameters(), strict=True):
            assert torch.equal(one, two)
            assert one.requires_grad
        assert network.training

    @pytest.mark.parametrize(("classes", "new_head"), [(7, False), (10, True)])
    def test_another_dataset_gets_a_new_classifier(
        self, make, tmp_path: Path, baseline, classes: int, new_head: bool
    ) -> None:
        start = self.weights(tmp_path / "w.safetensors", baseline, classes).model_copy(update={"new_head": new_head})
        network, given = training_of(make(start)).network, build(baseline, 10, seed=9)
        assert torch.equal(network.stem.conv.conv.weight, given.stem.conv.conv.weight)  # type: ignore[union-attr]
        assert not torch.equal(network.classifier.weight, given.classifier.weight)
        assert network.classifier.out_features == 10

    def test_the_key_is_of_the_bytes_not_of_the_place(self, make, tmp_path: Path, baseline) -> None:
        start = self.weights(tmp_path / "w.safetensors", baseline)
        shutil.copy(tmp_path / "w.safetensors", tmp_path / "moved.safetensors")
        moved = start.model_copy(update={"path": str(tmp_path / "moved.safetensors")})
        assert make(start).key == make(moved).key != make().key

    @pytest.mark.parametrize("classes", [7, 10])
    def test_grown_weights_are_taken_and_stopped_the_training_goes_on_to_the_bit(
        self, make, tmp_path: Path, baseline, classes: int
    ) -> None:
        start = self.weights(tmp_path / "w.safetensors", baseline, classes).model_copy(update={"grown_from": baseline})
        larger = scale(baseline, (1.5, 1.5, 1.0), name="larger")
        stopped, straight = (make(start, larger, epochs=1, patience=patience) for patience in (0, 1))
        network, given = training_of(stopped).network.eval(), build(baseline, 10, seed=9).eval()
        images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        wanted = given(images) if classes == 10 else torch.zeros(4, 10)
        assert torch.allclose(network(images), wanted, atol=1e-4)
        train(straight)
        with pytest.raises(StoppedError):
            train(stopped, StopAt(60))
        train(stopped)
        assert stopped.trained().steps == straight.trained().steps > 0
        assert sha256_file(stopped.weights_path) == sha256_file(straight.weights_path)

    def test_missing_or_changed_weights_are_refused(self, make, tmp_path: Path, baseline) -> None:
        start = self.weights(tmp_path / "w.safetensors", baseline)
        folder = make(start)
        (tmp_path / "w.safetensors").write_bytes(b"other")
        with pytest.raises(DataError, match="missing, or not the weights"):
            train(folder)
        (tmp_path / "w.safetensors").unlink()
        with pytest.raises(DataError, match="missing, or not the weights"):
            train(folder)


class TestForeignCheckpoints:
    def stopped(self, folder: RunFolder) -> Path:
        with pytest.raises(StoppedError):
            train(folder, StopAt(40))
        return folder.checkpoints / f"step-{checkpoint.steps(folder.checkpoints)[0]}"

    def change(self, folder: Path, **values: object) -> None:
        weights, kept = checkpoint.load(folder)
        shutil.rmtree(folder)
        checkpoint.save(folder.parent, int(folder.name.removeprefix("step-")), weights, kept | values)

    @pytest.mark.parametrize("values", [{"run": "0123456789abcdef"}, {"version": 1}])
    def test_of_another_run_or_version_is_refused(self, make, values: dict[str, object]) -> None:
        folder = make()
        self.change(self.stopped(folder), **values)
        with pytest.raises(DataError, match="of another run or of another version of effnet; remove"):
            train(folder)

    def test_of_another_network_is_refused(self, make) -> None:
        folder = make()
        newest = self.stopped(folder)
        _, kept = checkpoint.load(newest)
        self.change(newest, optimizer={name: slot[:-1] for name, slot in kept["optimizer"].items()})
        with pytest.raises(DataError, match="does not fit this run"):
            train(folder)

    def test_with_other_threads_is_used_and_told(self, make) -> None:
        folder = make()
        newest = self.stopped(folder)
        _, kept = checkpoint.load(newest)
        self.change(newest, environment=kept["environment"] | {"threads": "7"})
        told: list[str] = []
        loop.train(folder, started=time.time(), stop=Stop(), warn=told.append)
        assert len(told) == 1
        assert "threads 7 -> 1: the weights will not be the same to the bit" in told[0]


def test_the_journal_tells_where_the_time_went(make) -> None:
    folder = make(epochs=1)
    train(folder)
    (line,) = read_journal(folder.metrics_path)[0]
    assert line["images_per_second"] > 0
    assert 0 <= line["data_wait"] <= 1
    assert 0 < line["cpu_cores_used"] <= 2 * (os.cpu_count() or 1)
    assert line["memory_bytes"] > 1e7
