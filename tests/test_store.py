"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from effnet.errors import BusyError, ConfigError
from effnet.store import Store, canonical_json, create, digest, hold, publish, publish_folder


def test_canonical_json_is_one_text_for_equal_values() -> None:
    assert canonical_json({"b": 1, "a": [1.5, "é"]}) == '{"a":[1.5,"é"],"b":1}'.encode()
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_publish_replaces_and_leaves_no_temporary(tmp_path: Path) -> None:
    publish(tmp_path / "new" / "file", b"one")
    publish(tmp_path / "new" / "file", b"two")
    assert (tmp_path / "new" / "file").read_bytes() == b"two"
    assert os.listdir(tmp_path / "new") == ["file"]


def test_create_lets_the_first_win(tmp_path: Path) -> None:
    assert create(tmp_path / "file", b"one")
    assert not create(tmp_path / "file", b"two")
    assert (tmp_path / "file").read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["file"]


def test_folder_that_raises_vanishes(tmp_path: Path) -> None:
    def write() -> None:
        with publish_folder(tmp_path / "folder") as folder:
            (folder / "half").write_bytes(b"x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert os.listdir(tmp_path) == []


def test_hold_is_busy_for_others_and_free_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys, pathlib; from effnet.store import hold\n"
        "with hold(pathlib.Path(sys.argv[1]), 'x'): print('held', flush=True); input()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(BusyError, match="taken"), hold(path, "taken"):
        pass
    process.kill()
    process.wait()
    with hold(path, "taken"):
        pass


def test_store_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be written"):
        Store(tmp_path / "file").prepare()
    with pytest.raises(ConfigError, match="name another folder"):
        Store(Path("/proc/effnet")).prepare()


def test_store_whose_path_no_database_address_can_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="question mark"):
        Store.at(tmp_path / "what?" / "store")
    assert Store.at(tmp_path / "a b #1 %20 é").root == tmp_path / "a b #1 %20 é"
