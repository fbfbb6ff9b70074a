"""`approve_above` at a terminal and without one."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from effnet.finished import NAME
from effnet.store import Store
from tests.tiny import CONFIG, clean_environment, run_effnet, write_tiny

SMALL = CONFIG.replace("phi: [0, 1, 2]", "phi: [0]").replace("epochs: 3", "epochs: 1")
LIMITED = f"{SMALL}coefficients: [1.2, 1.1, 1.15]\napprove_above: {{gpu_hours: 0.000001}}\n"


def at_a_terminal(folder: Path, answer: str) -> tuple[int, str]:
    """Run `effnet family` at a terminal where a person answers; return its exit code and what it showed."""
    person, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "family", "tiny.yaml"],
        cwd=folder,
        env=clean_environment() | {"TERM": "dumb"},
        stdin=terminal,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            piece = os.read(person, 4096)
        except OSError:  # nobody has the other end any more
            break
        shown += piece
        if b"[y/N]" in piece:
            os.write(person, f"{answer}\n".encode())
    os.close(person)
    return process.wait(), shown.decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, prefect_home: Path) -> Path:
    """A folder with a config that asks, and nothing built."""
    folder = tmp_path_factory.mktemp("approval")
    shutil.copytree(prefect_home, folder / "store" / "prefect")
    write_tiny(folder, LIMITED)
    return folder


@pytest.mark.slow
def test_without_a_terminal_it_ends_with_a_line_and_its_own_exit_code(folder: Path) -> None:
    done = run_effnet("family", "tiny.yaml", cwd=folder)
    assert done.returncode == 77, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("effnet: members: 1 training, about ")
    assert "above approve_above (1e-06 hours): nothing of it is begun; run the same command with --approve" in line
    assert not list(folder.glob("store/runs/*/metrics.jsonl"))


@pytest.mark.slow
def test_a_person_at_the_terminal_is_asked_and_a_build_that_is_done_asks_no_more(folder: Path) -> None:
    code, shown = at_a_terminal(folder, "n")
    assert code == 77
    assert "members: not approved" in shown
    assert not list(folder.glob("store/runs/*/metrics.jsonl"))
    code, shown = at_a_terminal(folder, "y")
    assert code == 0, shown
    (path,) = Store(folder / "store").families.glob("*/family.json")
    (told,) = json.loads(path.read_text())["approvals"]
    assert (told["stage"], told["how"], told["trainings"]) == ("members", "at the terminal", 1)
    assert told["gpu_hours"] > 0.000001
    for note in (NAME, "approvals.json"):  # so that the build is looked at in full, and nothing is remembered
        path.with_name(note).unlink(missing_ok=True)
    done = run_effnet("family", "tiny.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_approved_in_advance_it_is_recorded(folder: Path) -> None:
    (folder / "tiny.yaml").write_text(LIMITED.replace("epochs: 1", "epochs: 2"))  # trainings of its own
    done = run_effnet("family", "tiny.yaml", "--approve", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert [each["how"] for each in json.loads(done.stdout)["approvals"]] == ["in advance, --approve"]
