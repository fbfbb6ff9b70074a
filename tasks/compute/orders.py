"""What a job of a work pool does, as a value that the family's side and the worker's side know (flows/run_job.py)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from effnet.config import PerGpu
from effnet.order import Order
from effnet.values import Value

BEAT_SECONDS = 5.0  # between a job's heartbeats, and between checks for news


class PoolJob(Value):
    """A job: the flow's only parameter."""

    place: Annotated[str, Field(min_length=1, description="the shared store, or the exchange")]
    shared: Annotated[bool, Field(description="whether the place is the store itself")]
    orders: Annotated[tuple[Order, ...], Field(min_length=1)]
    parallel: Annotated[int, Field(ge=0, le=256, description="orders at a time, at most; 0: one per GPU or core")] = 0
    per_gpu: PerGpu = 1
    threads: Annotated[int, Field(ge=1, le=256, description="threads of each child process")] = 1
    gpus: Annotated[
        int, Field(ge=0, le=64, description="GPUs that the machine must have, or the job fails at once")
    ] = 0
    machine: Annotated[int, Field(ge=0, description="which of the order's machines this job is")] = 0
    first: Annotated[str, Field(description="name of machine 0's heartbeat, for the others")] = ""
    cache_bytes: Annotated[int, Field(gt=0, description="disk space for fetched shards")] = 100_000_000_000
    attempt: Annotated[int, Field(ge=1, description="counted from 1; each attempt is a job of its own")] = 1

    def content(self) -> dict[str, Any]:
        """Return it as JSON data: a flow's parameter, and what it is found again by.

        `per_gpu` came later: where it has no effect it is left out, for jobs and workers of before.
        """
        return self.model_dump(mode="json", exclude={"per_gpu"} if self.per_gpu == 1 else None)

    @property
    def machines(self) -> int:
        """How many machines do this together."""
        return self.orders[0].machines
