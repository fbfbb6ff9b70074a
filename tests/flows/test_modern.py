"""Families of modern blocks: MobileNetV4 as the baseline, EfficientNetV2 as published members."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effnet.arch import zoo
from effnet.arch.cost import count
from effnet.config import FamilyConfig
from effnet.family import plan_members
from tests.tiny import run_effnet

CONFIG = """\
family: modern
data: {source: {kind: folder, train: photos}, minival: 0.25, val: 0.25}
baseline: mobilenet_v4_conv_small
resolution_multiple: 32
coefficients: [1.2, 1.1, 1.15]
members: {phi: [0, 1]}
recipe: {epochs: 1, batch_size: 8}
"""


def test_a_family_of_mobilenet_v4_is_planned(tmp_path: Path) -> None:
    (tmp_path / "modern.yaml").write_text(CONFIG)
    (tmp_path / "photos").mkdir()
    planned = run_effnet("plan", "modern.yaml", "--images", "24", "--num-classes", "2", "--json", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    small, large = json.loads(planned.stdout)["members"]
    assert (small["macs"], small["resolution"]) == (count(zoo.get("mobilenet_v4_conv_small"), 2).macs, 224)
    assert large["resolution"] == 256
    assert 1.5 < large["macs"] / small["macs"] < 2.5


@pytest.mark.slow
def test_a_family_starts_from_mobilenet_v4(tmp_path: Path) -> None:
    source = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = source.integers(low, low + 128, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    (tmp_path / "modern.yaml").write_text(CONFIG)
    built = run_effnet("family", "modern.yaml", "--json", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    small, large = json.loads(built.stdout)["members"]
    assert (small["params"], small["macs"]) == count(zoo.get("mobilenet_v4_conv_small"), 2)[:2]
    assert small["macs"] < large["macs"]


def test_published_members_are_called_by_their_size() -> None:
    given = {"family": "f", "members": {"published": [f"efficientnet_v2_{size}" for size in "sml"]}}
    config = FamilyConfig.parse(given, "f.yaml")
    members = plan_members(zoo.get("efficientnet_v2_s"), config, None, 1000)
    assert [member.name for member in members] == ["V2-S", "V2-M", "V2-L"]


@pytest.mark.parametrize("name", ["efficientnet_v2_s", "mobilenet_v4_conv_small"])
def test_describe_names_each_block_as_its_paper_does(name: str, tmp_path: Path) -> None:
    shown = run_effnet("describe", name, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    wanted = {
        "efficientnet_v2_s": ["Fused-MBConv1 3×3", "Fused-MBConv4 3×3", "MBConv6 3×3, SE 0.25", "conv 1×1, pool,"],
        "mobilenet_v4_conv_small": ["conv 1×1", "ExtraDW3 5×5, 5×5", "IB2 3×3", "ConvNext4 3×3", "pool, conv 1×1,"],
    }
    assert [words for words in wanted[name] if words not in shown.stdout] == []
