"""The flow that a work pool runs: trainings and evaluations on the worker's machine."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Failed

from effnet.errors import EffnetError
from tasks.compute.job import do_job
from tasks.compute.orders import PoolJob
from tasks.compute.pool import state_name
from tasks.servers.prefect_setup import quiet_worker
from tasks.terminal.flow_page import RunLog


@flow(name="run_job", persist_result=False)
def run_job(job: PoolJob) -> Any:
    """Carry out orders for a family that is built elsewhere.

    Args:
        job: what to do, and where the runs are.
    """
    quiet_worker()
    log = RunLog()
    try:
        do_job(job, str(flow_run.id), log.info, log.warning)
    except EffnetError as error:
        return Failed(name=state_name(error), message=str(error))
    return None
