"""Prefect's settings for a flow that a person starts at a terminal, and cleanup after killed runs in its database."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effnet.change import family_of
from effnet.process import no_tracebacks

DRAIN_SECONDS = 10.0

# The terminal shows only our own lines, which Prefect's pages show as the flow run's log; Prefect's own are hidden.
_QUIET = {
    "DO_NOT_TRACK": "true",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # for an automation on the server that the flow reports to
}


def quiet_worker() -> None:
    """In a process that a worker started for a flow run, let Prefect log errors as lines, not as tracebacks."""
    if os.environ.get("PREFECT__FLOW_RUN_ID"):
        no_tracebacks()


def configured_api() -> str | None:
    """Return the address of the Prefect API that the user's environment or profile names."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)  # read when Prefect is imported
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


@contextlib.contextmanager
def connected(url: str, pages: str | None = None, *, login: str | None = None, patient: bool = False) -> Iterator[None]:
    """Let the flows in the block report to the Prefect API at `url`; nothing is left to send when the block ends.

    Args:
        url: of the API.
        pages: where links to its pages lead, if it is elsewhere.
        login: of the server, instead of what the user's settings say.
        patient: wait for minutes while the server is away or unwell: a server that others run comes back.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_CLIENT_MAX_RETRIES,
        PREFECT_CLIENT_RETRY_EXTRA_CODES,
        PREFECT_UI_URL,
        temporary_settings,
    )

    settings: dict[Any, Any] = {PREFECT_API_URL: url}
    if pages:
        settings[PREFECT_UI_URL] = pages
    if login:
        settings[PREFECT_API_AUTH_STRING] = login
    if patient:  # retries after 2, 4, 8 … s, over four minutes in all; a server without its database answers 500
        settings |= {PREFECT_CLIENT_MAX_RETRIES: 7, PREFECT_CLIENT_RETRY_EXTRA_CODES: {500}}
    with temporary_settings(settings):
        try:
            yield
        finally:  # a temporary server stops next, and both workers would retry for a minute
            for worker in (APILogWorker, EventsWorker):
                worker.drain_all(timeout=DRAIN_SECONDS)


@contextlib.contextmanager
def started_here() -> Iterator[None]:
    """Tag the flow runs that begin in the block with this machine, for `crash_stale_runs`."""
    from prefect import tags

    with tags(_machine_tag()):
        yield


@contextlib.contextmanager
def untagged() -> Iterator[None]:
    """Keep the flow run's tags off task runs that begin in the block.

    For every tag of a task run, Prefect asks its server for a concurrency slot, which locks an SQLite database.
    """
    from prefect.context import TagsContext

    with TagsContext(current_tags=set()):
        yield


def _machine_tag() -> str:
    return f"machine:{platform.node()}"


def crash_stale_runs(flow_name: str, family: str, store: Path, *, of_store: bool) -> None:
    """Mark as crashed those runs of a flow for this family, and their task runs, that Prefect believes to be running.

    Only runs with this store are marked: the caller holds the family there, so none can be running. If a run was
    stopped, its flow run is already in a final state, but perhaps not its task runs.

    Args:
        flow_name: of the flow.
        family: that its config names.
        store: the store's folder.
        of_store: whether the server is the store's own. On another one, a machine elsewhere may have a store at the
            same path: there only runs that commands of this machine started are marked.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterTags,
        TaskRunFilter,
        TaskRunFilterState,
    )
    from prefect.client.schemas.filters import FlowRunFilterStateType as FlowStateType
    from prefect.client.schemas.filters import TaskRunFilterStateType as TaskStateType
    from prefect.client.schemas.objects import FlowRun, State, StateType
    from prefect.states import Crashed

    def is_ours(run: FlowRun) -> bool:
        named = family_of(run.parameters.get("config"), run.parameters.get("change"))
        return named == family and run.parameters.get("store") == str(store)

    crashed: State[Any] = Crashed(message="its process was killed")
    flow = FlowFilter(name=FlowFilterName(any_=[flow_name]))
    here = None if of_store else FlowRunFilterTags(all_=[_machine_tag()])  # a container's host name is always new
    running = FlowRunFilterState(type=FlowStateType(any_=[StateType.RUNNING]))
    begun = TaskRunFilterState(type=TaskStateType(any_=[StateType.RUNNING, StateType.PENDING]))
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_filter=flow, flow_run_filter=FlowRunFilter(tags=here, state=running)):
            if is_ours(run):
                client.set_flow_run_state(run.id, crashed, force=True)
        tasks = client.read_task_runs(
            flow_filter=flow, flow_run_filter=FlowRunFilter(tags=here), task_run_filter=TaskRunFilter(state=begun)
        )
        runs = {task.flow_run_id for task in tasks if task.flow_run_id}
        left = {run_id for run_id in runs if is_ours(client.read_flow_run(run_id))}
        for task in tasks:
            if task.flow_run_id in left:
                client.set_task_run_state(task.id, crashed, force=True)
