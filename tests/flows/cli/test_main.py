"""The command as a user meets it: quick, in one line when something is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from effnet.answer import Answer
from effnet.family import FamilyResult, MemberResult
from effnet.store import Store
from flows.cli.main import _show, cli
from flows.cli.sections import SECTIONS, first_sentence
from tests.tiny import CONFIG, run_effnet, write_tiny


def test_help_lists_the_commands_without_heavy_imports(tmp_path: Path) -> None:
    done = run_effnet("--help", cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    assert "family" in done.stdout
    assert not {"torch", "prefect", "mlflow", "numpy", "pyarrow"} & imported(done.stderr)


def test_help_has_every_command_once_in_a_section_with_its_whole_sentence() -> None:
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(cli.commands)
    text = CliRunner().invoke(cli, ["--help"], terminal_width=80).output
    assert all(f"{title}:" in text for title in SECTIONS)
    assert all(f"\n  {name} " in text for name in listed)
    assert all(first_sentence(cli.commands[name]) in " ".join(text.split()) for name in listed)


def test_help_says_what_it_is_for_and_how_to_begin() -> None:
    text = " ".join(CliRunner().invoke(cli, ["--help"], terminal_width=80).output.split())
    assert "say which to use, and why" in text
    for command in ("effnet init", "effnet train photos --member lite0", "effnet predict lite0 IMAGES"):
        assert f"`{command}`" in text
    for word in ("CONFIG", "RUN", "MODEL"):
        assert re.search(rf"\b{word}\b [a-z ]*(?:is|are|and)", text)


def test_help_of_data_fits_a_terminal() -> None:
    data = cli.commands["data"]
    assert isinstance(data, click.Group)
    lines = CliRunner().invoke(cli, ["data", "--help"], terminal_width=80).output.splitlines()
    for name, command in data.commands.items():
        assert f"  {name:10}  {first_sentence(command)}" in lines  # on one line, and whole


def test_plan_needs_no_torch_and_prints_the_members(tmp_path: Path) -> None:
    path = write_tiny(tmp_path)
    done = run_effnet("plan", path, "--json", cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert not {"torch", "prefect", "mlflow", "sklearn"} & imported(done.stderr)
    data = json.loads(done.stdout)
    assert data["coefficients"] == {"alpha": 1.2, "beta": 1.1, "gamma": 1.15}
    assert [member["name"] for member in data["members"]] == ["B0", "B1", "B2"]
    assert data["members"][0]["resolution"] == 8
    text = run_effnet("plan", path, cwd=tmp_path).stdout
    assert f"{data['members'][2]['macs']:,}" in text
    assert not (tmp_path / "store").exists()  # it only looked


@pytest.mark.parametrize("command", ["family", "plan"])
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("epochs: 3", "epoch: 3", "did you mean 'epochs'?"),
        ("batch_size: 32", "batch_size: many", "recipe.batch_size: input should be a valid integer"),
        ("\n  val: 0.2", "\n  val: 2", "data.val: input should be less than 0.5"),
        ("tiny-baseline.yaml", "none.yaml", "none.yaml: no such file or directory"),
        ("tiny-baseline.yaml", "eficientnet_b0", "did you mean 'efficientnet_b0'?"),
    ],
)
def test_mistakes_in_the_config_are_one_line_and_exit_code_2(
    tmp_path: Path, command: str, old: str, new: str, told: str
) -> None:
    assert old in CONFIG
    done = run_effnet(command, write_tiny(tmp_path, CONFIG.replace(old, new)), cwd=tmp_path)
    assert_one_line(done, 2, told)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("deploy --crashed-after 5", "invalid value for '--crashed-after': 5 is not in the range x>=31; `effnet"),
        ("export b0 --out x --format zip", "'zip' is not one of 'safetensors'"),
        ("trian", "no such command 'trian'. Did you mean 'train'? `effnet --help` says"),
        ("data nosuch", "no such command 'nosuch'; `effnet data --help` says"),
        ("runs --nosuch", "no such option '--nosuch'; `effnet runs --help` says"),
        ("family", "missing argument 'CONFIG'; `effnet family --help` says"),
        ("evaluate a b", "got unexpected extra argument (b); `effnet evaluate --help` says"),
        ("plan --strategy", "option '--strategy' requires an argument; `effnet"),
        ("--nosuch", "no such option '--nosuch'; `effnet --help` says"),
    ],
)
def test_mistakes_in_the_command_are_one_line_and_exit_code_2(tmp_path: Path, command: str, told: str) -> None:
    assert_one_line(run_effnet(*command.split(), cwd=tmp_path), 2, told)


def test_a_group_of_commands_alone_shows_its_help(tmp_path: Path) -> None:
    done = run_effnet("data", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Commands:" in done.stderr
    assert "report" in done.stderr


def test_missing_config_and_unwritable_store(tmp_path: Path) -> None:
    assert_one_line(run_effnet("family", "none.yaml", cwd=tmp_path), 2, "none.yaml: no such file or directory")
    path = write_tiny(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    done = run_effnet("family", path, "--store", "file", cwd=tmp_path)
    assert_one_line(done, 2, "cannot be written")
    done = run_effnet("family", path, "--store", "/proc/none", cwd=tmp_path)
    assert_one_line(done, 2, "name another folder")


def test_wrong_arguments_are_told_with_exit_code_2(tmp_path: Path) -> None:
    assert run_effnet("famly", cwd=tmp_path).returncode == 2
    assert run_effnet("up", "--mlflow-port", "99999", cwd=tmp_path).returncode == 2
    assert "no servers run here" in run_effnet("down", cwd=tmp_path).stdout


def test_verify_of_something_else(tmp_path: Path) -> None:
    assert_one_line(run_effnet("verify", ".", cwd=tmp_path), 65, "no manifest.json here")


def test_prefect_server_that_does_not_answer_is_told(tmp_path: Path) -> None:
    done = run_effnet("family", write_tiny(tmp_path), cwd=tmp_path, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert_one_line(done, 2, "does not answer")


def assert_one_line(done, code: int, told: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert told in done.stderr
    assert done.stderr.startswith("effnet: ")
    assert done.stderr.count("\n") == 1


def imported(stderr: str) -> set[str]:
    lines = (line.rpartition("|")[2].strip() for line in stderr.splitlines() if line.startswith("import time:"))
    return {name.partition(".")[0] for name in lines}


def test_the_end_of_a_build_names_its_model_by_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A member's name would mean another model once another family is built."""
    member = MemberResult(
        name="B0", phi=0, resolution=8, params=1, macs=1, top1=0.5, top5=0.9, latency_ms=1.0, seconds=1.0,
        run_key="0123456789abcdef", mlflow_run_id=None, reused=False,
    )  # fmt: skip
    answer = Answer(member="B0", because="it is the only member")
    family = {"family": "tiny", "key": "k", "dataset": "d", "val_samples": 9, "coefficients": {}}
    _show(FamilyResult(**family, members=(member,), answer=answer), Store(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert f"predict  effnet predict 0123456789ab IMAGES --store {tmp_path}" in lines
