"""The check of a GPU machine, kept alive on the CPU with tiny sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECTIONS = ("facts", "memory", "rates", "kernels", "compiled")


def check(out: Path, *sections: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), str(out), "--device", "cpu", "--only", *sections]
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # it finds its own modules
    return subprocess.run(command, env=plain, capture_output=True, text=True, timeout=400, check=False)


def test_the_check_runs_without_a_gpu(tmp_path: Path) -> None:
    done = check(tmp_path, "facts")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "facts.json").read_text())["problems"] == []
    assert "## facts" in (tmp_path / "gpu.md").read_text()


@pytest.mark.slow
def test_what_it_measures_is_found_and_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = check(out, *SECTIONS)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in SECTIONS:
        found = json.loads((out / f"{name}.json").read_text())
        assert found["problems"] == []
    assert json.loads((out / "rates.json").read_text())["numbers"]["efficientnet_b0"]["ours"] > 0
    assert "## facts" in (out / "gpu.md").read_text()


@pytest.mark.slow
def test_every_section_runs_without_a_gpu(tmp_path: Path) -> None:
    done = check(tmp_path / "out", "correct", "resume", "packing")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_section_that_breaks_ends_the_check_with_70(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    broken = ROOT / "benchmarks/gpu.py"
    script = f"import runpy, sys; sys.argv = {[str(broken), str(out), '--device', 'nonsense', '--only', 'facts']!r}; "
    script += f"runpy.run_path({str(broken)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 70
    assert "facts: " in done.stdout
    assert "ended with exit code 1; see facts.log" in done.stdout
