"""Part: which shards of a dataset one of several machines writes (effnet.data.shards.parts does it)."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from effnet.config import DataConfig
from effnet.values import Value


class Part(Value):
    """Every `parts`th shard of a dataset, from number `part` on."""

    data: DataConfig
    source: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$", description="key of the source (effnet.data.shards.write)")]
    base: Annotated[str, Field(description="folder that relative paths in the source start from")] = "."
    part: Annotated[int, Field(ge=0)]
    parts: Annotated[int, Field(ge=1)]
    to: Annotated[str | None, Field(description="place that all machines can reach, if the store is not shared")] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.part >= self.parts:
            raise ValueError(f"part must be below {self.parts} (got {self.part})")
        return self
