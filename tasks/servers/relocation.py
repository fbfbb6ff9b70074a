"""Makes a moved or copied store work in its new place: the absolute addresses inside it are updated.

MLflow's database holds the address of every run's and model's files, Prefect's the store that a deployed flow works in,
and a run the weights that it starts from or learns from. If these stayed as they are, a copy would write into the
original.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from effnet.store import Store, hold, publish
from tasks.servers import local as servers

RECORD = "store.json"  # where the store was when it was opened last
_NO_ADDRESSES = frozenset({"metrics", "latest_metrics", "log", "events", "event_resources"})  # large, or history


def settle(store: Store, say: Callable[[str], None]) -> None:
    """Update the addresses in a store that was moved or copied since it was last opened, and record where it is now.

    Args:
        store: the store; its root is there.
        say: told in one line if there was anything to update.
    """
    root = store.root
    if _recorded(root) == root:
        return  # the usual case, except at the first opening or after a move
    with hold(root / "store.lock"):
        old = _recorded(root) or _guessed(root)
        if old and old.exists() and os.path.samefile(old, root):
            return  # the same folder by another name: what is written here leads to the same files
        if old:
            copied = _is_store(old)
            _forget_servers(root, copied=copied)
            moved = _mover(old, root)
            for database in (root / "mlflow.db", servers.prefect_database(root)):
                if database.exists():
                    _mend_database(database, moved)
            _mend_starts(store, moved)
            say(f"store {root}: was {'copied from' if copied else 'at'} {old}; its addresses now point here")
        publish(root / RECORD, json.dumps({"root": str(root)}).encode())


def _recorded(root: Path) -> Path | None:
    try:
        return Path(json.loads((root / RECORD).read_bytes())["root"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _guessed(root: Path) -> Path | None:
    """Return where a store without a record was when MLflow's database got its first family."""
    if not (root / "mlflow.db").exists():
        return None
    with closing(sqlite3.connect(root / "mlflow.db")) as database:
        try:
            rows = database.execute("select artifact_location, name from experiments").fetchall()
        except sqlite3.DatabaseError:
            return None
    for location, name in rows:
        path, end = location.removeprefix("file://"), f"/artifacts/{name}"
        if path.endswith(end):
            return Path(path.removesuffix(end))
    return None


def _is_store(path: Path) -> bool:
    return any((path / name).exists() for name in (RECORD, "mlflow.db", "runs"))


def _forget_servers(root: Path, *, copied: bool) -> None:
    """Forget the recorded servers: they belong to the original, or work in a folder that no longer exists."""
    if not copied:
        servers.stop(root)
    (root / "servers.json").unlink(missing_ok=True)


def _mover(old: Path, new: Path) -> Callable[[str], str]:
    """Return a function that replaces `old` with `new` in a text: as a path, in a URI, and within JSON."""
    pairs = {form(old): form(new) for form in (str, Path.as_uri, lambda path: json.dumps(str(path))[1:-1])}
    names = "|".join(map(re.escape, sorted(pairs, key=len, reverse=True)))
    pattern = re.compile(rf"(?<![\w.~%-])(?:{names})(?=$|[/\"'?#\s\\])")
    return lambda text: pattern.sub(lambda found: pairs[found.group()], text)


def _mend_database(path: Path, moved: Callable[[str], str]) -> None:
    """Update every text in a database, in one transaction."""
    with closing(sqlite3.connect(path, timeout=60)) as database, database:
        database.execute("begin immediate")
        tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        for table in (name for name in tables if name not in _NO_ADDRESSES):
            for column in [row[1] for row in database.execute(f'pragma table_info("{table}")')]:
                for row, text in database.execute(
                    f'select rowid, "{column}" from "{table}" where typeof("{column}") = \'text\''  # noqa: S608
                ).fetchall():
                    if (mended := moved(text)) != text:
                        query = f'update "{table}" set "{column}" = ? where rowid = ?'  # noqa: S608
                        database.execute(query, (mended, row))


def _mend_starts(store: Store, moved: Callable[[str], str]) -> None:
    """Update the paths of the weights that runs start from or learn from; they are not part of the runs' keys."""
    for path in store.runs.glob("*/config.json"):
        try:
            spec = json.loads(path.read_bytes())
        except ValueError:  # told by who reads the run
            continue
        named = {part: spec[part] for part in ("start", "teacher") if spec.get(part) and spec[part].get("path")}
        mended = {part: value | {"path": moved(value["path"])} for part, value in named.items()}
        if mended != named:
            publish(path, json.dumps(spec | mended, indent=2).encode())
