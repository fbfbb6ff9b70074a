"""The documentation's notebooks run from a clean folder, and hold no output that could grow old.

Their cells are Python without magics, so a process that runs them in order does what a kernel does, with the packages
that are here anyway: nbclient and ipykernel would bring two dozen more, which nothing else needs.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.docs.printed import ROOT, environment

NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
SECONDS = 550


def cells(path: Path, kind: str) -> list[str]:
    """Return the texts of a notebook's cells of a kind: `code` or `markdown`."""
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def test_there_is_one() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_python_and_outputs_are_stripped(path: Path) -> None:
    content: dict[str, Any] = json.loads(path.read_text())
    assert content["nbformat"] == 4
    assert [cell for cell in content["cells"] if cell.get("outputs") or cell.get("execution_count")] == []
    for text in cells(path, "code"):
        ast.parse(text)  # no magics, no shell


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_to_files(path: Path) -> None:
    links = [link for text in cells(path, "markdown") for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)]
    assert [link for link in links if not (path.parent / link).is_file()] == []


@pytest.mark.slow
def test_predict_runs_from_a_config_to_a_prediction(tmp_path: Path, prefect_home: Path) -> None:
    shutil.copytree(prefect_home, tmp_path / ".effnet/prefect")
    code = "\n\n".join(cells(ROOT / "docs/tutorials/predict.ipynb", "code"))
    done = subprocess.run(
        ["python", "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.findall(r"^(B\d): top-1 [\d.]+%, [\d,]+ multiply-adds", done.stdout, re.MULTILINE) == ["B0", "B1", "B2"]
    assert re.search(r"^B2 is left out: ", done.stdout, re.MULTILINE)
    (right,) = re.findall(r"^(\d+) of 64 are right$", done.stdout, re.MULTILINE)
    assert int(right) > 32  # chance: 6
