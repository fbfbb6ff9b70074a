"""What changed from one build of a family to the next: values, a pure comparison, and words for it.

What is compared is read and kept by `tasks.history`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from effnet.statistics import Hits, difference, scatter
from effnet.values import Value

# Fields of a config that are no change of a person's: where the store lies, and what follows from other fields.
_FOLLOWING = {"store", "data.fold", "recipe.left_open"}
_LONGEST = 60  # characters of a value
_NAMED = 8  # classes that are named


class BuiltMember(Value):
    """A member of a finished build."""

    name: str
    top1: float  # on val, mean over its trainings
    runs: tuple[str, ...]  # keys of its trainings


class Built(Value):
    """What is kept of a finished build, so that the next one can say what is different."""

    key: str
    at: str  # when it was finished, UTC, ISO 8601
    config: dict[str, Any]  # plain data
    dataset: str
    samples: dict[str, int]  # images, by split
    classes: int
    environment: dict[str, str]  # versions of packages
    coefficients: dict[str, float]
    answer: str | None  # the member to use
    members: tuple[BuiltMember, ...]
    runs: dict[str, tuple[str, ...]]  # keys of all trainings, by the heading of their stage

    def same(self, other: Built) -> bool:
        """Say whether another build is this one, finished at another time."""
        return self == other.model_copy(update={"at": self.at})

    def member(self, name: str | None) -> BuiltMember | None:
        """Return the member of a name; None if there is none."""
        return next((member for member in self.members if member.name == name), None)


class Pair(NamedTuple):
    """What an earlier model and one of now are right about, on the images of val that both were scored on."""

    before: Hits  # (seeds, images)
    now: Hits  # (seeds, images), the same images


class FieldChange(Value):
    """A setting, a version or a number that is another one now, as text."""

    name: str
    before: str
    now: str

    @property
    def told(self) -> str:
        """The change in a few words."""
        return f"{self.name} {self.before} → {self.now}"


class StageTrainings(Value):
    """How many trainings of a stage this build made itself."""

    stage: str
    new: int
    reused: int

    @property
    def told(self) -> str:
        """The numbers in a few words."""
        counts = [f"{self.new:,} new"] * bool(self.new) + [f"{self.reused:,} reused"] * bool(self.reused)
        return f"{self.stage}: {', '.join(counts)}"


class Effect(Value):
    """A member before and now. Top-1 is between 0 and 1, of each build's own val."""

    before: str  # name of the member
    now: str
    top1_before: float
    top1_now: float
    same_models: bool = False  # the very trainings of before
    images: int = 0  # of val that both were scored on; 0: none, so that nothing can be said
    lead: float = 0.0  # in top-1, on these
    noise: float = 0.0  # half of the lead's 95 % interval
    seeds: int = 1  # the smaller number of trainings

    @property
    def verdict(self) -> str:
        """Say what the difference is worth; never better or worse without an interval that says so."""
        if self.same_models:
            return "the same models"
        if not self.images:
            return "not comparable: no image of val is the same"
        if abs(self.lead) <= self.noise:
            return "a tie"
        return "better" if self.lead > 0 else "worse"

    @property
    def interval(self) -> str:
        """The difference on the same images, in points; empty where there is none to tell."""
        if self.same_models or not self.images:
            return ""
        alone = ", seeds not counted" if self.seeds < 2 else ""
        return f"{100 * self.lead:+.2f} ± {100 * self.noise:.2f} points on the same {self.images:,} images{alone}"

    @property
    def told(self) -> str:
        """The change in a few words."""
        interval = f"{self.interval}: " if self.interval else ""
        return f"top-1 {self.top1_before:.2%} → {self.top1_now:.2%}, {interval}{self.verdict}"


class Changes(Value):
    """What is different from the build before."""

    before: str  # its key
    at: str  # when it was finished, UTC, ISO 8601
    config: tuple[FieldChange, ...]
    data: tuple[FieldChange, ...]
    classes_added: tuple[str, ...] = ()
    classes_removed: tuple[str, ...] = ()
    environment: tuple[FieldChange, ...]
    coefficients: tuple[FieldChange, ...]
    trainings: tuple[StageTrainings, ...]
    answer: Effect | None  # None if either build named none
    members: tuple[Effect, ...]  # those of both builds
    members_added: tuple[str, ...] = ()
    members_removed: tuple[str, ...] = ()

    @property
    def when(self) -> str:
        """Which build is meant: `the build of 2026-11-26 18:03 UTC (0123456789abcdef)`."""
        return f"the build of {self.at[:16].replace('T', ' ')} UTC ({self.before})"

    @property
    def answer_told(self) -> str:
        """What became of the answer, in a line; empty if either build named none."""
        if self.answer is None:
            return ""
        named = self.answer.now if self.answer.before == self.answer.now else ""
        who = f"{named}, as before" if named else f"{self.answer.before} → {self.answer.now}"
        return f"{who}: {self.answer.told}"


def compare(
    before: Built,
    now: Built,
    new: Collection[str],
    pairs: Mapping[tuple[str, str], Pair],
    classes: tuple[Sequence[str], Sequence[str]] | None = None,
) -> Changes:
    """Return what is different now.

    Args:
        before: the build before.
        now: the one that is told of.
        new: keys of the runs that were trained for it.
        pairs: by the names of a member before and one now, what both are right about.
        classes: names of the classes before and now, where both datasets are still there.
    """
    pooled = scatter(hits.mean(1) for pair in pairs.values() for hits in pair)

    def effect(old: BuiltMember, one: BuiltMember) -> Effect:
        found: dict[str, Any] = {"same_models": set(old.runs) == set(one.runs)}
        if pair := pairs.get((old.name, one.name)):
            gap = difference(np.atleast_2d(pair.now), np.atleast_2d(pair.before), pooled)
            found |= {"images": pair.now.shape[-1], "lead": gap.lead, "noise": gap.noise, "seeds": gap.seeds}
        return Effect(before=old.name, now=one.name, top1_before=old.top1, top1_now=one.top1, **found)

    chosen = before.member(before.answer), now.member(now.answer)
    names = [member.name for member in before.members], [member.name for member in now.members]
    listed = classes or ((), ())
    return Changes(
        before=before.key,
        at=before.at,
        config=tuple(_fields(before.config, now.config)),
        data=tuple(_data(before, now)),
        classes_added=_only(listed[1], listed[0]),
        classes_removed=_only(listed[0], listed[1]),
        environment=tuple(_fields(before.environment, now.environment)),
        coefficients=tuple(_fields(before.coefficients, now.coefficients)),
        trainings=tuple(
            StageTrainings(stage=stage, new=(made := len(set(runs) & set(new))), reused=len(runs) - made)
            for stage, runs in now.runs.items()
        ),
        answer=effect(chosen[0], chosen[1]) if chosen[0] and chosen[1] else None,
        members=tuple(effect(old, one) for one in now.members if (old := before.member(one.name))),
        members_added=_only(names[1], names[0]),
        members_removed=_only(names[0], names[1]),
    )


def pairs_wanted(before: Built, now: Built) -> list[tuple[BuiltMember, BuiltMember]]:
    """Return the members, before and now, whose hits `compare` wants: those that are not the same models."""
    found = [(old, one) for one in now.members if (old := before.member(one.name))]
    chosen = before.member(before.answer), now.member(now.answer)
    if chosen[0] and chosen[1]:
        found.append((chosen[0], chosen[1]))
    return [(old, one) for old, one in dict.fromkeys(found) if set(old.runs) != set(one.runs)]


def told(changes: Changes, most: int = 1000) -> list[tuple[str, str]]:
    """Return what changed as (what, words) rows, in the order in which one thing leads to the next.

    Args:
        changes: from the build before.
        most: fields that a row names; of more it says how many.
    """
    rows = [
        ("config", _listed(changes.config, most) or "as before"),
        ("data", _data_told(changes) or "as before"),
        ("versions", _listed(changes.environment, most) or "as before"),
        ("α, β, γ", _listed(changes.coefficients, most)),
        ("trainings", "; ".join(each.told for each in changes.trainings)),
        ("members", _members_told(changes)),
        ("use", changes.answer_told),
    ]
    return [(what, words) for what, words in rows if words]


def _members_told(changes: Changes) -> str:
    """Say which members came and went, and how many of the others are better, worse or tied."""
    groups: dict[str, Sequence[str]] = {"new": changes.members_added, "gone": changes.members_removed}
    for each in changes.members:
        verdict = each.verdict.partition(":")[0]
        groups[verdict] = [*groups.get(verdict, ()), each.now]
    return "; ".join(f"{', '.join(names)}: {verdict}" for verdict, names in groups.items() if names)


def _data_told(changes: Changes) -> str:
    found = [each.told for each in changes.data]
    for how, names in (("added", changes.classes_added), ("removed", changes.classes_removed)):
        if names:
            more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
            found.append(f"classes {how}: {', '.join(names[:_NAMED])}{more}")
    return "; ".join(found)


def _listed(changes: Sequence[FieldChange], most: int) -> str:
    more = [f"{len(changes) - most} more"] if len(changes) > most else []
    return "; ".join([*(each.told for each in changes[:most]), *more])


def _data(before: Built, now: Built) -> Iterator[FieldChange]:
    if before.dataset == now.dataset:
        return
    yield FieldChange(name="dataset", before=before.dataset, now=now.dataset)
    totals = sum(before.samples.values()), sum(now.samples.values())
    counts = {"images": totals, "classes": (before.classes, now.classes)}
    counts |= {split: (before.samples.get(split, 0), images) for split, images in now.samples.items()}
    for name, (old, new) in counts.items():
        if old != new:
            yield FieldChange(name=name, before=f"{old:,}", now=f"{new:,}")


def _fields(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[FieldChange]:
    """Yield the fields that differ, with dotted names; a map that was something else is one field."""
    for name in dict.fromkeys([*before, *now]):
        old, new, path = before.get(name), now.get(name), f"{prefix}{name}"
        if old == new or path in _FOLLOWING:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _fields(old, new, f"{path}.")
        else:
            yield FieldChange(name=path, before=_shown(old), now=_shown(new))


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _only(these: Sequence[str], those: Sequence[str]) -> tuple[str, ...]:
    known = set(those)
    return tuple(each for each in these if each not in known)
