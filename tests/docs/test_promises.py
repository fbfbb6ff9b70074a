"""docs/promises.md says what stands behind each sentence: sentences and tests are there, and none is left out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import promises
from tests.docs.printed import ROOT
from tests.docs.promises import left_out, not_kept, not_said, without_backing

ADVICE = "`python -m tests.docs.promises` prints the rows that are wrong or missing"


def test_every_quoted_sentence_stands_in_its_document() -> None:
    assert [f"{row.document}: {row.quote}" for row, _ in not_said()] == [], ADVICE


def test_every_test_and_benchmark_is_there_and_not_skipped() -> None:
    assert without_backing() == [], ADVICE


def test_no_promise_and_no_printed_command_is_left_out() -> None:
    assert left_out() == [], ADVICE


def test_every_row_is_one_of_a_document_and_says_what_is_behind_it() -> None:
    rows = promises.promises()
    assert {row.document for row in rows} == set(promises.documents())
    assert all(row.backing or row.other for row in rows)
    assert all(len(row.quote) >= 8 for row in rows)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository that promises things; some of them are kept."""
    (tmp_path / "docs/tutorials").mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    (tmp_path / "infra").mkdir()
    (tmp_path / "infra/README.md").write_text("# Infra\n")
    (tmp_path / "README.md").write_text(
        "# House\n\nIt never lies. It is green.\nEvery door\nis [shut](x.md).\n\n| always | never |\n|---|---|\n"
        "| a | no b |\n\n```sh\nhouse up  # now\n```\n"
    )
    (tmp_path / "tests/test_a.py").write_text(
        "import pytest\ndef test_lies(): pass\nclass T:\n    def test_doors(self): pass\n"
        "@pytest.mark.skip\ndef test_b(): pass\n"
    )
    rows = [
        "## README.md",
        "| what it says | what is behind it |",
        "|---|---|",
        "| It never lies. | `tests/test_a.py::test_lies` |",
    ]
    (tmp_path / "docs/promises.md").write_text("\n".join(rows))
    monkeypatch.setattr(promises, "ROOT", tmp_path)
    monkeypatch.setattr("tests.docs.printed.ROOT", tmp_path)
    return tmp_path


def add(house: Path, *rows: str) -> None:
    with (house / "docs/promises.md").open("a") as file:
        file.writelines(f"\n{row}" for row in rows)


def test_what_is_left_out_is_found(house: Path) -> None:
    missing = ["Every door is shut.", "a · no b", "house up"]
    assert left_out() == [("README.md", sentence) for sentence in missing]
    add(house, "| Every door is shut. | `tests/test_a.py::T::test_doors` |", "| house up | not tried: no house |")
    add(house, r"| a · no b | – |")
    assert left_out() == []
    assert not_said() == []
    assert without_backing() == []
    told = "Never say `house up` twice."
    (house / "README.md").write_text(f"{(house / 'README.md').read_text()}\n{told}\n")
    assert left_out() == [("README.md", told)]  # the row of the command says nothing of it


def test_what_is_not_said_and_not_tested_is_found(house: Path) -> None:
    add(
        house,
        "| It sometimes lies. | `tests/test_a.py::test_b`<br>`tests/test_a.py::test_c`<br>benchmarks/results/x.md |",
    )
    ((row, instead),) = not_said()
    assert (row.quote, instead) == ("It sometimes lies.", "It never lies.")
    assert without_backing() == ["benchmarks/results/x.md", "tests/test_a.py::test_b", "tests/test_a.py::test_c"]


@pytest.mark.usefixtures("house")
def test_what_did_not_run_is_found() -> None:
    assert not_kept(["tests/test_a.py::test_lies[1]"], []) == []
    assert not_kept([], ["tests/test_a.py::test_lies"]) == ["tests/test_a.py::test_lies was skipped"]
    assert not_kept(["tests/test_a.py::test_lies[1]"], ["tests/test_a.py::test_lies[2]"]) != []
    assert not_kept([], []) == ["tests/test_a.py::test_lies did not run"]


def test_slow_tests_are_asked_for_only_where_they_were_to_run(house: Path) -> None:
    tests = house / "tests/test_a.py"
    tests.write_text(tests.read_text().replace("def test_lies", "@pytest.mark.slow\ndef test_lies"))
    assert not_kept([], [], slow=False) == []
    assert not_kept([], [], slow=True) == ["tests/test_a.py::test_lies did not run"]


_SAMPLE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from tests import parallel

tests = [SimpleNamespace(nodeid=f"tests/test_{n % 7}.py::test_{n}[{case}]") for n in range(30) for case in "ab"]
left = []
config = SimpleNamespace(rootpath=Path.cwd(), hook=SimpleNamespace(pytest_deselected=lambda items: left.extend(items)))
parallel.keep_sample(config, tests, 2)
print(len(left), *[test.nodeid for test in tests])
"""


def test_a_sample_of_the_slow_tests_is_the_same_in_each_process() -> None:
    def drawn(hashes: str) -> list[str]:
        environment = os.environ | {"PYTHONHASHSEED": hashes}
        command = [sys.executable, "-c", _SAMPLE]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=300
        ).stdout.split()

    left, *kept = drawn("1")
    assert len({name.partition("[")[0] for name in kept}) == 2
    assert len(kept) == 4  # each with all its parameters
    assert int(left) == 60 - 4
    assert drawn("2") == [left, *kept]


def test_a_run_in_which_promised_tests_are_missing_fails() -> None:
    command = [sys.executable, "-m", "pytest", "tests/test_store.py", "-k", "canonical", "--numprocesses", "1"]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = bare | {"EFFNET_PROMISES": "kept"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout
    told = [line for line in done.stdout.splitlines() if "names a test that must run here" in line]
    assert len(told) > 100
    assert not [line for line in told if "test_canonical_json" in line]  # it ran


@pytest.mark.parametrize("document", [*promises.documents(), "CONTRIBUTING.md", promises.PROMISES])
def test_files_that_are_named_and_linked_are_there(document: str) -> None:
    text = (ROOT / document).read_text()
    linked = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    named = re.findall(r"`((?:effnet|tasks|flows|tests|configs|infra|benchmarks|docs)/[\w./-]+\.\w+)", text)
    assert [path for path in linked if not ((ROOT / document).parent / path).exists()] == []
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_a_file_may_be_slow_as_a_whole() -> None:
    assert promises._is_slow("tests/tasks/compute/test_ray_nodes.py::test_a_lost_head_is_told_and_costs_no_step")
    assert not promises._is_slow("tests/test_exchange.py::test_a_teacher_comes_along")
