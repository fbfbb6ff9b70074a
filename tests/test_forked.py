"""What tests.forked runs is a process of its own, like one that was started anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests import forked
from tests.tiny import run_effnet

TELLS = """
import atexit, json, os, sys
atexit.register(lambda: open("left", "w").close())
print(json.dumps([os.getpid(), os.getppid(), os.getcwd(), sys.argv[1:], dict(os.environ), "prefect" in sys.modules]))
print("error", file=sys.stderr)
os.environ["NEXT"] = "seen"
sys.exit({end})
"""


def tell(folder: Path, end: str = "7", timeout: float = 60) -> tuple[int, str, str]:
    (folder / "tells.py").write_text(TELLS.format(end=end))
    return forked.run("tells", ["a", "b c"], str(folder), {"MINE": "1"}, timeout)


def test_it_has_its_own_folder_words_environment_output_and_code(tmp_path: Path) -> None:
    pids = set()
    for _ in range(2):  # the second one sees nothing of the first
        code, output, errors = tell(tmp_path)
        pid, parent, folder, words, environment, prefect = json.loads(output)
        assert (code, errors) == (7, "error\n")
        assert (folder, words, environment, prefect) == (str(tmp_path), ["a", "b c"], {"MINE": "1"}, False)
        assert os.getpid() not in (pid, parent)
        assert (tmp_path / "left").exists()
        pids.add(pid)
    assert len(pids) == 2


@pytest.mark.parametrize(("end", "code"), [("0", 0), ("None", 0), ("'told'", 1), ("1 / 0", 1)])
def test_it_ends_as_an_interpreter_does(tmp_path: Path, end: str, code: int) -> None:
    found, _, errors = tell(tmp_path, end)
    assert found == code
    assert ("told" in errors, "ZeroDivisionError" in errors) == ("told" in end, "/" in end)


def test_one_that_is_killed_and_one_that_takes_too_long(tmp_path: Path) -> None:
    assert tell(tmp_path, "os.kill(os.getpid(), 9)")[0] == -signal.SIGKILL
    with pytest.raises(subprocess.TimeoutExpired):
        tell(tmp_path, "__import__('time').sleep(60)", timeout=2)


def test_the_command_is_the_same_as_in_a_new_interpreter(tmp_path: Path) -> None:
    words = ("predict", "nowhere", "a.png")
    one, other = run_effnet(*words, cwd=tmp_path), run_effnet(*words, cwd=tmp_path, NEW="1")
    assert one.returncode == other.returncode == 2
    assert (one.stdout, one.stderr) == (other.stdout, other.stderr)
    assert one.stderr.startswith("effnet: ")
