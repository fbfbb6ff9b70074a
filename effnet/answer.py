"""What a family says in the end: which member to use, and whether size pays here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from effnet.champion import Contender
from effnet.statistics import Scatter, band, difference, scatter, sees, trend
from effnet.values import Value

ONE_TRAINING = "one training of each: what another seed would find is not counted"


class Answer(Value):
    """The member to use."""

    member: str
    because: str


class Growth(Value):
    """How top-1 grows with cost over the members. Top-1 is between 0 and 1; low and high are of 95 % intervals."""

    per_doubling: float  # top-1, per doubling of the multiply-adds
    low: float
    high: float
    lead: float  # of the largest member over the smallest
    noise: float  # half of its interval
    told: str

    @property
    def pays(self) -> bool:
        """Whether a gain by size is shown: the whole interval is above 0."""
        return self.low > 0


def conclude(
    members: Sequence[Contender], class_samples: Sequence[int], *, limited: bool = False
) -> tuple[Answer, Growth | None]:
    """Return which member to use, and how top-1 grows with cost.

    Args:
        members: each with the hits of its seeds; different networks.
        class_samples: images of each class among those that the hits are of.
        limited: whether limits left other members out.
    """
    grown = growth(members)
    pays = grown is not None and grown.pays
    chance = max(class_samples) / sum(class_samples)
    return answer(members, size_pays=pays, chance=chance, limited=limited), grown


def answer(members: Sequence[Contender], size_pays: bool, chance: float, *, limited: bool = False) -> Answer:
    """Return the member to use, and why.

    Where size pays it is the best one, though noise may not tell it from its neighbours. Elsewhere it is the cheapest
    of the best and those that noise cannot tell from it: their difference's interval holds 0. The interval is not
    corrected for the number of members, which would let worse ones pass for as good.

    Args:
        members: the family, each with the hits of its seeds, (seeds, images).
        size_pays: whether it is shown that top-1 grows with cost (Growth.pays).
        chance: top-1 of who names the commonest class every time, 0..1.
        limited: whether limits left other members out, of which the best and the cheapest may be.
    """
    best = max(members, key=lambda member: (member.top1, -member.macs))
    pooled, images = _scatter(members), best.hits.shape[-1]
    among = "among those within the limits " if limited else ""
    has = f"{among}it has the best top-1, {best.top1:.1%}"
    if all(band(member.hits.mean(1), images, pooled).low <= chance for member in members):
        because = (
            f"{has}, but no member is shown to beat naming the commonest class every time ({chance:.1%}): train "
            "longer, or look at the images and labels"
        )
        return Answer(member=best.name, because=because)
    if len(members) == 1:
        only = "the only one within the limits" if limited else "the only member"
        return Answer(member=best.name, because=f"it is {only}; top-1 {best.top1:.1%}")
    gaps = {member.name: difference(best.hits, member.hits, pooled) for member in members if member.macs < best.macs}
    within = [member for member in members if member.name in gaps and gaps[member.name].lead <= gaps[member.name].noise]
    if not gaps:
        return Answer(member=best.name, because=f"{has}, and is the cheapest")
    if not within:
        return Answer(member=best.name, because=f"{has}, and no cheaper member comes within noise of it")
    cheapest = min(within, key=lambda member: member.macs)
    gap = gaps[cheapest.name]
    points = f"{_points(gap.lead, sign=False)} ± {_points(gap.noise, sign=False)} points"
    share = f"{cheapest.macs / best.macs:.2f} times the multiply-adds"
    if size_pays:
        because = (
            f"{has}, and size pays here; where cost counts, {cheapest.name} ({cheapest.top1:.1%}, {share}) is not "
            f"measurably worse, {points} lower"
        )
        return Answer(member=best.name, because=because)
    because = (
        f"{among}{images:,} images cannot tell it from {best.name}, the best ({cheapest.top1:.1%} and {best.top1:.1%}, "
        f"{points} apart; {sees(gap.sees(), gap.seeds)}), and it takes {share}; where accuracy counts more, {best.name}"
    )
    return Answer(member=cheapest.name, because=because)


def growth(members: Sequence[Contender]) -> Growth | None:
    """Return how top-1 grows with cost; None where all members cost the same."""
    found = trend([member.hits for member in members], [math.log2(member.macs) for member in members])
    if found is None:
        return None
    small, large = (end(members, key=lambda member: member.macs) for end in (min, max))
    gap = difference(large.hits, small.hits, _scatter(members))
    low, high = found.slope - found.noise, found.slope + found.noise
    verdict = (
        "Size pays here" if low > 0 else "Size costs accuracy here" if high < 0 else "No gain by size is shown here"
    )
    told = (
        f"{verdict}: {_points(found.slope)} points of top-1 per doubling of multiply-adds (95 % interval "
        f"{_points(low)} to {_points(high)}); {large.name} against {small.name}: {_points(gap.lead)} ± "
        f"{_points(gap.noise, sign=False)} points"
    )
    if found.seeds < 2:
        told += f"; {ONE_TRAINING}"
    return Growth(per_doubling=found.slope, low=low, high=high, lead=gap.lead, noise=gap.noise, told=told)


def _scatter(members: Sequence[Contender]) -> Scatter | None:
    return scatter(member.hits.mean(1) for member in members)


def _points(share: float, *, sign: bool = True) -> str:
    return f"{100 * share:{'+' if sign else ''}.2f}"


def told_out_of_fold(use: Answer, growth: Growth | None, images: int) -> tuple[Answer, Growth | None]:
    """Return what `conclude` found with the words that its top-1 is out of fold, of so many images."""
    of = f"; top-1 here is out of fold, of {images:,} images"
    grown = growth and growth.model_copy(update={"told": growth.told + of})
    return use.model_copy(update={"because": use.because + of}), grown
