"""The members as a table: their numbers with what noise may make of them, each compared with the one to use."""

from __future__ import annotations

from typing import NamedTuple

from effnet.family import MemberResult
from effnet.hits import compared_hits
from effnet.report.facts import Facts
from effnet.runs import RunFolder
from effnet.statistics import Band, Difference, band, difference, scatter


class MemberRow(NamedTuple):
    """A member of the table."""

    result: MemberResult
    band: Band  # of its top-1, over images and seeds
    against: Difference | None  # its lead over the member to use, on the same images of val, or of all folds' minivals;
    # None for that one itself
    macs_ratio: float  # to the first member
    params_ratio: float

    @property
    def verdict(self) -> str:
        """Say what the lead is worth, by its 95 % interval, which is not corrected for the number of members."""
        if self.against is None:
            return "the one to use"
        if abs(self.against.lead) <= self.against.noise:
            return "a tie"
        return "better" if self.against.lead > 0 else "worse"


def member_rows(facts: Facts) -> list[MemberRow]:
    """Return the members in their order, from small to large."""
    members, chosen = facts.family.members, facts.chosen.result
    distinct = {member.run_key: member for member in members}.values()
    pooled = scatter(member.scores for member in distinct)
    hits = {
        member.name: compared_hits([[RunFolder(facts.store.runs / key) for key in runs] for runs in member.folds])
        for member in members
    }
    scattered = scatter(hits[member.name].mean(1) for member in distinct)
    return [
        MemberRow(
            member,
            band(member.scores, facts.family.val_samples, pooled),
            None if member.name == chosen.name else difference(hits[member.name], hits[chosen.name], scattered),
            member.macs / members[0].macs,
            member.params / members[0].params,
        )
        for member in members
    ]
