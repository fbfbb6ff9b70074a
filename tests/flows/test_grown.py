"""A family whose members start from their baseline's weights, grown to their shapes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from effnet.arch import zoo
from effnet.arch.scaling import Coefficients, scale
from effnet.config import FamilyConfig, Recipe, load_baseline, load_config
from effnet.errors import ConfigError
from effnet.evaluation.predictor import open_predictor
from effnet.family import Member, build_key, plan_members
from effnet.models.build import build
from effnet.models.grow import grown_network
from effnet.models.weights import load, load_model, save_model, save_weights
from effnet.runs import RunFolder, RunSpec, Start
from effnet.stages import Stage
from effnet.starts import member_files, member_starts
from effnet.store import sha256_file
from effnet.train.state import first_network
from tests.docs.printed import blocks
from tests.flows.test_published import packaged
from tests.tiny import CONFIG, run_effnet, write_tiny

GROWN = CONFIG.replace("family: tiny", "family: grown").replace("epochs: 3", "epochs: 2") + (
    "weights: b0.safetensors\ngrow: true\n"
)


STUDY = "study: {factors: [2], seeds: 1, epochs: 1, strategies: [width]}\n"


def made(folder: Path, text: str = GROWN) -> tuple[FamilyConfig, list[Member]]:
    """Write a config, its baseline and weights of it; return the config and its members."""
    config = load_config(write_tiny(folder, text))
    baseline = load_baseline(config, folder)
    save_weights(folder / "b0.safetensors", build(baseline, 10, seed=1))
    return config, plan_members(baseline, config, Coefficients(1.2, 1.2, 1.2), 10)


def test_the_baseline_starts_from_the_weights_and_the_others_from_the_grown_ones(tmp_path: Path) -> None:
    config, members = made(tmp_path)
    found = member_starts(config, members, tmp_path, tmp_path / "cache")
    file = tmp_path / "b0.safetensors"
    assert found["B0"] == Start(path=str(file), sha256=sha256_file(file))
    baseline = load_baseline(config, tmp_path)
    for name in ("B1", "B2"):
        assert found[name] == found["B0"].model_copy(update={"grown_from": baseline})
    assert found["B1"].told() == f"weights {found['B0'].sha256[:16]} of tiny, grown"


def test_weights_may_be_a_run_a_model_folder_or_a_file_of_the_baselines_name(tmp_path: Path) -> None:
    config, members = made(tmp_path)
    save_model(tmp_path / "model", build(load_baseline(config, tmp_path), 10, seed=2))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").touch()
    (tmp_path / "run/probe.safetensors").write_bytes(b"not these")
    shutil.copy(tmp_path / "b0.safetensors", tmp_path / "run/model.safetensors")
    (tmp_path / "files").mkdir()
    shutil.copy(tmp_path / "b0.safetensors", tmp_path / "files/tiny-7.safetensors")
    for weights, path in {
        "model": "model/model.safetensors",
        "run": "run/model.safetensors",
        "files": "files/tiny-7.safetensors",
        "files/{name}*": "files/tiny-7.safetensors",
    }.items():
        named = config.model_copy(update={"weights": weights})
        assert {start.path for start in member_starts(named, members, tmp_path, tmp_path / "cache").values()} == {
            str(tmp_path / path)
        }
    (tmp_path / "run/model.safetensors").unlink()
    for weights in ("run", "nowhere.pth"):
        with pytest.raises(ConfigError, match=f"no file of tiny in {weights}"):
            member_starts(config.model_copy(update={"weights": weights}), members, tmp_path, tmp_path / "cache")


def test_a_member_that_cannot_be_grown_is_told_before_anything_is_made(tmp_path: Path) -> None:
    config, members = made(tmp_path)
    stages = (*members[1].architecture.stages[:1], members[1].architecture.stages[1].model_copy(update={"channels": 8}))
    narrower = members[1].architecture.model_copy(update={"stages": stages})
    with pytest.raises(ConfigError, match="grown_b1 cannot be grown from tiny: stage 2: 8 channels are fewer than 12"):
        member_starts(config, [members[1].model_copy(update={"architecture": narrower})], tmp_path, tmp_path / "cache")


def test_lite0_with_the_default_phi_is_told_which_can_be_grown() -> None:
    given = {"baseline": "efficientnet_lite0", "coefficients": [1.2, 1.1, 1.15], "weights": "packages", "grow": True}
    config = FamilyConfig.parse({"family": "f", **given}, "f.yaml")
    baseline = zoo.get("efficientnet_lite0")
    members = plan_members(baseline, config, Coefficients(1.2, 1.1, 1.15), 10)
    with pytest.raises(ConfigError) as caught:
        member_files(config, members, Path())
    assert str(caught.value) == (
        "f_b6 cannot be grown from efficientnet_lite0: stage 1: with 32 channels in and 32 out its first block gets a "
        "residual connection; nor can B7; members: {phi: [0, 1, 2, 3, 4, 5]} can be grown"
    )
    assert len(member_files(config, members[:6], Path())) == 6
    with pytest.raises(ConfigError, match=r"; leave grow and weights out$"):
        member_files(config, [members[0], members[7]], Path())


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("weights: b0.safetensors\n", "", "grow needs weights: those of the baseline"),
        ("grow: true\n", "", "or, if they are the baseline's, `grow: true`"),
        ("members: {phi: [0, 1, 2], dropout: [0.1, 0.2]}", "members: {published: [tiny-baseline.yaml]}", "grow is for"),
        ("tiny-baseline.yaml", "{search: {reference: tiny-baseline.yaml}}", "grow needs a baseline that is named"),
        (
            "  augment: {",
            "  norms: frozen\n  augment: {",
            "grow with recipe finetune, or other frozen",
        ),
    ],
)
def test_what_cannot_be_is_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in GROWN
    with pytest.raises(ConfigError, match=told) as error:
        load_config(write_tiny(tmp_path, GROWN.replace(old, new)))
    assert "\n" not in str(error.value)


def test_a_familys_key_tells_whether_its_members_are_grown(tmp_path: Path) -> None:
    config, _ = made(tmp_path)
    baseline = load_baseline(config, tmp_path)
    plain = config.model_copy(update={"weights": None, "grow": False})
    assert build_key(config, baseline, "0" * 16) != build_key(plain, baseline, "0" * 16)


def test_runs_keep_the_keys_that_they_had_and_grown_ones_know_what_they_grew_from() -> None:
    spec = RunSpec(
        architecture=zoo.get("efficientnet_b0"),
        dataset="0123456789abcdef",
        num_classes=10,
        recipe=Recipe.model_validate("finetune"),
        seed=3,
        start=Start(path="weights.pth", sha256="ab" * 32),
    )
    assert spec.key() == "ffb84d5070271f3a"  # before weights could be grown
    assert spec.start is not None
    sources = [spec.start.model_copy(update={"grown_from": zoo.get(f"efficientnet_b{n}")}) for n in (0, 1)]
    grown = [spec.model_copy(update={"start": start}) for start in sources]
    assert len({spec.key(), *(each.key() for each in grown)}) == 3
    assert RunSpec.model_validate_json(grown[0].model_dump_json()) == grown[0]


def test_plan_says_what_each_member_starts_from(tmp_path: Path) -> None:
    made(tmp_path)
    done = run_effnet("plan", "tiny.yaml", "--num-classes", "10", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "b0.safetensors"
    assert f"B0 starts from {file}\n" in done.stdout
    assert f"B1 grown from tiny by {file}\n" in done.stdout


def test_the_printed_config_grows_lite0_with_the_weights_that_are_installed(tmp_path: Path) -> None:
    printed = next(block.text for block in blocks("docs/training.md", "yaml") if "grow: true" in block.text)
    (tmp_path / "photos.yaml").write_text(f"family: photos\n{printed}")
    done = run_effnet("plan", "photos.yaml", "--num-classes", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    file = packaged("efficientnet_lite0")
    assert f"B0 starts from {file}\n" in done.stdout
    for number in (1, 2, 3):
        assert f"B{number} grown from efficientnet_lite0 by {file}\n" in done.stdout
    small = zoo.get("efficientnet_lite0").model_copy(update={"resolution": 96})
    network = load(file, small)
    large = scale(small, Coefficients(1.2, 1.1, 1.0).at(2), name="b2")
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(grown_network(network, large, 0)(images), network(images), rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, prefect_home: Path) -> tuple[Path, dict[str, Any], str]:
    """A family grown from the B0 of another one, which was trained alone: folder, result, what the terminal showed."""
    folder = tmp_path_factory.mktemp("grown")
    shutil.copytree(prefect_home, folder / "store" / "prefect")
    first = run_effnet("train", write_tiny(folder), "--member", "b0", "--json", cwd=folder)
    assert first.returncode == 0, first.stderr
    run = json.loads(first.stdout)["run"]
    given = (
        GROWN.replace("b0.safetensors", run).replace("phi: [0, 1, 2]", "phi: [0, 1]").replace("epochs: 2", "epochs: 1")
    )
    write_tiny(folder, f"{given}coefficients: [1.4, 1.2, 1.2]\n{STUDY}")
    done = run_effnet("family", "tiny.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout), run


def runs(folder: Path) -> list[RunFolder]:
    return [RunFolder(path.parent) for path in (folder / "store/runs").glob("*/config.json")]


@pytest.mark.slow
def test_members_alone_are_grown_never_what_decides_how_to_scale(grown: tuple[Path, dict[str, Any], str]) -> None:
    folder, result, source = grown
    members = {member["name"]: member for member in result["members"]}
    assert [members[name]["grown_from"] for name in ("B0", "B1")] == [None, "tiny"]
    keys = {member["run_key"] for member in result["members"]}
    others = [run for run in runs(folder) if run.key not in keys]
    assert {about.kind for run in others if (about := run.about())} == {Stage.STUDY, Stage.MEMBER}  # and the first B0
    assert all(run.spec().start is None for run in others)
    for name, member in members.items():
        start = RunFolder(folder / "store/runs" / member["run_key"]).spec().start
        assert start is not None
        assert start.path == str((folder / source / "model.safetensors").absolute())
        assert (start.grown_from is None) == (name == "B0")


@pytest.mark.slow
def test_a_member_begins_as_its_baseline(grown: tuple[Path, dict[str, Any], str]) -> None:
    folder, result, source = grown
    run = RunFolder(folder / "store/runs" / result["members"][1]["run_key"])
    network, new = first_network(run, run.spec())
    assert not new
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    one = load_model(folder / source)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    small_side = one.architecture.resolution
    assert small_side == 8 != run.spec().architecture.resolution
    with torch.inference_mode():
        # the layers of a side of 8 pad as the larger network's do wherever its own sides are even
        at_its_side = build(run.spec().architecture.model_copy(update={"resolution": 8}), 10)
        at_its_side.load_state_dict(network.state_dict())
        assert torch.allclose(at_its_side.eval()(images), one(images), atol=1e-4)
    again, _ = first_network(run, run.spec())
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


@pytest.mark.slow
def test_it_is_told_wherever_the_members_are_shown(grown: tuple[Path, dict[str, Any], str]) -> None:
    folder, result, _ = grown
    told = "B1 started from the weights of tiny, grown to compute the same: their lead over it is not due to scale"
    assert told in (folder / "store/families" / result["key"] / "report.html").read_text()
    client = MlflowClient(f"sqlite:///{folder / 'store' / 'mlflow.db'}")
    run = client.get_run(result["members"][1]["mlflow_run_id"])
    assert run.data.params["start.grown_from"] == "tiny"
    assert not [name for name in run.data.params if name.startswith("start.grown_from.")]
    assert "of tiny, grown" in run.data.tags["mlflow.note.content"]
    (family,) = (each for each in client.search_experiments() if each.name == "grown")
    notes = [each.data.tags.get("mlflow.note.content", "") for each in client.search_runs([family.experiment_id])]
    assert any(told in note for note in notes)
    card = client.get_registered_model("grown-b1").latest_versions[0].description
    assert "of tiny, grown" in card


@pytest.mark.slow
def test_again_nothing_is_trained_and_it_can_be_used(grown: tuple[Path, dict[str, Any], str]) -> None:
    folder, result, _ = grown
    again = run_effnet("family", "tiny.yaml", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "B1 started from the weights of tiny" in again.stdout
    assert again.stdout.count("reused") == 2
    alone = run_effnet("train", "tiny.yaml", "--member", "b1", "--json", cwd=folder)
    assert alone.returncode == 0, alone.stderr
    assert json.loads(alone.stdout)["run"].endswith(result["members"][1]["run_key"])
    assert open_predictor(folder / "store/runs" / result["members"][1]["run_key"])
