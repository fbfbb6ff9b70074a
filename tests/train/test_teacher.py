"""A training that learns from a teacher: its loss, what the teacher sees, and that it goes on to the bit."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from effnet.arch.scaling import Multipliers, scale
from effnet.arch.spec import Architecture
from effnet.config import Augment, FamilyConfig, Recipe
from effnet.data.shards.manifest import Manifest
from effnet.errors import DataError, StoppedError
from effnet.evaluation.run import judge, load_network
from effnet.models.build import Network, Noise, build
from effnet.models.weights import save_weights
from effnet.runs import RunFolder, RunSpec, Teacher
from effnet.store import Store, sha256_file
from effnet.train import loop, step
from effnet.train.distributed import World
from effnet.train.passes import Inputs, Passes
from effnet.train.schedule import stage
from effnet.train.settle import settle
from effnet.train.state import AbandonedError, prepare
from effnet.train.teacher import TeacherNetwork, soft_losses
from tests.tiny import StopAt, store_beside
from tests.train.test_loop import same_course, train
from tests.train.test_ranks import assert_close, finish, start

CLASSES = 10


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def large(baseline: Architecture) -> Architecture:
    """A larger network, of another side, that wants its pixels normalised otherwise."""
    arch = scale(baseline, Multipliers(width=1.5, resolution=1.5), resolution_multiple=2, name="large")
    return arch.model_copy(update={"pixel_mean": (127.0,), "pixel_std": (128.0,)})


@pytest.fixture(scope="module")
def taught(
    tmp_path_factory: pytest.TempPathFactory, dataset_store: Store, large: Architecture, config, manifest: Manifest
) -> RunFolder:
    """The teacher, trained, in a store with the dataset."""
    store = store_beside(dataset_store, tmp_path_factory.mktemp("teacher") / "store")
    spec = RunSpec(architecture=large, dataset=manifest.digest, num_classes=CLASSES, recipe=short(config))
    folder = RunFolder.create(store, spec)
    train(folder)
    return folder


def short(config: FamilyConfig, **changes: object) -> Recipe:
    return config.recipe.model_copy(update={"epochs": 1, **changes})


@pytest.fixture(scope="module")
def student(
    tmp_path_factory: pytest.TempPathFactory, taught: RunFolder, baseline: Architecture, config: FamilyConfig
) -> Callable[..., RunFolder]:
    """Make a run that learns from the teacher, in a store of its own."""

    def make(**changes: object) -> RunFolder:
        store = store_beside(taught.store, tmp_path_factory.mktemp("student") / "store")
        shutil.copytree(taught.path, store.runs / taught.key)
        recipe = short(config, **({"teacher": taught.key, "teacher_weight": 0.7, "temperature": 2.0} | changes))
        spec = taught.spec().model_copy(
            update={
                "architecture": baseline,
                "recipe": recipe,
                "teacher": Teacher(run=taught.key, architecture=taught.spec().architecture),
            }
        )
        return RunFolder.create(store, spec)

    return make


@pytest.fixture(scope="module")
def finished(student: Callable[..., RunFolder]) -> RunFolder:
    """A run that learnt from the teacher, undisturbed."""
    folder = student()
    train(folder)
    return folder


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def test_the_soft_loss_and_its_gradient_are_the_formulas() -> None:
    """T² · KL by its definition in numpy; its gradient is T · (student - teacher) of the softened probabilities."""
    random = torch.Generator().manual_seed(0)
    logits, teacher = (3 * torch.randn(6, CLASSES, generator=random, dtype=torch.float64) for _ in range(2))
    for temperature in (1.0, 2.5):
        logits.grad = None
        losses = soft_losses(logits.requires_grad_(), teacher, temperature)
        own, wanted = (softmax(each.detach().numpy() / temperature) for each in (logits, teacher))
        by_hand = temperature**2 * (wanted * (np.log(wanted) - np.log(own))).sum(1)
        assert np.allclose(losses.detach().numpy(), by_hand)
        losses.sum().backward()
        assert logits.grad is not None
        assert np.allclose(logits.grad.numpy(), temperature * (own - wanted))
    assert torch.equal(soft_losses(teacher, teacher, 3.0), torch.zeros(6, dtype=torch.float64))


@pytest.mark.parametrize("weighed", [False, True])
def test_a_pass_has_the_gradient_of_both_losses(baseline: Architecture, large: Architecture, weighed: bool) -> None:
    """Against the formula by hand at the classifier's bias, whose gradient is the sum of those of the logits."""
    random = torch.Generator().manual_seed(1)
    network, teacher = build(baseline, CLASSES, seed=0).train(), build(large, CLASSES, seed=1)
    teacher.classifier.weight.data *= 30  # or all its answers would be alike
    recipe = Recipe(batch_size=8, label_smoothing=0.1, teacher_weight=0.3, temperature=2.0)
    weights = torch.rand(CLASSES, generator=random) if weighed else None
    images = torch.randn(4, 3, 8, 8, generator=random)
    noise = Noise(torch.rand(4, len(network.blocks), generator=random), torch.rand(4, 32, generator=random))
    labels, others, share = torch.tensor([1, 2, 3, 4]), torch.tensor([5, 2, 7, 0]), torch.tensor([0.9, 0.5, 0.2, 1.0])
    inputs = Inputs(images, labels, noise, others, share)
    seen = TeacherNetwork(teacher, baseline)
    passes = Passes(network, recipe, bfloat16=False, class_weights=weights, teacher=seen)
    found = passes(inputs)

    with torch.no_grad():
        logits, taught = network(images, noise).double().numpy(), seen(images).double().numpy()
    of = np.ones(CLASSES) if weights is None else weights.double().numpy()
    mix = share.double().numpy()[:, None]
    one, two = (0.9 * np.eye(CLASSES)[each.numpy()] + 0.1 / CLASSES for each in (labels, others))
    w_one, w_two = (of[each.numpy()][:, None] for each in (labels, others))
    hard = mix * w_one * (softmax(logits) - one) + (1 - mix) * w_two * (softmax(logits) - two)
    soft = 2.0 * (softmax(logits / 2.0) - softmax(taught / 2.0)) * (mix * w_one + (1 - mix) * w_two)
    gradient = (0.7 * hard + 0.3 * soft).sum(0) / recipe.batch_size
    assert network.classifier.bias.grad is not None
    assert np.allclose(network.classifier.bias.grad.numpy(), gradient, atol=1e-6)

    log = np.log(softmax(logits))
    kl = (softmax(taught / 2) * (np.log(softmax(taught / 2)) - np.log(softmax(logits / 2)))).sum(1)
    crosses = [mix[:, 0] * -(w_one * one * log).sum(1), (1 - mix[:, 0]) * -(w_two * two * log).sum(1)]
    total = 0.7 * sum(crosses) + 0.3 * 4 * kl * (mix * w_one + (1 - mix) * w_two)[:, 0]
    assert float(found) == pytest.approx(total.sum(), rel=1e-5)


def test_the_teacher_sees_the_students_view_at_its_own_side_and_scale(
    baseline: Architecture, large: Architecture
) -> None:
    teacher = build(large, CLASSES, seed=0).eval()
    pixels = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (baseline.pixel_mean, baseline.pixel_std))
    images = (pixels - mean) / std
    assert large.resolution == 12
    at_its_side = functional.interpolate((pixels - 127) / 128, size=(12, 12), mode="bicubic", antialias=True)
    with torch.no_grad():
        wanted = teacher(at_its_side)
    assert torch.allclose(TeacherNetwork(teacher, baseline)(images), wanted, atol=1e-4)
    order = (3, 0, 9)
    assert torch.equal(
        TeacherNetwork(teacher, baseline, order)(images), TeacherNetwork(teacher, baseline)(images)[:, list(order)]
    )
    same = large.model_copy(update={"name": "student"})
    with torch.no_grad():  # nothing is done to images that are as it wants them
        assert torch.equal(TeacherNetwork(teacher, same)(at_its_side), wanted)


def test_mixed_images_are_the_teachers_too_and_nothing_of_it_changes(student: Callable[..., RunFolder]) -> None:
    training = prepare(student(augment=Augment(mixup=0.5, crop_padding=0)), World(), time.time(), print)
    settle(training)
    teacher = training.teacher
    assert teacher is not None
    assert not teacher.network.training
    before = {name: value.clone() for name, value in teacher.network.state_dict().items()}
    seen: list[torch.Tensor] = []
    real = training.network.forward
    training.network.forward = lambda images, noise: (seen.append(images), real(images, noise))[1]  # type: ignore[method-assign]
    asked: list[torch.Tensor] = []
    training.trial._teacher = lambda images: (asked.append(images), teacher(images))[1]  # type: ignore[assignment]
    batch = next(training.train_loader.epoch(0))
    step.take_step(training, batch, stage(training.spec.recipe, training.spec.architecture, 0))
    assert len(seen) == len(asked) == 1
    assert seen[0] is asked[0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.network.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.network.parameters())
    assert teacher.network not in [*training.network.modules()]


def test_micro_batches_have_the_gradient_of_the_batch(student: Callable[..., RunFolder]) -> None:
    sums = []
    for micro_batch in (None, 8):
        folder = student(micro_batch=micro_batch, norms="frozen")
        training = prepare(folder, World(), time.time(), print)
        settle(training)
        for module in training.network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        batch = next(training.train_loader.epoch(0))
        step.take_step(training, batch, stage(training.spec.recipe, training.spec.architecture, 0))
        assert training.parts == (4 if micro_batch else 1)
        sums.append((float(training.loss_sum), training.network.classifier.weight.detach().clone()))
    assert sums[0][0] == pytest.approx(sums[1][0], rel=1e-5)
    assert torch.allclose(sums[0][1], sums[1][1], atol=1e-5)


@pytest.mark.parametrize("looks", [2, 40, 150])
def test_stopped_anywhere_it_goes_on_to_the_bit(
    finished: RunFolder, student: Callable[..., RunFolder], looks: int
) -> None:
    folder = student()
    with pytest.raises(StoppedError, match="asked to stop"):
        train(folder, StopAt(looks))
    train(folder)
    assert same_course(finished, folder)


def test_a_request_to_stop_is_seen_in_the_teachers_blocks(student: Callable[..., RunFolder]) -> None:
    training = prepare(student(), World(), time.time(), print)
    loop._look_often(training, StopAt(0))
    assert training.teacher is not None
    with pytest.raises(AbandonedError):
        training.teacher(torch.zeros(1, 3, 8, 8))


def test_with_all_of_the_loss_the_teachers_word_alone_counts(
    student: Callable[..., RunFolder], taught: RunFolder
) -> None:
    """A teacher that says 7 whatever it sees."""
    folder = student(teacher_weight=1.0, temperature=1.0)
    network = build(taught.spec().architecture, CLASSES, seed=9)
    torch.nn.init.zeros_(network.classifier.weight)
    network.classifier.bias.data = 5.0 * functional.one_hot(torch.tensor(7), CLASSES)
    replace(folder.store, taught, network)
    train(folder)
    judged = judge(
        load_network(folder),
        folder.store.datasets / folder.spec().dataset,
        "minival",
        augment=folder.spec().recipe.augment,
        cache=None,
    )
    assert set(judged.found.tolist()) == {7}


def replace(store: Store, taught: RunFolder, network: Network) -> str:
    """Give the teacher in a store other weights, as another training of it would; return their checksum."""
    path = store.runs / taught.key
    save_weights(path / "model.safetensors", network)
    sha256 = sha256_file(path / "model.safetensors")
    (path / "result.json").write_text(taught.trained().model_copy(update={"weights_sha256": sha256}).model_dump_json())
    return sha256


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns(student: Callable[..., RunFolder]) -> None:
    one, two = student(batch_size=33), student(batch_size=33)
    finish(start(one, 1))
    finish(start(two, 2))
    assert_close(one, two)
    assert two.trained().environment["ranks"] == "2"


def test_a_teacher_that_is_gone_or_another_is_told(student: Callable[..., RunFolder], taught: RunFolder) -> None:
    folder = student()
    path = folder.store.runs / taught.key / "model.safetensors"
    with path.open("ab") as file:
        file.write(b"more")
    for _ in range(2):
        with pytest.raises(DataError, match=r"missing, or not the weights of the teacher that .*config\.json names"):
            train(folder)
        path.unlink(missing_ok=True)


def test_a_teacher_that_was_trained_anew_meanwhile_is_told(
    student: Callable[..., RunFolder], taught: RunFolder
) -> None:
    folder = student()
    with pytest.raises(StoppedError):
        train(folder, StopAt(150))
    sha256 = replace(folder.store, taught, build(taught.spec().architecture, CLASSES, seed=9))
    told: list[str] = []
    train(folder, warn=told.append)
    assert f"with teacher {taught.trained().weights_sha256[:16]} -> {sha256[:16]}" in told[0]
