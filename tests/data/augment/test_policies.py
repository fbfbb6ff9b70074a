"""Policies over a batch: drawn as stated, sample by sample, whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from effnet.config import Augment, Recipe
from effnet.data.augment import codes, pillow_ops, policies
from effnet.data.augment.policies import (
    POLICIES,
    RAND_OPS,
    augment_batch,
    auto_augment,
    cutmix,
    erase,
    mix_batch,
    mixup,
    rand_augment,
    value_of,
)

RUNS = {
    "v0": lambda images, samples, epoch=0: auto_augment(images, samples, 1, epoch, "v0"),
    "imagenet": lambda images, samples, epoch=0: auto_augment(images, samples, 1, epoch, "imagenet"),
    "rand": lambda images, samples, epoch=0: rand_augment(images, samples, 1, epoch),
    "erase": lambda images, samples, epoch=0: erase(images, samples, 1, epoch, probability=0.9),
}


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(0, 256, (40, 3, 8, 8), generator=generator).float()
    return torch.nn.functional.interpolate(small, 32, mode="bilinear").to(torch.uint8)


@pytest.mark.parametrize("name", RUNS)
def test_a_samples_result_does_not_depend_on_its_batch(name: str, images: torch.Tensor) -> None:
    run, samples = RUNS[name], np.arange(100, 140)
    whole = run(images, samples)
    order = np.random.default_rng(0).permutation(40)
    assert torch.equal(run(images[order], samples[order]), whole[order])
    assert torch.equal(torch.cat([run(images[:7], samples[:7]), run(images[7:], samples[7:])]), whole)
    assert not torch.equal(run(images, samples, 1), whole)
    assert whole.shape == images.shape
    assert whole.dtype == torch.uint8
    assert (whole != images).flatten(1).any(1).float().mean() > 0.5


@pytest.mark.parametrize("name", ["v0", "imagenet"])
def test_policies_are_drawn_as_stated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[object, ...]] = []

    def note(images: torch.Tensor, layers: list[tuple[np.ndarray, np.ndarray]]) -> torch.Tensor:
        drawn.extend(tuple(zip(ops, values, strict=True)) for ops, values in layers)
        return images

    monkeypatch.setattr(policies, "_apply", note)
    number = 20_000
    auto_augment(torch.zeros(number, 3, 1, 1, dtype=torch.uint8), np.arange(number), 0, 0, name)
    for step in range(2):
        expected: dict[str, float] = {}
        for pair in POLICIES[name]:
            expected[pair[step].op] = expected.get(pair[step].op, 0) + pair[step].probability / len(POLICIES[name])
        for op, share in expected.items():
            found = sum(one == op for one, _ in drawn[step]) / number
            assert abs(found - share) < 4 * (share * (1 - share) / number) ** 0.5 + 1e-9, op
        signs = [value > 0 for op, value in drawn[step] if op == "Rotate" and value]
        assert 0.45 < np.mean(signs) < 0.55


def test_tables_have_25_pairs_and_known_operations() -> None:
    for pairs in POLICIES.values():
        assert len(pairs) == 25
        assert all(len(pair) == 2 for pair in pairs)
        assert all(
            step.op in codes.OPS and 0 <= step.probability <= 1 and 0 <= step.magnitude <= 10
            for pair in pairs
            for step in pair
        )
    assert len(RAND_OPS) == 14


def test_values_grow_with_the_magnitude() -> None:
    one = np.ones(1)
    assert value_of("v0", "Rotate", 9, 224, -one)[0] == -27
    assert value_of("v0", "ShearX", 10, 224, one)[0] == pytest.approx(0.3)
    assert value_of("v0", "TranslateY", 9, 600, one)[0] == 225
    assert value_of("v0", "TranslateY", 9, 224, -one)[0] == -168  # the official code's 225 would leave nothing of it
    assert value_of("v0", "Posterize", 6, 224, one)[0] == 2
    assert value_of("imagenet", "Posterize", 6, 224, one)[0] == 6
    assert value_of("v0", "Color", 0, 224, one)[0] == pytest.approx(0.1)
    assert value_of("v0", "Solarize", 8, 224, one)[0] == 204
    for op in RAND_OPS:  # no magnitude: no change
        neutral = {"Solarize": 256, "Posterize": 8, "Color": 1, "Contrast": 1, "Brightness": 1, "Sharpness": 1}
        assert value_of("rand", op, 0, 224, one)[0] == neutral.get(op, 0)


@given(
    policy_op=st.sampled_from([("rand", op) for op in RAND_OPS])
    | st.sampled_from(sorted({(name, step.op) for name, pairs in POLICIES.items() for pair in pairs for step in pair})),
    magnitude=st.floats(0, 30),
    sign=st.sampled_from([-1.0, 1.0]),
    side=st.integers(8, 48),
    seed=st.integers(0, 2**16),
)
@example(("rand", "Brightness"), 15.0, -1.0, 32, 0)  # was black
@example(("rand", "Posterize"), 30.0, 1.0, 32, 0)
@example(("rand", "TranslateX"), 30.0, 1.0, 32, 0)
@example(("v0", "TranslateY"), 9.0, 1.0, 32, 0)
@example(("v0", "Posterize"), 2.0, 1.0, 32, 0)
@settings(max_examples=300, deadline=None)
def test_no_operation_turns_an_image_into_one_colour(
    policy_op: tuple[str, str], magnitude: float, sign: float, side: int, seed: int
) -> None:
    policy, op = policy_op
    if policy != "rand":
        magnitude = min(magnitude, 10.0)  # theirs go no further
    value = value_of(policy, op, magnitude, side, np.array([sign]))
    noise = torch.randint(0, 256, (1, 3, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    here = pillow_ops.apply(noise, [[(op, float(value[0]))]])
    for channel in here[0]:
        assert channel.min() < channel.max()


def test_modern_trains_on_images_to_its_last_stage(images: torch.Tensor) -> None:
    recipe = Recipe.model_validate("modern")
    many = images.repeat(100, 1, 1, 1)
    changed = augment_batch(many, recipe.augment, np.arange(len(many)), 0, 0)
    blank = (changed.flatten(1).amax(1) == changed.flatten(1).amin(1)).float().mean()
    assert blank < 0.005  # two layers can do it between them: a faint image that keeps two bits. Once 6.6 %
    assert (changed.flatten(1).amax(1) == 0).float().mean() < 0.005


def test_erasing_never_and_always(images: torch.Tensor) -> None:
    samples = np.arange(40)
    assert torch.equal(erase(images, samples, 0, 0, probability=0), images)
    share = (erase(images * 0, samples, 0, 0, probability=1) == 128)[:, 0].flatten(1).float().mean(1)
    assert share.min() > 0.01
    assert share.max() < 0.36


def test_a_config_says_what_is_done(images: torch.Tensor) -> None:
    samples, labels = np.arange(40), torch.arange(40)
    assert torch.equal(augment_batch(images, Augment(), samples, 1, 0), images)
    for policy, name in (("autoaugment_v0", "v0"), ("autoaugment_imagenet", "imagenet"), ("randaugment", "rand")):
        assert torch.equal(augment_batch(images, Augment(policy=policy), samples, 1, 0), RUNS[name](images, samples))
    assert torch.equal(augment_batch(images, Augment(erase=0.9), samples, 1, 0), RUNS["erase"](images, samples))
    plain = mix_batch(images.float(), labels, Augment(), 1, 0)
    assert plain.other_labels is labels
    both = [mix_batch(images.float(), labels, Augment(mixup=0.2, cutmix=1), 1, step).images for step in range(40)]
    for alone in (Augment(mixup=0.2), Augment(cutmix=1)):
        share = np.mean(
            [torch.equal(mix_batch(images.float(), labels, alone, 1, s).images, both[s]) for s in range(40)]
        )
        assert 0.2 < share < 0.8


@pytest.mark.parametrize("function", [mixup, cutmix])
def test_mixed_labels_match_mixed_pixels(function) -> None:
    # Each image is its label everywhere, so a mixed image's mean says what it is made of.
    labels = torch.arange(64)
    images = labels.float()[:, None, None, None].expand(-1, 3, 20, 20)
    mixed = function(images, labels, 3, 5, alpha=0.5)
    wanted = mixed.share * labels + (1 - mixed.share) * mixed.other_labels
    assert torch.allclose(mixed.images.mean((1, 2, 3)), wanted, atol=1e-3)
    assert 0 <= float(mixed.share.min()) <= float(mixed.share.max()) <= 1
    assert sorted(mixed.other_labels.tolist()) == labels.tolist()
    same, other = function(images, labels, 3, 5, alpha=0.5), function(images, labels, 3, 6, alpha=0.5)
    assert torch.equal(same.images, mixed.images)
    assert not torch.equal(other.images, mixed.images)
