"""The zoo, and the same networks as other libraries compute them."""

from __future__ import annotations

import pytest

from effnet.arch import zoo
from effnet.arch.cost import count
from effnet.errors import ConfigError


def test_the_zoo_is_complete() -> None:
    wanted = {
        f"efficientnet_{suffix}" for suffix in (*(f"b{n}" for n in range(9)), "l2", *(f"lite{n}" for n in range(5)))
    }
    wanted |= {f"efficientnet_v2_{size}" for size in "sml"}
    wanted |= {"mobilenet_v1", "mobilenet_v2", "mobilenet_v4_conv_small", "mobilenet_v4_conv_medium"}
    assert set(zoo.names()) == wanted | {"resnet50", "mnasnet_a1"}


@pytest.mark.parametrize("name", zoo.names())
def test_variants_cost_the_same_and_compute_something_else(name: str) -> None:
    variant = zoo.get(f"{name}.timm")
    assert count(variant) == count(zoo.get(name))
    assert variant.name == f"{name}.timm"
    if name != "resnet50":  # there all agree
        assert variant.key() != zoo.get(name).key()


def test_torchvision_keeps_tensorflows_norm_from_b5_on() -> None:
    assert zoo.get("efficientnet_b4.torchvision").norm_epsilon == 1e-5
    assert zoo.get("efficientnet_b5.torchvision").norm_epsilon == 1e-3
    assert zoo.get("efficientnet_b5.torchvision").padding == "symmetric"
    assert zoo.get("efficientnet_v2_s.torchvision").norm_epsilon == 1e-3
    assert zoo.get("efficientnet_v2_m.torchvision").pixel_mean == (123.675, 116.28, 103.53)
    assert zoo.get("efficientnet_v2_l.torchvision").pixel_mean == (127.5, 127.5, 127.5)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("efficientnet_b9", "did you mean 'efficientnet_"),
        ("efficientnet_b0.keras", "no variant of efficientnet_b0 is called 'keras'; known: timm, torchvision"),
        ("mobilenet_v1.torchvision", "torchvision has no mobilenet_v1; it has efficientnet_b0"),
        ("vgg16", "no network is called 'vgg16'"),
    ],
)
def test_unknown_names_are_told(name: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        zoo.get(name)
    assert told in str(caught.value)
