"""A grown network computes what the smaller one does; every tensor comes from it, or is left silent."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from effnet.arch import zoo
from effnet.arch.growth import same_weights
from effnet.arch.scaling import scale
from effnet.arch.spec import Architecture, Head, Stage, Stem
from effnet.errors import ConfigError
from effnet.models import grow as module
from effnet.models.build import Network, build
from effnet.models.grow import grow, grown_network

SIDE, CLASSES = 40, 5


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def alive(arch: Architecture, seed: int = 0) -> Network:
    """Return a network whose norms are not at their beginning, as after a training."""
    network = build(arch, CLASSES, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for each in network.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.uniform_(each.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(each.bias, 0, 0.2, generator=generator)
            each.running_mean.normal_(0, 0.3, generator=generator)  # type: ignore[union-attr]
            each.running_var.uniform_(0.5, 1.5, generator=generator)  # type: ignore[union-attr]
    return network.eval()


def logits(network: Network) -> Tensor:
    images = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = network(images)
    assert (found[0] - found[1]).abs().max() > 1e-3 * found.abs().max()  # it looks at the images
    return found / max(1.0, float(found.abs().max()))


def same_function(small: Architecture, large: Architecture, seed: int = 0) -> Network:
    """Check that a grown network's logits are the smaller one's; return it."""
    network = alive(small)
    grown = grown_network(network, large, seed)
    assert torch.allclose(logits(grown), logits(network), rtol=0, atol=1e-4)
    return grown


def of_side(name: str) -> Architecture:
    return zoo.get(name).model_copy(update={"resolution": SIDE})


def tiny(**changes: object) -> Architecture:
    """Return a small network with what is hard: equal widths over an edge, stages of one block, no expansion."""
    stages = (
        Stage(channels=8, repeats=1, se_ratio=0.25),  # from 8: its first block passes its input
        Stage(channels=8, repeats=2, stride=2, kernel=5, expand_ratio=3, se_ratio=0.25),
        Stage(channels=12, repeats=1, expand_ratio=2, se_ratio=0.5),  # one block without a residual connection
        Stage(channels=20, repeats=3, stride=2, expand_ratio=4),
    )
    given: dict[str, object] = {
        "name": "tiny",
        "resolution": SIDE,
        "stem": Stem(channels=8),
        "stages": stages,
        "head": Head(channels=32),
        "channel_multiple": 2,
        "norm_momentum": 0.1,
    }
    return Architecture.model_validate(given | changes)


@pytest.mark.parametrize(
    "name",
    ["efficientnet_b0.timm", "efficientnet_lite0", "mobilenet_v2", "mobilenet_v1"],
)
@pytest.mark.parametrize("multipliers", [(1.0, 1.25, 1.0), (1.4, 1.0, 1.0), (1.3, 1.6, 1.0)])
def test_a_grown_network_computes_what_the_smaller_one_does(name: str, multipliers: tuple[float, float, float]) -> None:
    small = of_side(name)
    same_function(small, scale(small, multipliers, name="large"))


def test_so_does_a_resnet() -> None:
    stages = (
        Stage(block="bottleneck", channels=32, repeats=2, expand_ratio=4),
        Stage(block="bottleneck", channels=64, repeats=1, stride=2, expand_ratio=4),
    )
    small = tiny(stem=Stem(channels=16, pool=True), stages=stages, head=Head(), activation="relu")
    same_function(small, scale(small, (2.0, 1.5, 1.0), name="large"))


def modern(**changes: object) -> Architecture:
    """Return a small network with fused blocks, a plain convolution, each kind of inverted bottleneck, and pooling."""
    uib = {"block": "uib", "expand_ratio": 2}
    stages = (
        Stage(block="fused_mbconv", channels=8, repeats=1),  # from 8: a convolution with a residual connection
        Stage(block="fused_mbconv", channels=12, repeats=2, stride=2, expand_ratio=3),
        Stage(block="fused_mbconv", channels=16, repeats=1, kernel=1, skip=False, scale_depth=False),
        Stage(channels=16, repeats=2, stride=2, start_kernel=5, **uib),
        Stage(channels=16, repeats=1, start_kernel=3, kernel=0, **uib),
        Stage(channels=16, repeats=1, kernel=0, **uib),
        Stage(channels=20, repeats=1, kernel=5, **uib),
    )
    return tiny(stages=stages, head=Head(channels=32, pool_first=True), depth_rounding="nearest", **changes)


@pytest.mark.parametrize("activation", ["silu", "relu"])
@pytest.mark.parametrize("multipliers", [(1.0, 1.25, 1.0), (2.0, 1.0, 1.0), (1.6, 1.6, 1.0)])
def test_so_does_one_of_modern_blocks(multipliers: tuple[float, float, float], activation: str) -> None:
    small = modern(activation=activation)
    same_function(small, scale(small, multipliers, name="large"))


@settings(max_examples=25, deadline=None)
@given(
    depth=st.floats(1, 4),
    width=st.floats(1, 5),
    seed=st.integers(0, 2**32 - 1),
    base=st.sampled_from(["input", "expanded"]),
    padding=st.sampled_from(["same", "symmetric"]),
    activation=st.sampled_from(["silu", "relu6"]),
)
def test_whatever_the_multipliers(
    depth: float, width: float, seed: int, base: str, padding: str, activation: str
) -> None:
    small = tiny(se_base=base, padding=padding, activation=activation)
    large = scale(small, (depth, width, 1.0), name="large")
    grown = same_function(small, large, seed)
    assert {name: tensor.shape for name, tensor in grown.state_dict().items()} == {
        name: tensor.shape for name, tensor in build(large, CLASSES).state_dict().items()
    }


def test_every_tensor_is_made_of_the_smaller_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn anew shows as a hole: nothing but blocks that can copy none, which are silent."""

    def hollow(arch: Architecture, classes: int, *, seed: int) -> Network:
        network = build(arch, classes, seed=seed)
        network.load_state_dict({name: torch.full_like(each, -7) for name, each in network.state_dict().items()})
        return network

    small = tiny()
    large = scale(small, (2.0, 1.5, 1.0), name="large")
    monkeypatch.setattr(module, "build", hollow)
    grown = grow(alive(small).state_dict(), small, large, 0)
    drawn = {name for name, each in grown.items() if bool((each == -7).all())}
    stages = [block.stage for block in large.blocks()]
    (block,) = [place for place, stage in enumerate(stages) if stage == 2][1:]  # its stage had one, of other channels
    assert {name.split(".")[1] for name in drawn} == {str(block)}
    last = f"blocks.{block}.branch.project.norm"
    assert {f"{last}.weight", f"{last}.bias"} & drawn == set()
    assert not grown[f"{last}.weight"].any()
    assert not grown[f"{last}.bias"].any()


def test_new_blocks_copy_the_one_before_them() -> None:
    small = tiny()
    grown = grow(alive(small).state_dict(), small, scale(small, (4 / 3, 1.0, 1.0), name="large"), 0)
    places = [block.stage for block in scale(small, (4 / 3, 1.0, 1.0)).blocks()]
    last = len(places) - 1
    assert places.count(3) == 4
    before, added = (grown[f"blocks.{place}.branch.depthwise.conv.weight"] for place in (last - 1, last))
    assert torch.equal(before, added)
    assert before.data_ptr() != added.data_ptr()


def test_copies_differ_in_what_reads_them_and_sum_to_the_old_weights() -> None:
    small = tiny()
    large = scale(small, (1.0, 2.0, 1.0), name="large")
    state = alive(small).state_dict()
    grown = grow(state, small, large, 3)
    old, new = state["classifier.weight"], grown["classifier.weight"]
    copied = [int((new[:, channel, None] / old).std(0).argmin()) for channel in range(new.shape[1])]
    sums = torch.zeros_like(old).index_add_(1, torch.tensor(copied), new)
    assert torch.allclose(sums, old, atol=1e-6)
    assert sorted(copied) == sorted([*range(32), *range(32)])  # each channel is there twice
    for channel in range(32):
        one, other = (new[:, place] for place in range(64) if copied[place] == channel)
        assert not torch.allclose(one, other, rtol=1e-3)
        assert torch.allclose(one, other, rtol=0.5)


def test_it_is_a_function_of_the_seed() -> None:
    small = tiny()
    large = scale(small, (2.0, 1.5, 1.0), name="large")
    state = alive(small).state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    first, second, other = (grow(state, small, large, seed) for seed in (5, 5, 6))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert all(torch.equal(state[name], before[name]) for name in state)  # what is given is left as it is


def test_every_copy_learns_something_else() -> None:
    """After one step the copies of a channel are no longer equal, where all readers are exact halves they stay so."""
    small = tiny()
    network = grown_network(alive(small), scale(small, (1.0, 2.0, 1.0), name="large"), 0)
    images = torch.randn(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    nn.functional.cross_entropy(network(images), torch.arange(8) % CLASSES).backward()
    kernel = network.get_submodule("stem.conv.conv").weight
    assert kernel.grad is not None
    pairs = [(a, b) for a in range(16) for b in range(a) if torch.equal(kernel[a], kernel[b])]
    assert len(pairs) == 8
    assert all(not torch.allclose(kernel.grad[a], kernel.grad[b], rtol=1e-4) for a, b in pairs)


def test_a_shape_that_only_sees_finer_needs_nothing() -> None:
    small = tiny()
    finer = scale(small, (1.0, 1.0, 1.5))
    assert same_weights(small, finer)
    assert not same_weights(small, scale(small, (1.0, 1.2, 1.0)))
    state = alive(small).state_dict()
    grown = grow(state, small, finer, 0)
    assert all(torch.equal(grown[name], state[name]) for name in state)


def changed(arch: Architecture, stage: int, **changes: object) -> Architecture:
    stages = list(arch.stages)
    stages[stage] = stages[stage].model_copy(update=changes)
    return arch.model_copy(update={"name": "large", "stages": tuple(stages)})


@pytest.mark.parametrize(
    ("large", "told"),
    [
        (changed(tiny(), 3, channels=18), "stage 4: 18 channels are fewer than 20"),
        (changed(tiny(), 1, repeats=1), "stage 2: 1 blocks are fewer than 2"),
        (changed(tiny(), 1, kernel=3), "stage 2: kernel is 3, not 5"),
        (changed(tiny(), 3, se_ratio=0.25), "stage 4: se_ratio is 0.25, not 0.0"),
        (changed(tiny(), 0, channels=10), "stage 1: with 8 channels in and 10 out its first block loses its residual"),
        (tiny(name="large", stem=Stem(channels=6)), "the stem: 6 channels are fewer than 8"),
        (tiny(name="large", head=Head(channels=0)), "the head: 0 channels are fewer than 32"),
        (tiny(name="large", activation="relu"), "the network: activation is relu, not silu"),
        (tiny(name="large", stages=tiny().stages[:3]), "it has 3 stages, not 4"),
    ],
)
def test_what_cannot_be_grown_is_told_in_one_line(large: Architecture, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        grow(alive(tiny()).state_dict(), tiny(), large, 0)
    assert str(error.value).startswith(f"large cannot be grown from tiny: {told}")
    assert "\n" not in str(error.value)


def test_a_stage_without_residual_connections_cannot_grow_deeper() -> None:
    small = changed(tiny(), 3, skip=False)
    with pytest.raises(ConfigError, match="stage 4: blocks cannot be added, as they have no residual connections"):
        grow(alive(small).state_dict(), small, changed(small, 3, repeats=4), 0)
    separable = Stage(block="separable", channels=12, repeats=1)
    smooth = tiny(stages=(separable,))
    with pytest.raises(ConfigError, match="stage 1: blocks cannot be added, as silu changes what went through it once"):
        grow(alive(smooth).state_dict(), smooth, changed(smooth, 0, repeats=2), 0)
