"""The wheel, installed where no clone is, has all that the command needs."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.tiny import clean_environment

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    _done(["uv", "build", "--quiet", "--wheel", "--out-dir", str(out), str(ROOT)], out)
    (built,) = out.glob("effnet-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path) -> Path:
    """A fresh environment with the wheel: what effnet depends on is lent by this one, and no clone is on its path."""
    folder = wheel.parent / "venv"
    _done([sys.executable, "-m", "venv", "--without-pip", str(folder)], wheel.parent)
    python = folder / "bin/python"
    (packages,) = folder.glob("lib/python*/site-packages")
    # A folder that a .pth names is searched; the .pth files in it, such as that of an editable effnet, are not read.
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    _done(["uv", "pip", "install", "--quiet", "--no-deps", "--python", str(python), str(wheel)], wheel.parent)
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder in which somebody has modules of their own, called as ours are."""
    for name in ("tasks", "flows", "effnet"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this is not the module that was meant')\n")
    return tmp_path


def _done(command: list[str], folder: Path) -> str:
    bare = {name: value for name, value in clean_environment().items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=folder, env=bare, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_has_the_projects_files_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", "configs", "infra/prefect", "prefect.yaml"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    assert len(listed) > 15
    assert {f"effnet/project/{name}" for name in listed} <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"effnet", "flows", "tasks"}
    assert "effnet/report/templates/family.html" in names


def test_the_command_runs_in_a_folder_that_holds_a_tasks_py(environment: Path, here: Path) -> None:
    effnet = str(environment / "bin/effnet")
    assert "init" in _done([effnet, "--help"], here)
    _done([effnet, "init", "flowers"], here)
    _done([effnet, "init", "images"], here)
    assert {path.name for path in here.iterdir()} >= {"flowers.yaml", "images.yaml", "architectures"}
    said = _done([effnet, "plan", "digits"], here)
    assert "efficientnet_digits" in said
    assert "B7" in said


def test_the_project_is_found_and_no_clone_is(environment: Path, here: Path) -> None:
    code = (
        "import sys, effnet, flows, tasks\n"
        "from effnet.shipped import PROJECT, shipped_configs\n"
        "from tasks.servers.deployment import POOL_TYPES, pool_template\n"
        "from flows.cli.operations import project_folder\n"
        "for package in (effnet, flows, tasks):\n"
        "    assert package.__file__.startswith(sys.prefix), package.__file__\n"
        f"assert {str(ROOT)!r} not in sys.path\n"
        "assert project_folder(None) == PROJECT and str(PROJECT).startswith(sys.prefix)\n"
        "assert {'digits', 'imagenet', 'photos'} <= set(shipped_configs())\n"
        "for kind in POOL_TYPES:\n"
        "    assert pool_template(PROJECT, kind, {})['variables']\n"
        "print(PROJECT)\n"
    )
    project = Path(_done([str(environment / "bin/python"), "-P", "-c", code], here).strip())
    steps = [
        step["tasks.servers.deploy_step.load_config"]["path"]
        for each in yaml.safe_load((project / "prefect.yaml").read_text())["deployments"]
        for step in each.get("build", ())
    ]
    assert steps
    assert all((project / path).is_file() for path in steps)
    assert not project.is_relative_to(ROOT)
