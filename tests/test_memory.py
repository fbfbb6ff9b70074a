"""The memory of a training: the formula against what autograd really keeps, and against published batch sizes."""

from __future__ import annotations

import subprocess
import sys
import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.memory import CLASSES, saved_bytes
from effnet.arch import zoo
from effnet.arch.cost import count
from effnet.arch.spec import Architecture
from effnet.config import Recipe
from effnet.memory import ACTIVATION_BYTES, _forward_bytes, largest_micro_batch, plan_micro_batch, training_bytes
from effnet.models.build import build
from effnet.train.optim import Optimizer
from effnet.train.teacher import TeacherNetwork

GB = 10**9
# The batches of timm's results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv, tf_efficientnet_b0 to b7, 24 GiB.
PUBLISHED = {"b0": 384, "b1": 256, "b2": 192, "b3": 128, "b4": 64, "b5": 32, "b6": 16, "b7": 8}


def check(name: str, *, bfloat16: bool = True) -> None:
    arch = zoo.get(name)
    each = saved_bytes(arch, 3, bfloat16=bfloat16) - saved_bytes(arch, 2, bfloat16=bfloat16)
    pixels = 15 * arch.resolution**2
    formula = (
        training_bytes(arch, CLASSES, 3, bfloat16=bfloat16) - training_bytes(arch, CLASSES, 2, bfloat16=bfloat16)
    ) - pixels
    assert formula == pytest.approx(each, rel=0.02)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b1", "efficientnet_b2"])
def test_formula_is_what_autograd_keeps(name: str) -> None:
    check(name)


@pytest.mark.parametrize(("name", "most"), [("efficientnet_v2_s", 1.06), ("mobilenet_v4_conv_small", 1.4)])
def test_formula_errs_to_the_safe_side_with_modern_blocks(name: str, most: float) -> None:
    arch = zoo.get(name)
    kept = saved_bytes(arch, 3) - saved_bytes(arch, 2)
    formula = training_bytes(arch, CLASSES, 3) - training_bytes(arch, CLASSES, 2) - 15 * arch.resolution**2
    assert kept <= formula <= most * kept


def test_formula_is_what_autograd_keeps_in_float32() -> None:
    check("efficientnet_b0", bfloat16=False)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3, 8))
def test_formula_is_what_autograd_keeps_of_larger_members(number: int) -> None:
    check(f"efficientnet_b{number}")


def test_weights_take_what_training_lays_out_for_them() -> None:
    network = build(zoo.get("efficientnet_b0"), CLASSES, seed=0)
    optimizer = Optimizer(network, Recipe())
    laid_out = [*network.parameters(), *optimizer.average.parameters(), *optimizer.state_dict().values()]  # type: ignore[union-attr]
    params = count(network.architecture, CLASSES).params
    gradients = 4 * params
    casts = 3 * saved_bytes(network.architecture, 2) - 2 * saved_bytes(network.architecture, 3)
    wanted = sum(tensor.numel() * tensor.element_size() for tensor in laid_out) + gradients + casts
    assert training_bytes(network.architecture, CLASSES, 0) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize(("member", "batch"), PUBLISHED.items())
def test_published_batches_fit_a_card_of_24_gib(member: str, batch: int) -> None:
    fits = largest_micro_batch(zoo.get(f"efficientnet_{member}"), CLASSES, 24 << 30)
    assert batch <= fits < 2 * batch  # the next power of two is not in the file


def test_what_fits_is_the_largest_that_does() -> None:
    arch = zoo.get("efficientnet_b4")
    fits = largest_micro_batch(arch, CLASSES, 80 * GB)
    assert training_bytes(arch, CLASSES, fits) <= 70 * GB < training_bytes(arch, CLASSES, fits + 1)
    assert largest_micro_batch(arch, CLASSES, 80 * GB, bfloat16=False) == pytest.approx(fits / 2, abs=2)
    assert largest_micro_batch(arch, CLASSES, GB // 4) == 0


class Living(TorchDispatchMode):
    """Counts the bytes of the tensors that live at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.most, self._known = 0, 0, set[int]()

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple) else (found,):
            if isinstance(tensor, torch.Tensor) and tensor._base is None and id(tensor) not in self._known:
                size = tensor.numel() * tensor.element_size()
                self.now += size
                self._known.add(id(tensor))
                weakref.finalize(tensor, self._gone, id(tensor), size)
        self.most = max(self.most, self.now)
        return found

    def _gone(self, name: int, size: int) -> None:
        self.now -= size
        self._known.discard(name)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b2", "resnet50", "mobilenet_v2"])
def test_a_teacher_takes_no_more_than_is_planned(name: str) -> None:
    arch = zoo.get(name).model_copy(update={"resolution": 128})
    images = torch.randn(2, 3, 96, 96)
    asked = TeacherNetwork(build(arch, CLASSES, seed=0), zoo.get("efficientnet_lite0"))
    with Living() as living:
        asked(images)
    planned = 2 * _forward_bytes(arch, 2 * ACTIVATION_BYTES)
    assert planned / 4 < living.most <= planned


def test_a_teachers_weights_and_its_forward_pass_are_planned() -> None:
    b0, b5 = zoo.get("efficientnet_b0"), zoo.get("efficientnet_b5")

    def more(student: Architecture, teacher: Architecture, images: int) -> int:
        alone = training_bytes(student, CLASSES, images)
        return training_bytes(student, CLASSES, images, teacher=teacher) - alone

    assert more(b0, b5, 0) == 4 * count(b5, CLASSES).params
    assert more(b5, b0, 8) == 4 * count(b0, CLASSES).params  # its forward pass is done before the other begins
    assert more(b0, b5, 8) > more(b0, b5, 0)
    for memory in (16 * GB, 80 * GB):
        fits = largest_micro_batch(b0, CLASSES, memory, teacher=b5)
        assert training_bytes(b0, CLASSES, fits, teacher=b5) <= 7 / 8 * memory
        assert fits < largest_micro_batch(b0, CLASSES, memory)
        planned = plan_micro_batch(b0, CLASSES, 4096, memory=memory, bfloat16=True, wanted=None, teacher=b5)
        assert 0 < planned.images <= fits


def test_memory_needs_no_torch() -> None:
    program = "import sys, effnet.memory; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
