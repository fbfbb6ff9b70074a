"""The flow that a work pool runs: trainings and evaluations on the worker's machine."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Failed

from effnet.errors import EffnetError
from tasks.compute.job import do_job
from tasks.compute.orders import PoolJob
from tasks.compute.pool import state_name
from tasks.servers.prefect_setup import quiet_worker


@flow(name="run_job", persist_result=False)
def run_job(job: PoolJob) -> Any:
    """Carry out orders for a family that is built elsewhere.

    Args:
        job: what to do, and where the runs are.
    """
    quiet_worker()

    def say(line: str) -> None:
        get_run_logger().info(line)  # of the task run that this is called in

    def warn(line: str) -> None:
        get_run_logger().warning(line)

    try:
        do_job(job, str(flow_run.id), say, warn)
    except EffnetError as error:
        return Failed(name=state_name(error), message=str(error))
    return None
