"""Work that Prefect shows as a task run: a bar on the flow run's timeline, with its state, reason, log and duration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Failed

from effnet.errors import EffnetError, StoppedError
from tasks.terminal.flow_page import LATIN


def as_task_run(name: str, work: Callable[[], None]) -> None:
    """Do work as a task run of this flow run: red with its reason if it fails, cancelled if it was asked to stop.

    Raises:
        EffnetError: what the work raises.
    """
    raised: list[EffnetError] = []

    def attempt() -> State[Any] | None:
        try:
            work()
        except EffnetError as error:  # returned as a state: Prefect would log a raised error with its traceback
            raised.append(error)
            state = Cancelled if isinstance(error, StoppedError) else Failed
            return state(message=str(error))
        return None

    _task_run(name.translate(LATIN), attempt, return_state=True)
    if raised:
        raise raised[0]


@task(task_run_name="{name}", cache_policy=NO_CACHE)
def _task_run(name: str, attempt: Callable[[], State[Any] | None]) -> State[Any] | None:  # noqa: ARG001 - the name
    return attempt()
