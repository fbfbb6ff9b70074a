"""Orders: what one child process does, as a value that travels to any machine (effnet.child carries it out)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from effnet.data.shards.part import Part
from effnet.values import Value


class Rendezvous(Value):
    """Where the machines that train one network together find each other."""

    address: Annotated[
        str, Field(pattern=r"^.+:[0-9]+$", description="HOST:PORT of machine 0, which all machines can reach")
    ]
    machine: Annotated[int, Field(ge=0, description="number of this machine; the first rank of machine 0 leads")]


class Order(Value):
    """What one child process is to do with runs of a store, or with a part of a dataset."""

    name: str  # for people
    action: Annotated[
        Literal["train", "evaluate", "hits", "latency", "shard"],
        Field(
            description="train runs; score finished ones on val; record which minival images they get right; "
            "time networks, trained or not; write a part of a dataset"
        ),
    ]
    store: Annotated[str, Field(description="folder; filled in on the machine that does it")] = ""
    runs: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")], ...],
        Field(description="their keys, 16 hex digits: `effnet runs --json` has them"),
    ] = ()
    shards: Annotated[Part | None, Field(description="the part of a dataset that `shard` writes")] = None
    size: float = 1.0  # expected, in any unit: the largest order starts first
    ranks: Annotated[int, Field(ge=1, le=256, description="processes of each machine that train together")] = 1
    machines: Annotated[int, Field(ge=1, le=256, description="machines that train the run together")] = 1
    rendezvous: Annotated[Rendezvous | None, Field(description="where several machines find each other")] = None
    until: Annotated[int | None, Field(ge=1, description="epochs after which the training stops early")] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.action == "train" and len(self.runs) != 1:
            raise ValueError(f"an order to train has one run (got {len(self.runs)})")
        if (self.action == "shard") != (self.shards is not None):
            raise ValueError("an order to shard has `shards`, and no other order does")
        if self.rendezvous and self.rendezvous.machine >= self.machines:
            raise ValueError(f"rendezvous.machine must be below machines, {self.machines}")
        return self
