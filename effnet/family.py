"""A family as values: its members before they are trained, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from effnet.answer import Answer, Growth
from effnet.arch.cost import count
from effnet.arch.scaling import Coefficients, scale
from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig
from effnet.runs import CACHE_VERSION
from effnet.store import digest
from effnet.values import Value


class Member(Value):
    """One member of the family, as planned."""

    name: str  # B0, B1, ...
    phi: float
    architecture: Architecture
    params: int
    macs: int


class SeedResult(Value):
    """One training of a member."""

    run_key: str
    top1: float


class MemberResult(Value):
    """One member, trained with one or more seeds and evaluated. Fractions are between 0 and 1."""

    name: str
    phi: float
    resolution: int
    params: int
    macs: int
    top1: float  # mean over seeds
    top5: float
    latency_ms: float
    latency_on: str = ""  # threads and processor, and whether other work disturbed it
    seconds: float  # of a training, mean over seeds
    run_key: str  # of the training whose model is the member's: the one that is best on minival
    mlflow_run_id: str | None
    reused: bool  # all of its trainings were there before
    seeds: tuple[SeedResult, ...] = ()  # all of its trainings, by seed; none in files of earlier versions

    @property
    def runs(self) -> list[str]:
        """Keys of all its trainings."""
        return [seed.run_key for seed in self.seeds] or [self.run_key]

    @property
    def scores(self) -> list[float]:
        """Top-1 of each of its trainings."""
        return [seed.top1 for seed in self.seeds] or [self.top1]


class FamilyResult(Value):
    """What `effnet family --json` prints."""

    family: str
    key: str  # of the build: the name of its folder below families/
    dataset: str
    val_samples: int  # images that the scores below were measured on
    coefficients: Annotated[dict[str, float], Field(description="alpha, beta, gamma")]
    members: tuple[MemberResult, ...]
    answer: Answer | None = None  # none in files of earlier versions
    growth: Growth | None = None  # none where all members cost the same


def plan_members(
    baseline: Architecture, config: FamilyConfig, coefficients: Coefficients, num_classes: int
) -> list[Member]:
    """Return the baseline scaled by α^φ, β^φ, γ^φ for every φ of the config (paper, equation 3)."""
    phis = config.members.phi
    low, high = config.members.dropout
    members = []
    for number, phi in enumerate(phis):
        share = (phi - phis[0]) / (phis[-1] - phis[0]) if len(phis) > 1 else 0.0
        arch = scale(
            baseline,
            coefficients.at(phi),
            resolution_multiple=config.resolution_multiple,
            dropout=round(low + share * (high - low), 4),
            name=f"{config.family}_b{number}",
        )
        cost = count(arch, num_classes)
        members.append(Member(name=f"B{number}", phi=phi, architecture=arch, params=cost.params, macs=cost.macs))
    return members


def build_key(config: FamilyConfig, baseline: Architecture, dataset: str) -> str:
    """Return 16 hex digits that builds of the same family share; where and how fast it runs is not part of them."""
    data = config.model_dump(mode="json", exclude={"store": True, "compute": True, "recipe": {"checkpoint_minutes"}})
    return digest({"version": CACHE_VERSION, "config": data, "baseline": baseline.key(), "dataset": dataset})[:16]


def how_scaled(family: FamilyResult) -> str:
    """Say which dimensions the family's coefficients scale."""
    scaled = [
        name
        for name, value in zip(("depth", "width", "resolution"), family.coefficients.values(), strict=True)
        if value > 1
    ]
    return (
        "scaled in depth, width and resolution"
        if len(scaled) == 3
        else f"scaled in {' and '.join(scaled) or 'nothing'}"
    )


def latency_story(members: Sequence[MemberResult]) -> str:
    """Say in a sentence or two what the members' latencies were measured on."""
    places: dict[str, list[str]] = {}
    for member in members:
        places.setdefault(member.latency_on or "1 thread", []).append(member.name)
    if len(places) == 1:
        return f"Latency: median time of one image, {next(iter(places))}."
    told = "; ".join(f"{', '.join(names)}: {place}" for place, names in places.items())
    return f"Latency: median time of one image. {told}."
