"""A family before anything is trained: its members' costs, the work of every stage, and how long a device takes for it.

A GPU's time goes by activations (effnet.devices), a CPU's by multiply-adds (effnet.train.speed).
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from effnet.arch.cost import FORWARD_SHARE, Cost, count
from effnet.arch.scaling import PAPER, Coefficients, same_network
from effnet.arch.spec import Architecture
from effnet.config import (
    Compute,
    DataConfig,
    DatasetSource,
    FamilyConfig,
    ForecastConfig,
    ImageNetSource,
    LocalCompute,
    PoolCompute,
    RayCompute,
    Recipe,
    SearchConfig,
    SearchedBaseline,
    given_coefficients,
    load_baseline,
)
from effnet.devices import Device, find
from effnet.errors import ConfigError, DataError
from effnet.family import RESULT, Member, build_key, is_taught, need_pupils, plan_members, teaching_member
from effnet.forecast.points import OnRay, Point, sweep_points
from effnet.memory import micro_batch_on, training_bytes
from effnet.runs import read_value
from effnet.search.grid import enumerate_grid
from effnet.search.halving import rungs, total_epochs
from effnet.search.study import study_points
from effnet.store import TEMPORARY
from effnet.values import Value

if TYPE_CHECKING:
    from effnet.data.shards.manifest import Manifest

_Found = TypeVar("_Found", bound=Value)

POOL_DEVICE = "a100-80"  # that a work pool is priced for, unless another is named
CHECKPOINTS = 3  # that a finished run keeps: the two newest and the best
CHECKPOINT_BYTES = 16  # for each weight: itself, its average, two slots of the optimizer
WEIGHT_BYTES = 4  # of model.safetensors
_SOME_CLASSES = 1000  # where nobody knows how many: a large classifier, so that disk is not underestimated


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
    for path in families.glob(f"*/{RESULT}"):
        data = json.loads(path.read_bytes())
        if data["family"] == family and data["coefficients"]:  # none of members as published
            found.append((path.stat().st_mtime, Coefficients(**data["coefficients"])))
    return max(found)[1] if found else None


def last_found(
    kind: type[_Found], name: str, config: FamilyConfig, base: Path, manifest: Manifest, families: Path
) -> _Found | None:
    """Return what a stage found for just this config and dataset, if there is any that can be read.

    Args:
        kind: of findings.
        name: of their file.
        config: of the family.
        base: folder that its relative paths begin at.
        manifest: of its dataset.
        families: folder of the store with every build.
    """
    from effnet.data.shards.room import order_that_fits

    try:
        shuffle = order_that_fits(config, manifest).shuffle_shards
        key = build_key(config, load_baseline(config, base), manifest.digest, shuffle)
        return read_value(kind, families / key / name)
    except (ConfigError, DataError):  # such a family cannot be built; or the file is of another version
        return None


class Known(NamedTuple):
    """What is known of a dataset before it is used."""

    num_classes: int
    images: int | None  # in the training split
    bytes: int | None  # of all shards; of ImageNet that is not written yet, of its archives
    manifest: Manifest | None


def known_of(data: DataConfig, base: Path, datasets: Path) -> Known:
    """Return what is known of a dataset: from its manifest; ImageNet's counts; else only the classes, from the source.

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
    from effnet.data.sources.imagenet import ARCHIVE_BYTES, CLASSES, COUNTS
    from effnet.storage import is_remote, open_folder

    source = data.source
    if isinstance(source, ImageNetSource):
        minival = 1 / data.fold[1] if data.fold else data.minival
        return Known(CLASSES, round(COUNTS["train"] * (1 - minival)), sum(ARCHIVE_BYTES.values()), None)
    if isinstance(source, DatasetSource):
        location = source.location
        return _known(remote_manifest(open_folder(location if is_remote(location) else base / location)))
    with contextlib.closing(open_source(source, base, datasets / f"{TEMPORARY}scratch")) as opened:
        classes = len(opened.classes)
    manifest = find_dataset(data, datasets, base)
    return _known(manifest) if manifest else Known(classes, None, None, None)


def _known(manifest: Manifest) -> Known:
    size = sum(shard.bytes for shard in manifest.shards)
    return Known(len(manifest.classes), manifest.samples["train"], size, manifest)


class Disk(NamedTuple):
    """Bytes of disk that a family wants."""

    dataset: int | None  # where it is written; None if nobody knows yet
    cache: int | None  # of each machine that trains, for fetched shards; None where none are fetched
    checkpoints: int  # of all members' trainings, the weights that they end with included


def disk(config: FamilyConfig, members: Sequence[Member], dataset: int | None) -> Disk:
    """Return the disk that a family wants.

    Args:
        config: of the family.
        members: whose checkpoints are counted.
        dataset: bytes of all shards, if known.
    """
    from effnet.data.shards.room import cache_of

    cache = cache_of(config)
    folds = config.members.folds
    weights = sum(member.params for member in members) * config.members.seeds * folds
    return Disk(
        dataset=None if isinstance(config.data.source, DatasetSource) or dataset is None else dataset * folds,
        cache=min(cache.bytes, dataset or cache.bytes) if cache else None,
        checkpoints=weights * (CHECKPOINTS * CHECKPOINT_BYTES + WEIGHT_BYTES),
    )


def disk_of(config: FamilyConfig, base: Path, datasets: Path) -> Disk:
    """Return the disk that a family wants; by the paper's coefficients where the config has none.

    Args:
        config: of the family.
        base: folder that its relative paths begin at.
        datasets: folder of the store with every dataset.

    Raises:
        ConfigError: if the baseline cannot be read.
    """
    baseline = load_baseline(config, base)
    try:
        known = known_of(config.data, base, datasets)
    except (ConfigError, DataError):  # the images may be on another machine
        known = Known(_SOME_CLASSES, None, None, None)
    members = plan_members(baseline, config, given_coefficients(config) or PAPER, known.num_classes)
    return disk(config, members, known.bytes)


class Work(NamedTuple):
    """What trainings do, in three units; a device's time is a sum over them."""

    images: float  # that are trained on, counted once per epoch
    macs: float  # forward multiply-adds of all these images; a step costs about three times that
    activations: float  # of all these images

    def times(self, number: float) -> Work:
        """Return so many times the work."""
        return Work(*(number * amount for amount in self))


def work(images: float, cost: Cost, teacher: Cost | None = None) -> Work:
    """Return the work of training a network of this cost on so many images, with the forward passes of a teacher."""
    macs, activations = float(cost.macs), float(cost.activations)
    if teacher:
        macs, activations = macs + FORWARD_SHARE * teacher.macs, activations + FORWARD_SHARE * teacher.activations
    return Work(images, images * macs, images * activations)


def teachers_of(members: Sequence[Member], name: str | None, outside: Architecture | None) -> dict[str, Architecture]:
    """Return the network that each member learns from, by the member's name; none without a teacher.

    Args:
        members: of the family.
        name: the recipe's teacher.
        outside: what it means, where it is no member.
    """
    member = teaching_member(name, members)
    need_pupils(member, members)
    teacher = member.architecture if member else outside
    if teacher is None:
        return {}
    return {each.name: teacher for each in members if is_taught(each, member)}


def together(parts: Iterable[Work]) -> Work:
    """Return the sum of work."""
    return Work(*(sum(column) for column in zip(*parts, strict=True)))


class Speed(NamedTuple):
    """How long a device trains for, what fits it, and what it costs."""

    seconds_per_image: float  # whatever the network
    seconds_per_mac: float
    device: str  # for people
    seconds_per_activation: float = 0.0
    memory_bytes: int | None = None  # of a GPU
    dollars_per_hour: float | None = None
    price_from: str = ""  # source and date of the dollars

    def hours(self, work: Work) -> float:
        """Return the hours that work takes, one training after the other."""
        seconds = work.images * self.seconds_per_image + work.macs * self.seconds_per_mac
        return (seconds + work.activations * self.seconds_per_activation) / 3600

    def dollars(self, hours: float) -> float | None:
        """Return what hours cost; None if nobody knows."""
        return None if self.dollars_per_hour is None else hours * self.dollars_per_hour


def speed_of(device: Device) -> Speed:
    """Return the speed of a device of the table, or of a file: bound by activations."""
    return Speed(
        seconds_per_image=0.0,
        seconds_per_mac=0.0,
        device=f"{device.name} ({device.rate_from})",
        seconds_per_activation=1 / device.activations_per_second,
        memory_bytes=round(device.memory_gb * 1e9),
        dollars_per_hour=device.dollars_per_hour,
        price_from=device.price_from,
    )


def stated_speed(compute: Compute, device: str | None, base: Path, another: str) -> Speed | None:
    """Return the speed of the named device, else of an A100 for a work pool; None where this machine is to be measured.

    Args:
        compute: where trainings run.
        device: a name of the table or a file, if one is named.
        base: folder that a file's path begins at.
        another: how to name another device.

    Raises:
        ConfigError: if there is no such device.
    """
    if device:
        return speed_of(find(device, base))
    if isinstance(compute, LocalCompute) or (isinstance(compute, RayCompute) and compute.ray == "local"):
        return None
    found = speed_of(find(POOL_DEVICE))
    where = f"work pool '{compute.work_pool}'" if isinstance(compute, PoolCompute) else f"Ray at {compute.ray}"
    return found._replace(device=f"{found.device}, for {where}; {another} names another")


class MemberPrice(NamedTuple):
    """A training of a member on a device."""

    name: str
    hours: float
    dollars: float | None
    micro_batch: int | None  # images that fit at a time, at most the batch; 0: not even one; None without a memory
    memory_bytes: int | None  # that these take


def price_members(
    members: Sequence[Member],
    recipe: Recipe,
    speed: Speed,
    *,
    num_classes: int,
    images: int,
    teachers: Mapping[str, Architecture] | None = None,
) -> list[MemberPrice]:
    """Return the price of one training of each member, for `images` images in the training split."""
    found = []
    for member in members:
        teacher = (teachers or {}).get(member.name)
        hours = speed.hours(_work_of(member, recipe.epochs * images, num_classes, teacher))
        batch = size = None
        if speed.memory_bytes:
            half = recipe.precision != "float32"
            arch, memory = member.architecture, speed.memory_bytes
            batch, recompute = micro_batch_on(
                arch, num_classes, recipe.batch_size,
                memory=memory, bfloat16=half, wanted=recipe.micro_batch, teacher=teacher,
            )  # fmt: skip
            size = training_bytes(arch, num_classes, max(1, batch), bfloat16=half, recompute=recompute, teacher=teacher)
        found.append(MemberPrice(member.name, hours, speed.dollars(hours), batch, size))
    return found


def _work_of(member: Member, images: float, num_classes: int, teacher: Architecture | None) -> Work:
    taught = count(teacher, num_classes) if teacher else None
    return work(images, count(member.architecture, num_classes), taught)


class StagePrice(NamedTuple):
    """A stage's trainings."""

    stage: str
    trainings: int
    work: Work  # of all of them
    longest: Work  # of the longest one
    note: str = ""  # what people should know of it before

    def wall_hours(self, speed: Speed, devices: int) -> float:
        """Return the least hours on so many devices, a network on each: no less than the longest training takes."""
        return max(speed.hours(self.work) / devices, speed.hours(self.longest))


def price(
    config: FamilyConfig,
    baseline: Architecture,
    coefficients: Coefficients,
    members: list[Member],
    *,
    num_classes: int,
    images: int,
    teachers: Mapping[str, Architecture] | None = None,
) -> list[StagePrice]:
    """Return the price of every stage that the config has, for `images` images in the training split.

    A searched baseline is priced as a network of the search's target cost; a study of other baselines than the family's
    own is priced as if it were of that one.
    """
    base = count(baseline, num_classes)
    found = []
    if isinstance(config.baseline, SearchedBaseline):
        search = config.baseline.search
        # What is found is of the reference's kind: so many activations for a multiply-add.
        base = Cost(base.params, search.target_macs, round(base.activations * search.target_macs / base.macs))
        found.append(_price_of_search(search, images, base))
    if study := config.study:
        multiple = config.resolution_multiple
        points = study_points(study, coefficients, baseline, num_classes=num_classes, resolution_multiple=multiple)
        networks = {point.architecture.key(): point.architecture for point in points}
        seen = float(study.epochs * images)
        times = study.seeds * max(1, len(study.baselines))
        found.append(_stage("study", [work(seen, count(network, num_classes)) for network in networks.values()], times))
    if config.coefficients is None and not config.members.published:
        found.append(_price_of_grid(config, baseline, base, num_classes, images))
    if config.forecast:
        found.append(_price_of_forecast(config, baseline, coefficients, members, num_classes, images))
    seen = float(config.recipe.sized(images).epochs * images)
    teachers = teachers or {}
    each = [_work_of(member, seen, num_classes, teachers.get(member.name)) for member in members]
    seeds, folds = config.members.seeds, config.members.folds
    note = f"each is trained on {folds} folds{f', with {seeds} seeds' if seeds > 1 else ''}" if folds > 1 else ""
    priced = _stage("members", each, seeds * folds)._replace(note=note)
    if teachers and teaching_member(config.recipe.teacher, members):  # it is trained before all others
        taught = [part for part, member in zip(each, members, strict=True) if member.name in teachers]
        first = next(part for part, member in zip(each, members, strict=True) if member.name not in teachers)
        priced = priced._replace(longest=together([first, max(taught, key=lambda training: training.macs)]))
    found.append(priced)
    return found


def points_of_forecast(
    config: FamilyConfig,
    baseline: Architecture,
    coefficients: Coefficients,
    members: Sequence[Member],
    num_classes: int,
) -> list[Point]:
    """Return the networks that a family's forecast trains; see `sweep_points` for what is raised."""
    return sweep_points(
        config.forecast or ForecastConfig(),
        config.members,
        [OnRay(member.name, member.architecture, member.macs) for member in members],
        coefficients,
        baseline,
        num_classes=num_classes,
        resolution_multiple=config.resolution_multiple,
    )


def forecast_epochs(config: FamilyConfig, recipe: Recipe) -> int:
    """Return the epochs of each training of a forecast: those of the members' recipe, unless the config says others."""
    wanted = config.forecast.epochs if config.forecast else "same"
    return recipe.epochs if wanted == "same" else wanted


def _price_of_forecast(
    config: FamilyConfig,
    baseline: Architecture,
    coefficients: Coefficients,
    members: Sequence[Member],
    num_classes: int,
    images: int,
) -> StagePrice:
    """Price the trainings of a forecast that are not the members' own, which are priced with these."""
    points = points_of_forecast(config, baseline, coefficients, members, num_classes)
    recipe, seeds = config.recipe.sized(images), config.forecast.seeds if config.forecast else 0
    epochs = forecast_epochs(config, recipe)
    shared = min(seeds, config.members.seeds) if epochs == recipe.epochs else 0
    each = [
        (work(float(epochs * images), count(point.architecture, num_classes)), seeds - shared * bool(point.member))
        for point in points
    ]
    own = [point.member for point in points if point.member and shared]
    note = (
        f"{', '.join(own)} {'is' if len(own) == 1 else 'are'} among its networks, and counted as members" if own else ""
    )
    longest = max((training for training, times in each if times), key=lambda training: training.macs)
    total = together(training.times(times) for training, times in each)
    return StagePrice("forecast", sum(times for _, times in each), total, longest, note)


def _stage(stage: str, each: Sequence[Work], times: int) -> StagePrice:
    """Return the price of trainings that are each done with so many seeds."""
    longest = max(each, key=lambda training: training.macs)
    return StagePrice(stage, len(each) * times, together(each).times(times), longest)


def _price_of_search(search: SearchConfig, images: int, base: Cost) -> StagePrice:
    """Price all trials at the target cost; twice if there is a control, though both begin with the same networks."""
    batches = [search.batch] * (search.trials // search.batch)
    if rest := search.trials % search.batch:
        batches.append(rest)
    whole = sum(math.ceil(batch / search.halving) for batch in batches)  # trials that are trained to the end
    epochs = whole * search.epochs + (search.trials - whole) * (search.epochs // search.halving)
    times = 2 if search.control else 1
    longest = work(float(search.epochs * images), base)
    return StagePrice("search", search.trials * times, work(float(epochs * times * images), base), longest)


def _price_of_grid(
    config: FamilyConfig, baseline: Architecture, base: Cost, num_classes: int, images: int
) -> StagePrice:
    """Price the grid's candidates: their multiply-adds are what is wanted, their activations the candidates' mean."""
    fit = config.fit
    grid = enumerate_grid(baseline, num_classes, fit, config.resolution_multiple)
    plan = rungs(len(grid.candidates), fit.epochs, fit.halving)
    finalists = plan[-1].candidates + 1  # and the paper's own
    more = finalists * fit.seeds - plan[-1].candidates
    epochs = total_epochs(plan) + more * fit.epochs
    trainings = sum(rung.candidates for rung in plan) + more
    counted = [count(candidate.architecture, num_classes) for candidate in grid.candidates]
    own = count(baseline, num_classes)  # of a searched baseline the activations grow as the reference's do
    growth = sum(cost.activations for cost in counted) / len(counted) / own.activations
    cost = Cost(base.params, round(base.macs * fit.cost_ratio), round(base.activations * growth))
    longest = work(float(fit.epochs * images), cost)
    return StagePrice("fit", trainings, work(float(epochs * images), cost), longest, grid.story)
