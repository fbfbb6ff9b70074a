"""When a new model takes the place of the one in use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from effnet.statistics import ALPHA, Hits, difference, mcnemar
from effnet.values import Value

RULE = (
    "a candidate becomes champion if, on the same images of today's validation split, it is right more often than the "
    "champion by more than noise (McNemar's exact test, p at most 0.05), or if the difference is within noise and it "
    "needs fewer multiply-adds; but never if it is worse than the best champion so far"
)


class Contender(NamedTuple):
    """One of the networks that are compared on the same images of val."""

    name: str  # for people
    hits: Hits  # (images,), or (seeds, images)
    macs: int

    @property
    def top1(self) -> float:
        """Share of images that it is right about."""
        return float(self.hits.mean())


class Standing(Value):
    """A member's model in the registry after a build: what the gate said of it."""

    member: str
    model: str  # its name in the registry
    version: str  # that the build's training is
    champion: str | None  # the version in use now; None if there is none
    reason: str  # why this version is the champion, or is not

    @property
    def told(self) -> str:
        """The standing in a line."""
        if self.champion == self.version:
            return f"{self.model} version {self.version} is champion: {self.reason}"
        stays = f"version {self.champion} is" if self.champion else "there is none"
        return f"{self.model} version {self.version} is not champion, {stays}: {self.reason}"


class Verdict(NamedTuple):
    """What the gate says."""

    takes_over: bool
    reason: str
    best: str  # the name of the best champion so far, by the score on these images


def standing_story(standings: Sequence[Standing], member: str) -> str:
    """Say how the model of the member to use stands, and how many of the others are champions; empty if unknown."""
    own = next((each for each in standings if each.member == member), None)
    if own is None:
        return ""
    others = [each.champion == each.version for each in standings if each.member != member]
    count = "all" if all(others) else f"{sum(others)}" if any(others) else "none"
    rest = f"; of the {len(others)} other models of the family {count} are champions" if len(others) > 1 else ""
    return f"{own.told}{rest}."


def judge(new: Contender, champion: Contender | None, best: Contender | None = None) -> Verdict:
    """Return whether `new` takes the champion's place (RULE), and why.

    Args:
        new: the candidate.
        champion: the model in use, scored on the same images; None if there is none, or its alias was removed.
        best: the best champion so far, on the same images; the champion itself if not given. The comparison with it
            keeps a series of models, each cheaper and within noise of the last, from losing a little every time.
    """
    if champion is None:
        return Verdict(True, "the first of its name", new.name) if best is None else _judge_by_best(new, best)
    best = best if best and best.top1 > champion.top1 else champion
    gap = difference(new.hits, champion.hits)
    p = mcnemar(new.hits, champion.hits)
    told = f"top-1 {new.top1:.2%} against {champion.top1:.2%} on the same {len(new.hits):,} images"
    told += f", difference {gap.lead:+.2%} ± {gap.noise:.2%}, p {p:.2g}"
    if p <= ALPHA and gap.lead < 0:
        return Verdict(False, f"worse: {told}", best.name)
    if _is_worse(new, best):
        told = f"worse than the best champion so far, {best.name} with {best.top1:.2%}: {told}"
        return Verdict(False, told, best.name)
    reference = new.name if new.top1 >= best.top1 else best.name
    if p <= ALPHA:
        return Verdict(True, f"better: {told}", reference)
    if new.macs < champion.macs:
        return Verdict(
            True, f"as good and cheaper ({new.macs:,} against {champion.macs:,} multiply-adds): {told}", reference
        )
    return Verdict(False, f"within noise and not cheaper: {told}", best.name)


def _judge_by_best(new: Contender, best: Contender) -> Verdict:
    told = f"there is no champion; {best.name}, the best one so far, has {best.top1:.2%}, this one {new.top1:.2%}"
    if _is_worse(new, best):
        return Verdict(False, f"worse: {told}", best.name)
    return Verdict(True, f"not worse: {told}", new.name if new.top1 >= best.top1 else best.name)


def _is_worse(new: Contender, best: Contender) -> bool:
    """Say whether `new` is right less often, by more than noise."""
    return mcnemar(new.hits, best.hits) <= ALPHA and new.top1 < best.top1
