"""Keeps Prefect's database in a store from growing forever: only the newest of the ended flow runs are kept.

Prefect's own cleanup service runs once an hour, and the server of a single flow is gone before that.
"""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import closing
from pathlib import Path

KEPT = 50  # flow runs
_SLACK = 4  # the file is written anew when one page in so many is free

_ENDED = "state_type in ('COMPLETED', 'FAILED', 'CRASHED', 'CANCELLED')"
_OLD = f"select id from flow_run where {_ENDED} order by coalesce(start_time, created) desc limit -1 offset ?"  # noqa: S608
_TRIM = (
    "delete from log where flow_run_id in (select id from old)",
    "delete from artifact where flow_run_id in (select id from old)",
    "delete from artifact_collection where latest_id not in (select id from artifact)",
    "delete from task_run where flow_run_id in (select id from old)",
    "delete from flow_run where id in (select id from old)",
    # Events belong to no run; those older than the oldest remaining run concern none that can still be viewed.
    "delete from events where occurred < (select min(created) from flow_run)",
    "delete from event_resources where event_id not in (select id from events)",
)


def newest_run(path: Path) -> tuple[str, str] | None:
    """Return name and id of the flow run that began last; None if there is none, or nobody can tell."""
    if not path.exists():
        return None
    wanted = "select name, id from flow_run where start_time is not null and parent_task_run_id is null"
    with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        for name, run in database.execute(f"{wanted} order by start_time desc limit 1"):
            return str(name), str(run)
    return None


def trim(path: Path) -> None:
    """Remove old flow runs and their records from a Prefect database that no server has open.

    A database of another version, in use or broken is left as it is: no flow fails for lack of cleanup, and the server
    will report what is wrong.
    """
    if not path.exists():
        return
    with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(path, timeout=5)) as database:
        database.execute("pragma foreign_keys = on")  # states go with their runs
        with database:
            database.execute(f"create temporary table old as {_OLD}", (KEPT,))
            (many,) = database.execute("select count(*) from old").fetchone()
            if not many:
                return
            for statement in _TRIM:
                database.execute(statement)
        (free,), (pages,) = (database.execute(f"pragma {name}").fetchone() for name in ("freelist_count", "page_count"))
        if free * _SLACK > pages:
            database.execute("vacuum")
