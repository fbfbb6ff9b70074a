"""What happens to errors that nobody foresaw: one line, and the traceback in a file."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from effnet import process
from effnet.process import last_resort
from tests.tiny import clean_environment, run_effnet, write_tiny

CHILD = """\
import logging, sys, threading
from pathlib import Path
from effnet import process
process.report_to(Path(sys.argv[1]))

def main():
    thread = threading.Thread(target=lambda: [][1])
    thread.start()
    thread.join()
    class Broken:
        def __del__(self):
            raise KeyError("gone")
    Broken()
    try:
        {}["key"]
    except KeyError:
        logging.getLogger("some.library").exception("could not do it")
    raise TypeError("first line\\nsecond line")

process.child_main(main)
"""


def test_a_child_ends_in_one_line_and_writes_its_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "logs")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 70
    assert "Traceback" not in done.stderr
    *beside, last = done.stderr.splitlines()
    assert "effnet did not expect (TypeError: first line)" in last
    report = Path(re.search(r"in (\S+\.txt)", last)[1])
    assert report.parent == tmp_path / "logs"
    assert "TypeError: first line\nsecond line" in report.read_text()
    assert "IndexError" in beside[0]
    assert "KeyError" in beside[1]
    assert "could not do it" in beside[2]
    assert len(beside) == 3


def test_an_error_is_written_once_and_without_a_folder_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("x")
    monkeypatch.delenv("EFFNET_LOGS", raising=False)
    first = last_resort(error)
    assert last_resort(error) == first
    Path(re.search(r"in (\S+\.txt)", first[0])[1]).unlink()
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/proc/none")
    assert "could not be written" in last_resort(ValueError("y"))[0]


def test_a_bug_in_a_command_is_one_line(tmp_path: Path) -> None:
    path = write_tiny(tmp_path)
    (tmp_path / "sitecustomize.py").write_text(
        "import effnet.config\ndef bug(*_):\n    assert 0, 'a bug'\neffnet.config.load_config = bug\n"
    )
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run_effnet("plan", path, cwd=tmp_path, PYTHONPATH=paths)
    assert done.returncode == 70
    assert done.stderr.startswith("effnet: an error that effnet did not expect (AssertionError: a bug)")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["train", "shard"])
def test_the_traceback_is_kept_in_the_store(tmp_path: Path, command: str) -> None:
    path = write_tiny(tmp_path)
    (tmp_path / "sitecustomize.py").write_text(
        "from effnet.data.shards import write\ndef bug(*_, **__):\n    assert 0, 'a bug'\nwrite.write_shards = bug\n"
    )
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run_effnet(command, path, "--store", "s", cwd=tmp_path, PYTHONPATH=paths)
    assert done.returncode == 70
    (report,) = (tmp_path / "s" / "logs").glob("traceback-*.txt")
    assert str(report) in done.stderr
    assert done.stderr.strip().count("\n") == 0  # a bar may have been here


def on_a_small_disk(folder: Path, script: str, size: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a folder that is a disk of its own, of which the mount namespace ends with the script."""
    folder.mkdir(exist_ok=True)
    own = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    mount = f"mount -t tmpfs -o size={size} tmpfs {folder} && cd {folder} && "
    environment = clean_environment() | {"PYTHONPATH": os.getcwd(), "PYTHON": sys.executable}
    return subprocess.run(
        [*own, "sh", "-c", mount + script], capture_output=True, text=True, check=False, timeout=300, env=environment
    )


def test_a_full_disk_is_one_line_and_exit_code_65(tmp_path: Path) -> None:
    command = f"$PYTHON -m flows.cli export {model(tmp_path)} --out out"
    done = on_a_small_disk(tmp_path / "disk", command, "16k")
    assert done.returncode == 65, done.stderr
    assert "the disk is full" in done.stderr
    assert done.stderr.startswith("effnet: ")
    assert done.stderr.count("\n") == 1


def test_a_disk_too_small_for_prefects_database_is_told(tmp_path: Path) -> None:
    path = write_tiny(tmp_path)
    done = on_a_small_disk(tmp_path / "disk", f"$PYTHON -m flows.cli family {path} --store store", "200k")
    assert done.returncode == 65, done.stderr
    begun, told = done.stderr.splitlines()
    assert begun == "effnet: starting Prefect"
    assert "the disk is full" in told


def test_names_that_are_not_utf8_are_told(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    (tmp_path / os.fsdecode(folder) / "a.yaml").write_text("family: a")
    done = run_effnet("plan", os.fsdecode(folder) + "/a.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert r"caf\xe9/a.yaml: a name that is not UTF-8" in done.stderr
    assert run_effnet("plan", "a.yaml", cwd=os.fsdecode(folder)).returncode == 2


def model(folder: Path) -> Path:
    from effnet.arch import zoo
    from effnet.models.build import build
    from effnet.models.weights import save_model

    write_tiny(folder)
    save_model(folder / "model", build(zoo.find("tiny-baseline.yaml", folder), 3, seed=0))
    return folder / "model"


@pytest.mark.parametrize(("text", "given"), [("", ()), ("%s of %s", ("one",))])
def test_an_error_that_is_logged_badly_raises_no_other(tmp_path: Path, text: str, given: tuple[str, ...]) -> None:
    child = (
        "import logging, sys; from effnet import process\n"
        "process.no_tracebacks()\n"
        "try: 1 / 0\n"
        f"except ZeroDivisionError: logging.getLogger('some.library').warning({text!r}, *{given!r}, exc_info=True)\n"
        "print('went on')"
    )
    command = [sys.executable, "-c", child]
    done = subprocess.run(command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.stdout == "went on\n"
    assert done.stderr == f"{text} [ZeroDivisionError: division by zero]\n"


def test_a_read_only_file_system_is_no_bug_of_ours() -> None:
    line, code = last_resort(OSError(errno.EROFS, "Read-only file system", "/store/store.lock"))
    assert line.startswith("/store/store.lock: a read-only file system;")
    assert code == 2


def test_a_job_that_begins_after_the_parent_is_gone_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(process.PARENT_PIPE, "1")
    monkeypatch.setattr(process, "_on_parent_gone", None)
    monkeypatch.setattr(process, "_parent_gone", False)
    read, write = os.pipe()
    kept = os.dup(0)
    os.dup2(read, 0)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        first: list[str] = []
        process.stop_on_signals(first.append)
        os.close(write)
        deadline = time.monotonic() + 10
        while not first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert first == ["the process that started it is gone"]
        process.note_stopping(False)  # the process is given another job
        second: list[str] = []
        process.stop_on_signals(second.append)
        assert second == first
        assert process.stopping()
    finally:
        os.dup2(kept, 0)
        for each in (kept, read):
            os.close(each)
        for number, handler in before.items():
            signal.signal(number, handler)
