"""What each stage of a family costs to train, in multiply-adds, before anything is trained."""

from __future__ import annotations

import math
from typing import NamedTuple

from effnet.arch.cost import count
from effnet.arch.scaling import STRATEGIES, Coefficients, compound
from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig, SearchConfig, SearchedBaseline
from effnet.family import Member
from effnet.search.grid import enumerate_grid
from effnet.search.halving import rungs, total_epochs
from effnet.search.study import study_points

# What one A100 trains: 2,489 images/s of EfficientNet-B0 with 0.39 G multiply-adds each (NVIDIA's DeepLearningExamples,
# PyTorch, AMP); larger members reach up to 1.5 times that.
A100_MACS = 0.96e12


class StagePrice(NamedTuple):
    """A stage's trainings."""

    stage: str
    trainings: int
    macs: float  # forward multiply-adds of all images that are trained on; a step costs about three times that

    def hours(self, macs_per_second: float) -> float:
        """Return the hours on a device that trains so many forward multiply-adds per second."""
        return self.macs / macs_per_second / 3600


def price(
    config: FamilyConfig,
    baseline: Architecture,
    coefficients: Coefficients,
    members: list[Member],
    *,
    num_classes: int,
    images: int,
) -> list[StagePrice]:
    """Return the price of every stage that the config has, for `images` images in the training split.

    A searched baseline is priced as the network that the search wants; a study of other baselines than the family's own
    is priced as if it were of the own one.
    """
    base = count(baseline, num_classes).macs
    found = []
    if isinstance(config.baseline, SearchedBaseline):
        search = config.baseline.search
        base = search.target_macs
        found.append(_price_of_search(search, images))
    if study := config.study:
        rule = compound(coefficients)
        ways = [rule if name == "compound" else STRATEGIES[name] for name in study.strategies]
        points = study_points(
            baseline, ways, study.factors, num_classes=num_classes, resolution_multiple=config.resolution_multiple
        )
        macs = {point.architecture.key(): point.macs for point in points}
        times = study.seeds * max(1, len(study.baselines))
        found.append(StagePrice("study", len(macs) * times, float(sum(macs.values()) * times * study.epochs * images)))
    if config.coefficients is None:
        found.append(_price_of_grid(config, baseline, base, num_classes, images))
    macs_of_members = sum(member.macs for member in members)
    found.append(StagePrice("members", len(members), float(macs_of_members * config.recipe.epochs * images)))
    return found


def _price_of_search(search: SearchConfig, images: int) -> StagePrice:
    """Price all trials at the wanted cost; with a control twice, though both begin with the same networks."""
    batches = [search.batch] * (search.trials // search.batch)
    if rest := search.trials % search.batch:
        batches.append(rest)
    whole = sum(math.ceil(batch / search.halving) for batch in batches)  # trials that are trained to the end
    epochs = whole * search.epochs + (search.trials - whole) * (search.epochs // search.halving)
    times = 2 if search.control else 1
    return StagePrice("search", search.trials * times, float(epochs * times * images) * search.target_macs)


def _price_of_grid(
    config: FamilyConfig, baseline: Architecture, base: int, num_classes: int, images: int
) -> StagePrice:
    fit = config.fit
    candidates = len(enumerate_grid(baseline, num_classes, fit, config.resolution_multiple).candidates)
    plan = rungs(candidates, fit.epochs, fit.halving)
    finalists = plan[-1].candidates + 1  # and the paper's own
    more = finalists * fit.seeds - plan[-1].candidates
    epochs = total_epochs(plan) + more * fit.epochs
    return StagePrice("fit", candidates + more, float(epochs * images) * base * fit.cost_ratio)
