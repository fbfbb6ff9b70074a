"""A family as values: its members before they are trained, and what became of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field

from effnet.answer import Answer, Growth
from effnet.approval import Approval
from effnet.arch import zoo
from effnet.arch.cost import count
from effnet.arch.scaling import Coefficients, scale
from effnet.arch.spec import Architecture
from effnet.champion import Standing
from effnet.config import FamilyConfig, SearchedBaseline
from effnet.errors import ConfigError, DataError
from effnet.forecast.findings import LeftOut, Outlook
from effnet.history import Changes
from effnet.runs import BESIDE, CACHE_VERSION, read_value, without_new
from effnet.store import Store, digest
from effnet.values import Value


class Member(Value):
    """One member of the family, as planned."""

    name: str  # B0, B1, ...
    phi: float
    architecture: Architecture
    params: int
    macs: int


LARGEST = "largest"


def teaching_member(name: str | None, members: Sequence[Member]) -> Member | None:
    """Return the member that a recipe's teacher names; None if it names none, but a run or a file.

    Args:
        name: `largest`, which means most multiply-adds, or a member's name, in any case; or something else, or nothing.
        members: of the family.
    """
    if name == LARGEST:
        return max(members, key=lambda member: member.macs)
    return next((member for member in members if name and member.name.lower() == name.lower()), None)


def is_taught(member: Member, teaching: Member | None) -> bool:
    """Say whether a member learns from the one who teaches: not that one, nor one that rounding makes its equal.

    Args:
        member: of the family.
        teaching: of it as well; None where all learn from a network from elsewhere.
    """
    return teaching is None or member.architecture.key() != teaching.architecture.key()


def need_pupils(teaching: Member | None, members: Sequence[Member]) -> None:
    """Raise ConfigError if a member is to teach, and none of the others differs from it."""
    if teaching and not any(is_taught(member, teaching) for member in members):
        raise ConfigError(
            f"recipe.teacher: {teaching.name} has nobody to teach: no other member differs from it; "
            "leave it out, or give more members"
        )


class SeedResult(Value):
    """One training of a member."""

    run_key: str
    top1: float
    fold: int = 1  # from 1 on; of folds the trainings on one come first


class OutOfFold(Value):
    """Top-1 of a member whose trainings' folds were minival in turn, on all their images."""

    top1: float  # each image judged by the network that did not learn from it; mean over seeds
    low: float  # of its 95 % interval, over images and seeds
    high: float
    images: int  # of train and minival


class MemberResult(Value):
    """One member, trained with one or more seeds and evaluated. Fractions are between 0 and 1."""

    name: str
    phi: float
    resolution: int
    params: int
    macs: int
    top1: float  # on val, as all that follows unless it says otherwise; mean over its trainings
    top5: float
    latency_ms: float
    latency_on: str = ""  # threads and processor, and whether other work disturbed it
    seconds: float  # of a training, mean over all
    run_key: str  # of the training whose model is the member's: best on minival of those on the first fold
    mlflow_run_id: str | None
    reused: bool  # all of its trainings were there before
    grown_from: str | None = None  # network whose weights its trainings started from, grown
    teacher: str | None = None  # member or network that its trainings learnt from
    features_alone: float | None = None  # top-1 of the probe of its model's training, if that started from weights
    features_kept: bool = False  # its model is that probe: no epoch was better on minival
    seeds: tuple[SeedResult, ...] = ()  # all of its trainings, by fold and seed; none in files of earlier versions
    out_of_fold: OutOfFold | None = None  # with members.folds
    foretold: Outlook | None = None  # what it was expected to reach; none without a forecast that says so

    @property
    def latency_disturbed(self) -> bool:
        """Whether other work disturbed its latency when it was measured."""
        return self.latency_on.endswith(BESIDE)

    @property
    def runs(self) -> list[str]:
        """Keys of all its trainings."""
        return [seed.run_key for seed in self.seeds] or [self.run_key]

    @property
    def folds(self) -> list[list[str]]:
        """Keys of its trainings on each fold, by seed; all of them in one list if there are no folds."""
        found: dict[int, list[str]] = {}
        for seed in self.seeds:
            found.setdefault(seed.fold, []).append(seed.run_key)
        return list(found.values()) or [[self.run_key]]

    @property
    def scores(self) -> list[float]:
        """Top-1 of each of its trainings."""
        return [seed.top1 for seed in self.seeds] or [self.top1]


RESULT = "family.json"  # FamilyResult, in the folder of a build


class FamilyResult(Value):
    """What `effnet family --json` prints."""

    family: str
    key: str  # of the build: the name of its folder below families/
    dataset: str
    val_samples: int  # images that the scores below were measured on
    coefficients: Annotated[dict[str, float], Field(description="alpha, beta, gamma; none of members as published")]
    members: tuple[MemberResult, ...]
    answer: Answer | None = None  # none in files of earlier versions
    growth: Growth | None = None  # none where all members cost the same
    approvals: tuple[Approval, ...] = ()  # what a person let begin, where the config has approve_above
    standings: tuple[Standing, ...] = ()  # its members' models in the registry; none where MLflow was away
    left_out: tuple[LeftOut, ...] = ()  # members that members.stop_when left out
    changes: Changes | None = None  # since the last build of a family of this name; none in the first


def families_of(store: Store) -> Iterator[FamilyResult]:
    """Yield the families of a store, the one that was built last first; none that another version wrote."""
    for path in sorted(store.families.glob(f"*/{RESULT}"), key=lambda path: -path.stat().st_mtime):
        try:
            family = read_value(FamilyResult, path)
        except DataError:  # or broken: the runs themselves still have names
            continue
        if family:
            yield family


def plan_members(
    baseline: Architecture, config: FamilyConfig, coefficients: Coefficients | None, num_classes: int
) -> list[Member]:
    """Return the baseline scaled by α^φ, β^φ, γ^φ for every φ of the config (paper, equation 3).

    Members as published are the zoo's networks; their φ is their place, as the paper counts them.
    """
    if coefficients is None or config.members.published:
        return [
            _member(_title(name), float(place), zoo.get(name), num_classes)
            for place, name in enumerate(config.members.published)
        ]
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
        members.append(_member(f"B{number}", phi, arch, num_classes))
    return members


def _member(name: str, phi: float, arch: Architecture, num_classes: int) -> Member:
    cost = count(arch, num_classes)
    return Member(name=name, phi=phi, architecture=arch, params=cost.params, macs=cost.macs)


def _title(network: str) -> str:
    """Return what people call a published network: B0 for efficientnet_b0, V2-S for efficientnet_v2_s."""
    plain = network.partition(".")[0]
    short = plain.removeprefix("efficientnet_")
    return "-".join(map(str.capitalize, short.split("_"))) if short != plain else plain


def build_key(config: FamilyConfig, baseline: Architecture, dataset: str, shuffle_shards: int | None = None) -> str:
    """Return 16 hex digits that builds of the same family share; where and how fast it runs is not part of them.

    Args:
        config: of the family.
        baseline: that its members are scaled from.
        dataset: digest of its images.
        shuffle_shards: of its trainings, where that is not the recipe's (effnet.data.shards.room).
    """
    where = {"store": True, "compute": True, "approve_above": True}
    data = config.model_dump(mode="json", exclude={**where, "recipe": {"checkpoint_minutes"}})
    data["recipe"] = without_new(data["recipe"])
    if shuffle_shards is not None:
        data["recipe"]["shuffle_shards"] = shuffle_shards
    later = (
        (data, "weights"),
        (data, "grow"),
        (data, "forecast"),
        (data["members"], "stop_when"),
        (data["data"], "group"),
        (data["members"], "published"),
        (data["data"], "fold"),
        (data["study"] or {}, "multipliers"),
    )
    if config.members.folds == 1:
        del data["members"]["folds"]
    if isinstance(config.baseline, SearchedBaseline) and config.baseline.search.blocks == ("mbconv",):
        del data["baseline"]["search"]["blocks"]
    for holder, name in later:
        if not holder.get(name):  # it came later: without it a family keeps its key
            holder.pop(name, None)
    return digest({"version": CACHE_VERSION, "config": data, "baseline": baseline.key(), "dataset": dataset})[:16]


def how_scaled(family: FamilyResult) -> str:
    """Say which dimensions the family's coefficients scale."""
    if not family.coefficients:
        return "as published"
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


def growth_story(members: Sequence[MemberResult]) -> str:
    """Say which members started from a smaller network's weights; empty where none did."""
    grown = [member for member in members if member.grown_from]
    if not grown:
        return ""
    names, source = ", ".join(member.name for member in grown), grown[0].grown_from
    return (
        f"{names} started from the weights of {source}, grown to compute the same: their lead over it is not due to "
        "scale alone."
    )


def teacher_story(members: Sequence[MemberResult]) -> str:
    """Say which members learnt from a teacher; empty where none did."""
    taught: dict[str, list[str]] = {}
    for member in members:
        if member.teacher and not member.features_kept:  # a probe has no teacher
            taught.setdefault(member.teacher, []).append(member.name)
    told = "; ".join(f"{', '.join(names)} learnt from {teacher} as well" for teacher, names in taught.items())
    return f"{told}: what they reach is not due to scale alone." if told else ""


def left_out_story(left_out: Sequence[LeftOut]) -> str:
    """Say which members were not trained, and why; empty where all were."""
    told = "; ".join(f"{each.name}: {each.why}" for each in left_out)
    return f"Left out by the forecast (members.stop_when): {told}." if told else ""


def foretold_story(members: Sequence[MemberResult]) -> str:
    """Say what was foretold of each member beside what it reached; empty without a forecast."""
    told = [
        f"{member.name} {each.told()}, reached {100 * member.top1:.1f}"
        for member in members
        if (each := member.foretold) and each.top1 is not None
    ]
    return f"Foretold, with 95 % intervals: {'; '.join(told)}." if told else ""


def floor_story(members: Sequence[MemberResult]) -> str:
    """Say what a classifier on the weights' features alone reaches; empty where no member started from weights."""
    told = [f"{each.name} {each.features_alone:.1%}" for each in members if each.features_alone is not None]
    if not told:
        return ""
    kept = [member.name for member in members if member.features_kept]
    also = (
        f" {', '.join(kept)} {'is' if len(kept) == 1 else 'are'} just that: no epoch was better on minival."
        if kept
        else ""
    )
    return f"The features alone, without fine-tuning, give {', '.join(told)}.{also}"


def folds_story(members: Sequence[MemberResult]) -> str:
    """Say what out-of-fold scores are, and which fold's networks are the members'; empty without folds."""
    found = members[0].out_of_fold
    if found is None:
        return ""
    return (
        f"Out of fold is top-1 on the {found.images:,} images of train and minival, each judged by the one of "
        f"{len(members[0].folds)} networks that did not learn from it; a member's model is that of the first fold."
    )


def folds_scores(members: Sequence[MemberResult]) -> str:
    """Say each member's top-1 out of fold, with its interval; empty without folds."""
    told = [
        f"{member.name} {found.top1:.1%} ({100 * found.low:.1f} to {100 * found.high:.1f})"
        for member in members
        if (found := member.out_of_fold)
    ]
    return f"Out of fold: {', '.join(told)}." if told else ""


def latency_story(members: Sequence[MemberResult]) -> str:
    """Say in a sentence or two what the members' latencies were measured on."""
    places: dict[str, list[str]] = {}
    for member in members:
        places.setdefault(member.latency_on or "1 thread", []).append(member.name)
    if len(places) == 1:
        return f"Latency: median time of one image, {next(iter(places))}."
    told = "; ".join(f"{', '.join(names)}: {place}" for place, names in places.items())
    return f"Latency: median time of one image. {told}."
