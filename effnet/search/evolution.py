"""Which networks to try next: regularised evolution (arXiv 1802.01548), or random search as its control.

A search has no state besides its history: proposals are a pure function of the seed and of the results so far. So the
order in which a batch's results arrive changes nothing, and a killed search resumes by proposing the same networks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Literal, NamedTuple

from effnet.arch.spec import Architecture
from effnet.errors import ConfigError
from effnet.search.space import Genes, Space

MAX_DRAWS = 10_000  # for one proposal, before the filter is taken to let nothing pass


class Trial(NamedTuple):
    """A network that was tried."""

    number: int  # from 0 up
    genes: Genes
    reward: float


def reward(accuracy: float, cost: float, target: float, exponent: float = -0.07) -> float:
    """Return ACC · (cost / T)^w (MnasNet, equation 2; paper, section 4 with w = -0.07 and cost in MACs)."""
    return float(accuracy * (cost / target) ** exponent)


class Search:
    """Proposes networks.

    Args:
        space: of networks.
        admits: the cheap filter: whether a network is worth training; its cost window, usually.
        seed: decides everything together with the history.
        method: `evolution`, or `random`, which ignores rewards.
        population: networks alive; the oldest dies.
        sample: networks drawn from the population; the best of them is mutated.
    """

    def __init__(
        self,
        space: Space,
        admits: Callable[[Architecture], bool],
        *,
        seed: int,
        method: Literal["evolution", "random"] = "evolution",
        population: int = 100,
        sample: int = 25,
    ) -> None:
        self.space, self.admits, self.seed, self.method = space, admits, seed, method
        self.population, self.sample = population, min(sample, population)
        # The last history, and what `_canonical` made of it: reading all of it again would take longer than proposing.
        self._read: tuple[list[Trial], set[Genes]] = [], set()

    def propose(self, history: Sequence[Trial], number: int) -> list[Genes]:
        """Return the next `number` networks, none of them proposed before.

        Args:
            history: all trials so far, in any order, numbers 0 .. n-1.
            number: how many, from n on; they see only the history, not each other.

        Raises:
            ConfigError: if the filter lets nothing pass.
        """
        told = sorted(history)
        if [trial.number for trial in told] != list(range(len(told))):
            raise ValueError("a trial is missing from the history, or is in it twice")
        known = self._canonical(told)
        proposals = []
        for place in range(len(told), len(told) + number):
            proposals.append(self._draw(told, place, known))
            known.add(self.space.simplest(proposals[-1]))
        return proposals

    def _canonical(self, told: list[Trial]) -> set[Genes]:
        """Return the canonical genes of all trials; only those that are new since the last time are read."""
        read, known = self._read
        if told[: len(read)] != read:  # another history
            read, known = [], set()
        known = known | {self.space.simplest(trial.genes) for trial in told[len(read) :]}
        self._read = told, known
        return set(known)

    def _draw(self, told: Sequence[Trial], place: int, known: AbstractSet[Genes]) -> Genes:
        source = random.Random(f"{self.seed}/{place}")
        alive = told[-self.population :]
        evolves = self.method == "evolution" and len(alive) == self.population
        start = None
        if evolves:
            best = max(source.sample(alive, self.sample), key=lambda trial: (trial.reward, -trial.number))
            start = best.genes
        for _ in range(MAX_DRAWS):
            genes = self.space.mutate(start, source) if start else self.space.draw(source)
            if not self.admits(self.space.build(genes)):
                continue
            if self.space.simplest(genes) not in known:
                return genes
            if start:
                start = genes  # proposed before: mutate once more
        raise ConfigError(
            f"search: none of {MAX_DRAWS:,} networks costs what is wanted; widen search.window or change the target"
        )


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the (cost, accuracy) points that no other matches in both and beats in one, by cost."""
    front: list[int] = []
    best = float("-inf")
    for index in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1])):
        if points[index][1] > best:
            front.append(index)
            best = points[index][1]
    return front
