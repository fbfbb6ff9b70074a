"""What a job on another machine does, as a value that the family's side and the machine's side know.

Of a work pool: flows/run_job.py. On Ray: tasks/compute/ray_host.py.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from effnet.config import PerGpu
from effnet.data.shards.parts import is_written
from effnet.hits import run_hits
from effnet.order import Order
from effnet.runs import RunFolder, read_journal
from effnet.store import Store, digest
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
    def sends_as(self) -> str:
        """The name under which it sends what its first order's runs become, on Ray; of all its machines."""
        return f"{key_of(self.orders[0])}-{self.attempt}"

    @property
    def machines(self) -> int:
        """How many machines do this together."""
        return self.orders[0].machines


def key_of(order: Order) -> str:
    """Return what an order is found again by: what is to be done, however and wherever."""
    return digest(order.model_dump(mode="json", include={"action", "runs", "shards", "until"}))


def is_fulfilled(order: Order, store: Store) -> bool:
    """Say whether a store has what was ordered."""
    folders = [RunFolder(store.runs / key) for key in order.runs]
    if part := order.shards:
        return is_written(part, store.datasets)
    if order.action == "evaluate":
        return all(folder.evaluation_path.exists() and run_hits(folder, "val") is not None for folder in folders)
    if order.action == "hits":
        return all(run_hits(folder, "minival") is not None for folder in folders)
    if order.action == "latency":
        return all(folder.latency_path.exists() for folder in folders)
    return all(
        folder.result_path.exists()
        or (order.until is not None and len(read_journal(folder.metrics_path)[0]) >= order.until)
        for folder in folders
    )


def progress(order: Order, store: Store) -> int:
    """Return how far an order's trainings are, in bytes of their journals."""
    paths = [RunFolder(store.runs / key).metrics_path for key in order.runs]
    return sum(path.stat().st_size for path in paths if path.exists())
