"""A family whose members learn from the largest of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from effnet.runs import RunFolder
from tests.tiny import CONFIG, run_effnet, write_tiny

TAUGHT = CONFIG.replace("family: tiny", "family: taught").replace("phi: [0, 1, 2]", "phi: [0, 1]").replace(
    "  epochs: 3\n", "  epochs: 1\n  teacher: largest\n  teacher_weight: 0.75\n"
) + "coefficients: [1.4, 1.2, 1.2]\n"  # fmt: skip


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, prefect_home: Path) -> tuple[Path, dict[str, Any]]:
    """The family: folder and result."""
    folder = tmp_path_factory.mktemp("taught")
    shutil.copytree(prefect_home, folder / "store" / "prefect")
    write_tiny(folder, TAUGHT)
    done = run_effnet("family", "tiny.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.slow
def test_the_largest_is_trained_first_and_the_other_learns_from_it(taught: tuple[Path, dict[str, Any]]) -> None:
    folder, result = taught
    small, large = (RunFolder(folder / "store/runs" / member["run_key"]) for member in result["members"])
    teacher = small.spec().teacher
    assert teacher is not None
    assert teacher.run == large.key
    assert large.spec().teacher is None
    assert large.result_path.stat().st_mtime_ns < small.metrics_path.stat().st_ctime_ns
    assert small.trained().environment["teacher"] == large.trained().weights_sha256[:16]
    assert [member["teacher"] for member in result["members"]] == ["B1", None]


@pytest.mark.slow
def test_it_is_told_wherever_the_members_are_shown(taught: tuple[Path, dict[str, Any]]) -> None:
    folder, result = taught
    told = "B0 learnt from B1 as well: what they reach is not due to scale alone."
    report = (folder / "store/families" / result["key"] / "report.html").read_text()
    assert told in report
    assert "largest, 0.75 of the loss, temperature 1" in report
    client = MlflowClient(f"sqlite:///{folder / 'store' / 'mlflow.db'}")
    run = client.get_run(result["members"][0]["mlflow_run_id"])
    assert run.data.params["teacher.architecture"] == "taught_b1"
    assert f"learnt from run {result['members'][1]['run_key']}, taught_b1" in run.data.tags["mlflow.note.content"]
    card = client.get_registered_model("taught-b0").latest_versions[0].description
    assert f"0.75 of the loss were the answers of a teacher (run {result['members'][1]['run_key']}" in card
    assert "of a teacher" not in client.get_registered_model("taught-b1").latest_versions[0].description


@pytest.mark.slow
def test_again_nothing_is_trained_and_alone_a_member_is_the_same_run(taught: tuple[Path, dict[str, Any]]) -> None:
    folder, result = taught
    again = run_effnet("family", "tiny.yaml", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("reused") == 2
    assert "B0 learnt from B1 as well" in again.stdout
    alone = run_effnet("train", "tiny.yaml", "--member", "b0", "--json", cwd=folder)
    assert alone.returncode == 0, alone.stderr
    assert json.loads(alone.stdout)["run"].endswith(result["members"][0]["run_key"])


@pytest.mark.slow
def test_alone_and_first_a_members_teacher_is_trained_before_it(
    taught: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, result = taught
    write_tiny(tmp_path, TAUGHT)
    done = run_effnet("train", "tiny.yaml", "--member", "b0", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "B1 is trained first: B0 learns from it" in done.stderr
    keys = {path.parent.name for path in (tmp_path / "store/runs").glob("*/result.json")}
    assert keys == {member["run_key"] for member in result["members"]}


@pytest.mark.slow
def test_plan_counts_the_teachers_forward_passes(tmp_path: Path) -> None:
    write_tiny(tmp_path, TAUGHT)
    options = ("--num-classes", "10", "--images", "3000", "--device", "a100-80", "--json")
    one = json.loads(run_effnet("plan", "tiny.yaml", *options, cwd=tmp_path).stdout)
    write_tiny(tmp_path, TAUGHT.replace("  teacher: largest\n", ""))
    other = json.loads(run_effnet("plan", "tiny.yaml", *options, cwd=tmp_path).stdout)
    assert (one["teachers"], other["teachers"]) == ({"B0": "taught_b1"}, {})
    small, large = other["prices"]
    hours = {price["name"]: price["hours"] for price in one["prices"]}
    assert hours["B1"] == large["hours"]
    assert hours["B0"] == pytest.approx(small["hours"] + large["hours"] / 3)
    (stage,) = one["stages"]
    assert stage["hours"] == pytest.approx(sum(hours.values())) == stage["wall_hours"]  # one after the other


@pytest.mark.slow
def test_what_cannot_teach_is_told_before_anything_is_trained(tmp_path: Path, prefect_home: Path) -> None:
    shutil.copytree(prefect_home, tmp_path / "store" / "prefect")
    write_tiny(tmp_path, TAUGHT.replace("teacher: largest", "teacher: b7"))
    for command in ("family", "plan"):
        done = run_effnet(command, "tiny.yaml", *(["--num-classes", "10"] if command == "plan" else []), cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert "recipe.teacher: 'b7' is no member of the family, no run of " in done.stderr
        assert not [*(tmp_path / "store/runs").glob("*")]
