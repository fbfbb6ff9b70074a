"""Keeps Prefect's database in a store from growing for ever: of ended flow runs, only the newest stay.

Prefect's own service that does this looks once an hour, and the server of one flow is gone before.
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
    # Events belong to no run; those from before the oldest run that is left are of none that can be looked at.
    "delete from events where occurred < (select min(created) from flow_run)",
    "delete from event_resources where event_id not in (select id from events)",
)


def trim(path: Path) -> None:
    """Remove what is known of old flow runs from a Prefect database that no server has open; keep it as it is if that
    is of another version, in use, or broken, which the server will tell: no flow fails for want of tidiness.
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
