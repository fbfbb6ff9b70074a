"""`effnet init` writes what one begins with, and never over anything; a CONFIG may be a name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from effnet.config import SearchedBaseline, load_baseline, load_config
from effnet.errors import ConfigError
from effnet.shipped import CONFIGS, PROJECT, shipped_configs
from flows.cli.find import find_config
from flows.cli.operations import project_folder
from tests.flows.cli.test_main import assert_one_line
from tests.tiny import run_effnet


def test_a_config_for_ones_own_images(tmp_path: Path) -> None:
    done = run_effnet("init", "flowers", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"flowers.yaml"}
    assert "flowers.yaml: written" in done.stdout
    config = load_config(tmp_path / "flowers.yaml")
    assert (config.family, config.data.source.kind) == ("flowers", "folder")
    assert load_baseline(config, tmp_path).name == "efficientnet_lite0"
    text = (tmp_path / "flowers.yaml").read_text()
    assert sum("#" in line for line in text.splitlines()) > 13
    assert done.stdout.splitlines()[-1].startswith("  effnet plan flowers.yaml")
    planned = run_effnet("plan", "flowers", "--num-classes", "5", "--json", cwd=tmp_path)
    assert [each["name"] for each in json.loads(planned.stdout)["members"]] == ["Lite0", "Lite1", "Lite2"]


@pytest.mark.parametrize("name", ["photos", "images"])
def test_the_lines_to_choose_from_are_taken_too(tmp_path: Path, name: str) -> None:
    """What stands behind `#  ` in a template can be put in the place of what it is about."""
    text = (CONFIGS / f"{name}.yaml").read_text()
    choices = [line.removeprefix("#  ") for line in text.splitlines() if line.startswith("#  ") and ": " in line]
    choices = [line for line in choices if not line.startswith(f" {name}/")]
    assert len(choices) == 3
    for choice in choices:
        changed = yaml.safe_load(text) | yaml.safe_load(choice)
        (tmp_path / "changed.yaml").write_text(yaml.safe_dump(changed))
        load_config(tmp_path / "changed.yaml")


@pytest.mark.parametrize("name", ["no", "12", "0x1f"])
def test_names_that_yaml_takes_for_something_else(tmp_path: Path, name: str) -> None:
    assert run_effnet("init", name, cwd=tmp_path).returncode == 0
    assert load_config(tmp_path / f"{name}.yaml").family == name


def test_every_config_that_comes_with_effnet_works_where_it_is_written(tmp_path: Path) -> None:
    assert {"digits", "imagenet", "images", "photos"} <= set(shipped_configs())
    for name in ("digits", "fashion_mnist", "fashion_mnist_study", "images"):
        assert run_effnet("init", name, cwd=tmp_path).returncode == 0
        assert (tmp_path / f"{name}.yaml").read_bytes() == (CONFIGS / f"{name}.yaml").read_bytes()
        config = load_config(tmp_path / f"{name}.yaml")
        load_baseline(config, tmp_path)
        assert isinstance(config.baseline, SearchedBaseline) == (name == "fashion_mnist")
        for file in config.study.baselines if config.study else ():
            assert (tmp_path / file).is_file()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "flowers.yaml").write_text("mine")
    assert_one_line(
        run_effnet("init", "flowers", cwd=tmp_path), 2, "flowers.yaml: already exists and was left unchanged"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["flowers.yaml"]
    assert (tmp_path / "flowers.yaml").read_text() == "mine"
    edited = tmp_path / "architectures/efficientnet_images.yaml"
    edited.parent.mkdir()
    edited.write_text("mine")
    told = "architectures/efficientnet_images.yaml: already exists with other content"
    assert_one_line(run_effnet("init", "images", cwd=tmp_path), 2, told)
    assert edited.read_text() == "mine"
    assert not (tmp_path / "images.yaml").exists()
    edited.write_bytes((CONFIGS / "architectures/efficientnet_images.yaml").read_bytes())
    assert run_effnet("init", "images", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("name", ["Flowers", "../x", "a: b\nc: {", ""])
def test_a_name_that_no_family_can_have(tmp_path: Path, name: str) -> None:
    assert_one_line(run_effnet("init", name, cwd=tmp_path), 2, "family: must be lower-case letters, digits, _ and -")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written() -> None:
    assert_one_line(run_effnet("init", cwd=Path("/proc/self/fd")), 2, "photos.yaml: cannot be written here")


def test_a_config_is_a_file_or_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("digits") == CONFIGS / "digits.yaml"
    assert capsys.readouterr() == ("", f"effnet: the config is {CONFIGS / 'digits.yaml'}\n")
    Path("digits").mkdir()  # a folder is no config
    assert find_config("digits") == CONFIGS / "digits.yaml"
    Path("digits.yaml").touch()  # one's own goes first, and that is told
    capsys.readouterr()
    assert find_config("digits") == Path("digits.yaml")
    assert find_config("digits/") == Path("digits.yaml")  # as a shell completes the name of a folder beside it
    assert capsys.readouterr().err == "effnet: the config is digits.yaml\n" * 2
    Path("imagenet").touch()
    assert find_config("imagenet") == Path("imagenet")
    for path in ("none.yaml", "./digits", "/", "configs/digits", str(tmp_path / "digits")):
        assert find_config(path) == Path(path)  # whoever reads it says what is wrong
    assert capsys.readouterr().err == ""
    with pytest.raises(ConfigError, match="no config of that name comes with effnet; there are digits, fashion_mnist"):
        find_config("nosuch")


@pytest.mark.parametrize("command", ["family", "plan", "train", "shard", "study", "fit", "search"])
def test_every_command_that_takes_a_config_takes_a_name(tmp_path: Path, command: str) -> None:
    assert_one_line(run_effnet(command, "nosuch", cwd=tmp_path), 2, "there are digits, ")


def test_deploy_takes_the_project_here_or_the_one_that_comes_with_effnet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert project_folder(None) == PROJECT
    assert project_folder(Path("x")) == tmp_path / "x"
    Path("prefect.yaml").touch()
    assert project_folder(None) == PROJECT
    Path("infra/prefect").mkdir(parents=True)
    assert project_folder(None) == tmp_path
