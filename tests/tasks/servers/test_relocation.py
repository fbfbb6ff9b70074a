"""A store that is copied or moved: what is in it says where it is now, and the original is left alone."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from effnet.errors import ConfigError
from effnet.runs import RunFolder, RunSpec, Start, Teacher
from effnet.store import Store
from tasks.servers.local import Server, Servers
from tasks.servers.relocation import settle


def make(root: Path, spec: RunSpec) -> Store:
    """Make a store with an address in every place where there are some."""
    store = Store.at(root)
    store.prepare()
    settle(store, print)
    text = (root / "artifacts" / "tiny").as_uri()
    near = f"{root}-2/artifacts /other{root} {root}x"  # that look like it
    (root / "prefect").mkdir()
    for name in ("mlflow.db", "prefect/prefect.db"):
        with sqlite3.connect(root / name) as database:
            database.execute("create table t (id text primary key, a text, b json, c blob)")
            parameters = json.dumps({"store": str(root), "deep": [f"sqlite:///{root}/mlflow.db"], "near": near})
            database.execute("insert into t values (?, ?, ?, ?)", ("x", text, parameters, str(root).encode()))
    start = Start(path=str(root / "runs" / "a" / "model.safetensors"), sha256="0" * 64)
    file = str(root / "teachers" / "b3.safetensors")
    teacher = Teacher(architecture=spec.architecture, path=file, sha256="0" * 64)
    recipe = spec.recipe.model_copy(update={"teacher": file})
    RunFolder.create(store, spec.model_copy(update={"start": start, "teacher": teacher, "recipe": recipe}))
    server = Server(name="prefect", url="http://127.0.0.1:1", pid=1, started=0.0)
    (root / "servers.json").write_text(Servers(servers=(server,)).model_dump_json())
    return store


def addresses(root: Path) -> set[str]:
    """Return everything in a store that says where it is."""
    found = set()
    for name in ("mlflow.db", "prefect/prefect.db"):
        with sqlite3.connect(root / name) as database:
            (text, parameters, raw) = database.execute("select a, b, c from t").fetchone()
        values = json.loads(parameters)
        found |= {text, values["store"], *values["deep"], values["near"], raw.decode()}
    (config,) = (root / "runs").glob("*/config.json")
    spec = RunFolder(config.parent).spec()  # it is still this folder's
    assert spec.start is not None
    assert spec.teacher is not None
    assert spec.teacher.path is not None
    return found | {spec.start.path, spec.teacher.path}


@pytest.mark.parametrize("name", ["original", "ein Laden für Ärger"])
@pytest.mark.parametrize("copied", [True, False])
def test_addresses_are_those_of_here(tmp_path: Path, run_folder: RunFolder, name: str, copied: bool) -> None:
    old, new = tmp_path / name, tmp_path / "elsewhere" / f"{name} 2"
    make(old, run_folder.spec())
    new.parent.mkdir()
    if copied:
        shutil.copytree(old, new)
    else:
        old.rename(new)
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    told: list[str] = []
    for _ in range(2):
        settle(Store.at(new), told.append)
    (line,) = told
    assert f"{'copied from' if copied else 'at'} {old}" in line
    near = f"{old}-2/artifacts /other{old} {old}x"
    assert addresses(new) == {
        (new / "artifacts" / "tiny").as_uri(),
        str(new),
        f"sqlite:///{new}/mlflow.db",
        near,  # of others
        str(old),  # bytes are not looked into
        str(new / "runs" / "a" / "model.safetensors"),
        str(new / "teachers" / "b3.safetensors"),
    }
    assert not (new / "servers.json").exists()  # they are the original's, which `effnet down` must not stop from here
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_that_cannot_be_read_keeps_no_store_from_being_moved(tmp_path: Path, run_folder: RunFolder) -> None:
    make(tmp_path / "old", run_folder.spec())
    broken = tmp_path / "old" / "runs" / ("0" * 16) / "config.json"
    broken.parent.mkdir()
    broken.write_text('{"start": ')
    (tmp_path / "old").rename(tmp_path / "new")
    told: list[str] = []
    settle(Store.at(tmp_path / "new"), told.append)
    assert len(told) == 1
    shutil.rmtree(tmp_path / "new" / "runs" / ("0" * 16))
    assert str(tmp_path / "new" / "runs" / "a" / "model.safetensors") in addresses(tmp_path / "new")


def test_store_from_before_there_was_a_record(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    with sqlite3.connect(old / "mlflow.db") as database:
        database.execute("create table experiments (name text, artifact_location text)")
        row = ("tiny", (old / "artifacts" / "tiny").as_uri())
        database.execute("insert into experiments values (?, ?)", row)
    old.rename(tmp_path / "new")
    told: list[str] = []
    settle(Store.at(tmp_path / "new"), told.append)
    assert f"was at {old}" in told[0]
    with sqlite3.connect(tmp_path / "new" / "mlflow.db") as database:
        (location,) = database.execute("select artifact_location from experiments").fetchone()
    assert location == (tmp_path / "new" / "artifacts" / "tiny").as_uri()


def test_other_name_of_the_same_folder_changes_nothing(tmp_path: Path, run_folder: RunFolder) -> None:
    make(tmp_path / "original", run_folder.spec())
    (tmp_path / "link").symlink_to(tmp_path / "original")
    before = addresses(tmp_path / "original")
    told: list[str] = []
    settle(Store.at(tmp_path / "link"), told.append)
    assert told == []
    assert addresses(tmp_path / "original") == before


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store.at("~/x").root == tmp_path / "x"
    with pytest.raises(ConfigError, match="write the whole path"):
        Store.at("~nobody-at-all/x")
