"""The stages of a family that train networks: one enumeration, for records, screens and reports."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """A stage that trains networks, in the order of a build. Its value is MLflow's tag `effnet.kind`."""

    SEARCH = "search"
    RATE = "rate"
    STUDY = "study"
    FIT = "fit"
    FORECAST = "forecast"
    MEMBER = "member"

    @property
    def heading(self) -> str:
        """What is in progress, for screens and reports."""
        return _HEADINGS[self][0]

    @property
    def purpose(self) -> str:
        """What one of its trainings is, in a sentence."""
        return _HEADINGS[self][1]

    @property
    def planned_as(self) -> str:
        """Its name in `effnet plan`, where members are several."""
        return "members" if self is Stage.MEMBER else self.value

    @property
    def on_val(self) -> bool:
        """Whether its networks are evaluated on val: their top-1 is val's; that of the others is minival's."""
        return self in (Stage.STUDY, Stage.MEMBER)


_HEADINGS = {
    Stage.SEARCH: ("search baseline", "A trial of the search for a baseline."),
    Stage.RATE: ("find a learning rate", "A short training at one of several learning rates."),
    Stage.STUDY: ("study scaling", "A network of the scaling study."),
    Stage.FIT: ("fit coefficients", "A candidate of the grid over α, β, γ, at φ = 1."),
    Stage.FORECAST: ("forecast members", "A small network of the family, from which members are foretold."),
    Stage.MEMBER: ("train members", "A member of the family."),
}
