"""A family before anything is trained: its members' costs, and what each stage costs to train, in multiply-adds."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from effnet.arch.cost import Cost, count
from effnet.arch.scaling import Coefficients, same_network
from effnet.arch.spec import Architecture
from effnet.config import DataConfig, DatasetSource, FamilyConfig, ImageNetSource, SearchConfig, SearchedBaseline
from effnet.family import Member
from effnet.search.grid import enumerate_grid
from effnet.search.halving import rungs, total_epochs
from effnet.search.study import study_points
from effnet.store import TEMPORARY

# What one A100 trains: 2,489 images/s of EfficientNet-B0 with 0.39 G multiply-adds each (NVIDIA's DeepLearningExamples,
# PyTorch, AMP); larger members reach up to 1.5 times that.
A100_MACS = 0.96e12


class PlannedMember(NamedTuple):
    """A member's cost, and what multiple of the baseline's it is."""

    name: str
    phi: float
    resolution: int
    params: int
    macs: int
    activations: int
    macs_ratio: float
    params_ratio: float
    same_as: str | None  # the first member that rounding makes the same network


def planned(members: Sequence[Member], base: Cost, num_classes: int) -> list[PlannedMember]:
    """Return what every member costs.

    Args:
        members: of the family.
        base: cost of the baseline.
        num_classes: of the classifier.
    """
    found = []
    for number, member in enumerate(members):
        earlier = (m.name for m in members[:number] if same_network(m.architecture, member.architecture))
        found.append(
            PlannedMember(
                name=member.name,
                phi=member.phi,
                resolution=member.architecture.resolution,
                params=member.params,
                macs=member.macs,
                activations=count(member.architecture, num_classes).activations,
                macs_ratio=round(member.macs / base.macs, 4),
                params_ratio=round(member.params / base.params, 4),
                same_as=next(earlier, None),
            )
        )
    return found


def last_fitted(families: Path, family: str) -> Coefficients | None:
    """Return the coefficients of the family of this name that was built last, if one was.

    Args:
        families: folder of the store with every build.
        family: its name.
    """
    found = []
    for path in families.glob("*/family.json"):
        data = json.loads(path.read_bytes())
        if data["family"] == family and data["coefficients"]:  # none of members as published
            found.append((path.stat().st_mtime, Coefficients(**data["coefficients"])))
    return max(found)[1] if found else None


def counts_of(data: DataConfig, base: Path, datasets: Path) -> tuple[int, int | None]:
    """Return how many classes and training images there are; images: ImageNet's known number, None if none are written.

    Args:
        data: where the images come from.
        base: folder that relative paths in it are relative to.
        datasets: folder of the store with every dataset.

    Raises:
        EffnetError: if the source cannot be read.
    """
    # The readers of images need torch, which a plan of published networks can do without.
    from effnet.data.shards.mirror import remote_manifest
    from effnet.data.shards.write import find_dataset
    from effnet.data.sources import open_source
    from effnet.data.sources.imagenet import CLASSES, COUNTS
    from effnet.storage import is_remote, open_folder

    source = data.source
    if isinstance(source, ImageNetSource):
        return CLASSES, round(COUNTS["train"] * (1 - data.minival))
    if isinstance(source, DatasetSource):
        location = source.location
        there = remote_manifest(open_folder(location if is_remote(location) else base / location))
        return len(there.classes), there.samples["train"]
    with contextlib.closing(open_source(source, base, datasets / f"{TEMPORARY}scratch")) as opened:
        classes = len(opened.classes)
    manifest = find_dataset(data, datasets, base)
    return classes, manifest.samples["train"] if manifest else None


class Speed(NamedTuple):
    """How long a device trains for, by the images and their forward multiply-adds."""

    seconds_per_image: float  # whatever the network
    seconds_per_mac: float
    device: str  # for people


def steady(macs_per_second: float, device: str) -> Speed:
    """Return the speed of a device that is as fast with every network."""
    return Speed(0.0, 1 / macs_per_second, device)


class StagePrice(NamedTuple):
    """A stage's trainings."""

    stage: str
    trainings: int
    images: float  # that are trained on, counted once per epoch
    macs: float  # forward multiply-adds of all these images; a step costs about three times that
    note: str = ""  # what people should know of it before

    def hours(self, speed: Speed) -> float:
        """Return the hours of all trainings, one after the other."""
        return (self.images * speed.seconds_per_image + self.macs * speed.seconds_per_mac) / 3600


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

    A searched baseline is priced as a network of the search's target cost; a study of other baselines than the family's
    own is priced as if it were of that one.
    """
    base = count(baseline, num_classes).macs
    found = []
    if isinstance(config.baseline, SearchedBaseline):
        search = config.baseline.search
        base = search.target_macs
        found.append(_price_of_search(search, images))
    if study := config.study:
        multiple = config.resolution_multiple
        points = study_points(study, coefficients, baseline, num_classes=num_classes, resolution_multiple=multiple)
        macs = {point.architecture.key(): point.macs for point in points}
        times = study.seeds * max(1, len(study.baselines))
        seen = float(times * study.epochs * images)
        found.append(StagePrice("study", len(macs) * times, len(macs) * seen, sum(macs.values()) * seen))
    if config.coefficients is None and not config.members.published:
        found.append(_price_of_grid(config, baseline, base, num_classes, images))
    seen, seeds = float(config.recipe.sized(images).epochs * images), config.members.seeds
    trainings, together = len(members) * seeds, sum(member.macs for member in members) * seeds
    found.append(StagePrice("members", trainings, trainings * seen, together * seen))
    return found


def _price_of_search(search: SearchConfig, images: int) -> StagePrice:
    """Price all trials at the target cost; twice if there is a control, though both begin with the same networks."""
    batches = [search.batch] * (search.trials // search.batch)
    if rest := search.trials % search.batch:
        batches.append(rest)
    whole = sum(math.ceil(batch / search.halving) for batch in batches)  # trials that are trained to the end
    epochs = whole * search.epochs + (search.trials - whole) * (search.epochs // search.halving)
    times = 2 if search.control else 1
    seen = float(epochs * times * images)
    return StagePrice("search", search.trials * times, seen, seen * search.target_macs)


def _price_of_grid(
    config: FamilyConfig, baseline: Architecture, base: int, num_classes: int, images: int
) -> StagePrice:
    fit = config.fit
    grid = enumerate_grid(baseline, num_classes, fit, config.resolution_multiple)
    plan = rungs(len(grid.candidates), fit.epochs, fit.halving)
    finalists = plan[-1].candidates + 1  # and the paper's own
    more = finalists * fit.seeds - plan[-1].candidates
    epochs = total_epochs(plan) + more * fit.epochs
    seen = float(epochs * images)
    trainings = sum(rung.candidates for rung in plan) + more
    return StagePrice("fit", trainings, seen, seen * base * fit.cost_ratio, grid.story)
