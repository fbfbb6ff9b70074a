"""The commands about networks and weights: describe, plan, import-weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from effnet.errors import ConfigError
from flows.cli import options
from flows.cli.amounts import Amount
from flows.cli.budget import Limit, LimitType, pick, show_picked, spending
from flows.cli.find import ConfigFile
from flows.cli.forecasts import forecast_data, show_expected
from flows.cli.prices import show_disk, show_members, show_prices, stage_data

if TYPE_CHECKING:
    from effnet.arch.budget import Budget
    from effnet.arch.scaling import Coefficients, Multipliers
    from effnet.arch.spec import Architecture
    from effnet.config import FamilyConfig
    from effnet.family import Member
    from effnet.forecast.findings import ForecastFindings
    from effnet.plan import Known, Speed, StagePrice
    from effnet.values import Value

_Found = TypeVar("_Found", bound="Value")

_CLASSES = click.option(
    "--num-classes", type=click.IntRange(1), default=1000, show_default=True, help="Classes of the network."
)


@click.command()
@click.argument("name")
@_CLASSES
@options.JSON
def describe(name: str, num_classes: int, as_json: bool) -> None:
    """Show a network and its cost: NAME is one of the zoo's, or a JSON or YAML file."""
    from effnet.arch import zoo
    from effnet.arch.describe import describe as description

    arch = zoo.find(name)
    data = description(arch, num_classes)
    if as_json:
        click.echo(json.dumps(data, indent=2))
        return
    from tasks.terminal.screen import short

    parts = (data["stem"], *data["stages"], data["head"])
    click.echo(
        f"{arch.name}: {arch.resolution}×{arch.resolution} pixels, {num_classes} classes, {data['params']:,} params, "
        f"{data['macs']:,} MACs, {data['activations']:,} activations"
    )
    click.echo(f"{arch.activation}, {arch.padding} padding, batch norm epsilon {arch.norm_epsilon:g}")
    click.echo(f"{'':3}{'operator':28}{'input':>6}{'/':>3}{'out':>6}{'×':>4}{'params':>9}{'MACs':>9}{'activ.':>9}")
    for number, part in enumerate(parts, start=1):
        costs = "".join(f"{short(part[key]):>9}" for key in ("params", "macs", "activations"))
        click.echo(
            f"{number:<3}{part['operator']:28}{part['resolution']:6}{part['stride']:3}{part['channels'] or '':>6}"
            f"{part['repeats']:4}{costs}"
        )


@click.command()
@click.argument("config", type=ConfigFile(), required=False)
@options.STORE
@click.option("--baseline", help="Network or file to scale, without a CONFIG.  [default: efficientnet_b0]")
@click.option("--strategy", default="compound", show_default=True, help="compound, depth, width, resolution or dWr.")
@options.MULTIPLIERS
@click.option("--max-macs", type=Amount(), help="Find the largest member within these multiply-adds, e.g. 1.5G.")
@click.option("--max-params", type=Amount(), help="... within these parameters, e.g. 10M.")
@click.option("--max-activations", type=Amount(), help="... within these activations, e.g. 20M.")
@click.option(
    "--num-classes", type=click.IntRange(1), help="Classes of the network.  [default: those of the config, or 1000]"
)
@click.option(
    "--images", type=Amount(), help="Images in the training split.  [default: those of the dataset, if it is there]"
)
@click.option(
    "--device",
    help="Price for this GPU: a name of effnet's table, or a YAML file of yours.  [default: this machine, measured; "
    "for a work pool, a100-80]",
)
@click.option(
    "--budget",
    type=LimitType(),
    help="Pick the members of CONFIG that this allows: 50gpuh, 200usd, or 5ms for an image.",
)
@click.option("--gpus", type=click.IntRange(1, 100_000), default=1, show_default=True, help="So many of them.")
@options.JSON
def plan(
    config: Path | None,
    store: Path | None,
    baseline: str | None,
    strategy: str,
    multipliers: tuple[float, float, float] | None,
    max_macs: int | None,
    max_params: int | None,
    max_activations: int | None,
    num_classes: int | None,
    images: int | None,
    device: str | None,
    budget: Limit | None,
    gpus: int,
    as_json: bool,
) -> None:
    """Price the family of CONFIG without training anything, or one network: the largest that a budget allows, or the
    baseline scaled by --multipliers.
    """
    from effnet.arch.budget import Budget
    from effnet.arch.scaling import Multipliers

    if config and baseline:
        raise ConfigError("plan: give CONFIG or --baseline, not both; the config names its own baseline")
    largest = Budget(max_params, max_macs, max_activations)
    if budget and (multipliers or any(largest) or not config):
        raise ConfigError("plan: --budget picks members of a CONFIG; give it alone, or with --device and --images")
    if multipliers and any(largest):
        raise ConfigError("plan: give --multipliers or a budget, not both; the budget finds its own multipliers")
    family = _Family.of_config(config, store, num_classes, images) if config else _Family.of_zoo(baseline, num_classes)
    if multipliers:
        _plan_scaled(family, Multipliers(*multipliers), as_json)
    elif any(largest):
        _plan_largest(family, strategy, largest, as_json)
    elif config:
        _plan_members(family, device, gpus, as_json, budget)
    else:
        raise ConfigError("plan: give a CONFIG, a budget such as --max-macs 1.5G, or --multipliers")


class _Family:
    """What `plan` scales, and by which coefficients."""

    def __init__(self, baseline: Architecture, coefficients: Coefficients, origin: str, num_classes: int) -> None:
        self.baseline, self.coefficients, self.origin, self.num_classes = baseline, coefficients, origin, num_classes
        self.resolution_multiple = 1
        self.settings: Any = None
        self.base = Path()  # of the config's relative paths
        self.store: Any = None
        self.known: Known | None = None  # of the dataset

    @classmethod
    def of_zoo(cls, name: str | None, num_classes: int | None) -> _Family:
        from effnet.arch import zoo
        from effnet.arch.scaling import PAPER

        return cls(zoo.find(name or "efficientnet_b0"), PAPER, "the paper", num_classes or 1000)

    @classmethod
    def of_config(cls, config: Path, store: Path | None, num_classes: int | None, images: int | None) -> _Family:
        from effnet.arch.scaling import PAPER, Coefficients
        from effnet.config import given_coefficients, load_baseline, load_config
        from effnet.plan import last_fitted
        from effnet.search.findings import FIT, FitFindings
        from effnet.store import Store

        settings = load_config(config)
        baseline = load_baseline(settings, config.parent)
        given = given_coefficients(settings)
        opened = Store.at(store or settings.store)
        root = opened.root
        known = _known(settings, config, root, num_classes, images)
        family = cls(baseline, given or PAPER, "the config", known.num_classes)
        family.settings, family.resolution_multiple = settings, settings.resolution_multiple
        family.base, family.store = config.parent, opened
        family.known = known
        if given:
            return family
        if fit := family.found(FitFindings, FIT):
            family.coefficients, family.origin = Coefficients(*fit.winner), "the fit of this config"
        elif fitted := last_fitted(root / "families", settings.family):
            family.coefficients, family.origin = fitted, "the family built last"
        else:
            family.origin = "the paper, until they are fitted"
        return family

    def found(self, kind: type[_Found], name: str) -> _Found | None:
        """Return what a stage found for this very config, if it did."""
        from effnet.plan import last_found

        if not (self.known and self.known.manifest):
            return None
        return last_found(kind, name, self.settings, self.base, self.known.manifest, self.store.families)

    @property
    def images(self) -> int | None:
        """Of the training split, where known."""
        return self.known.images if self.known else None


def _plan_members(family: _Family, device: str | None, gpus: int, as_json: bool, budget: Limit | None) -> None:
    from effnet.arch.cost import count
    from effnet.arch.growth import same_weights
    from effnet.family import plan_members
    from effnet.plan import disk, planned, price_members
    from effnet.starts import member_files

    members = plan_members(family.baseline, family.settings, family.coefficients, family.num_classes)
    files = member_files(family.settings, members, family.base)
    base = count(family.baseline, family.num_classes)
    rows = planned(members, base, family.num_classes)
    teachers = _teachers(family, members)
    stages = _prices(family, members, teachers)
    speed = _speed(family, members, device) if stages or device else None
    recipe = family.settings.recipe.sized(family.images or 0)
    wanted = disk(family.settings, members, family.known.bytes if family.known else None)
    order, forecast = _order(family), _forecast(family)
    prices = (
        price_members(members, recipe, speed, num_classes=family.num_classes, images=family.images, teachers=teachers)
        if speed and family.images
        else []
    )
    trainings = family.settings.members.seeds * family.settings.members.folds
    picked = pick(budget, spending(budget, members, prices, trainings, family.num_classes)) if budget else None
    if as_json:
        data = {
            "family": family.settings.family,
            "baseline": {"name": family.baseline.name, **base._asdict()},
            "coefficients": family.coefficients._asdict(),
            "coefficients_from": family.origin,
            "members": [row._asdict() for row in rows],
            "teachers": {name: arch.name for name, arch in teachers.items()},
            "speed": speed._asdict() if speed else None,
            "prices": [row._asdict() for row in prices],
            "gpus": gpus,
            "stages": [stage_data(stage, speed, gpus) for stage in stages] if speed else [],
            "disk": wanted._asdict(),
            "order": order,
            "forecast": forecast_data(forecast),
            "picked": picked._asdict() if picked else None,
        }
        click.echo(json.dumps(data, indent=2))
        return
    alpha, beta, gamma = family.coefficients
    told = f"α {alpha:g}, β {beta:g}, γ {gamma:g} (from {family.origin})"
    if family.settings.members.published:
        told = "as published"
    click.echo(f"{told}; × is times {family.baseline.name}")
    click.echo(f"{'':6}{'φ':>5}{'pixels':>8}{'params':>14}{'×':>8}{'MACs':>18}{'×':>8}{'activations':>15}")
    for row in rows:
        same = f"   the same network as {row.same_as} after rounding" if row.same_as else ""
        click.echo(
            f"{row.name:6}{row.phi:5g}{row.resolution:8d}{row.params:14,}{row.params_ratio:8.2f}"
            f"{row.macs:18,}{row.macs_ratio:8.2f}{row.activations:15,}{same}"
        )
    for member in members:
        if file := files.get(member.name):
            grown = family.settings.grow and not same_weights(family.baseline, member.architecture)
            how = f"grown from {family.baseline.name} by" if grown else "starts from"
            click.echo(f"{member.name} {how} {file.where}")
    if teachers:
        click.echo(
            f"{', '.join(teachers)} {'learns' if len(teachers) == 1 else 'learn'} from "
            f"{_teacher_name(members, next(iter(teachers.values())))}, whose forward passes are counted"
        )
    if forecast:
        show_expected(forecast, rows, prices, trainings)
    show_members(prices, recipe.batch_size)
    show_prices(family.settings, stages, speed, gpus)
    show_disk(wanted, order)
    if budget and picked:
        show_picked(budget, picked, forecast)


def _forecast(family: _Family) -> ForecastFindings | None:
    """Return the forecast that the store has for this very config, if it has one."""
    from effnet.forecast.findings import FORECAST, ForecastFindings

    return family.found(ForecastFindings, FORECAST)


def _teachers(family: _Family, members: list[Member]) -> dict[str, Architecture]:
    """Return the network that each member learns from, by the member's name."""
    from effnet.family import teaching_member
    from effnet.plan import teachers_of

    name, outside = family.settings.recipe.teacher, None
    if name and teaching_member(name, members) is None:
        from effnet.evaluation.teacher import teacher_architecture

        outside = teacher_architecture(name, family.base, family.store)
    return teachers_of(members, name, outside)


def _teacher_name(members: list[Member], teacher: Architecture) -> str:
    """Return what people call a teacher: a member by its name, another network by its own."""
    return next((member.name for member in members if member.architecture == teacher), teacher.name)


def _prices(family: _Family, members: list[Member], teachers: dict[str, Architecture]) -> list[StagePrice]:
    """Return the price of every stage; none if nobody knows how many images there are."""
    from effnet.plan import price

    if family.images is None:
        return []
    return price(
        family.settings,
        family.baseline,
        family.coefficients,
        members,
        num_classes=family.num_classes,
        images=family.images,
        teachers=teachers,
    )


def _speed(family: _Family, members: list[Member], device: str | None) -> Speed:
    """Return the speed to price by: the named device's, else an A100's for a work pool, else one measured here."""
    from effnet.plan import stated_speed

    compute = family.settings.compute
    if stated := stated_speed(compute, device, Path(), "--device"):
        return stated
    from effnet.train.speed import measure_speed

    networks = [family.baseline, *(member.architecture for member in members)]
    recipe = family.settings.recipe.sized(family.images or 0)
    return measure_speed(networks, family.num_classes, recipe, compute.threads)


def _order(family: _Family) -> str:
    """Say how images will be mixed if the cache for fetched shards is too small to mix all, or that none will do."""
    if not (family.known and family.known.manifest):
        return ""
    from effnet.data.shards.room import order_that_fits

    try:
        return order_that_fits(family.settings, family.known.manifest).note
    except ConfigError as error:
        return f"a build will refuse: {error}"


def _plan_scaled(family: _Family, multipliers: Multipliers, as_json: bool) -> None:
    from effnet.arch.cost import count
    from effnet.arch.scaling import realised, scale

    base = count(family.baseline, family.num_classes)
    arch = scale(family.baseline, multipliers, resolution_multiple=family.resolution_multiple)
    cost, made = count(arch, family.num_classes), realised(family.baseline, arch)
    data: dict[str, Any] = {
        "baseline": family.baseline.name,
        "multipliers": multipliers._asdict(),
        "realised": {name: round(value, 6) for name, value in made._asdict().items()},
        "resolution": arch.resolution,
        **cost._asdict(),
        "macs_ratio": round(cost.macs / base.macs, 4),
    }
    if as_json:
        click.echo(json.dumps(data, indent=2))
        return
    told = ", ".join(f"{name} ×{value:.3g}" for name, value in multipliers._asdict().items())
    rounded = ", ".join(f"×{value:.3g}" for value in made)
    click.echo(f"{family.baseline.name}, {told}; after rounding {rounded}; {arch.resolution} pixels")
    for name, value in cost._asdict().items():
        click.echo(f"{name:12}{value:16,}   ×{value / getattr(base, name):.2f}")


def _plan_largest(family: _Family, strategy_name: str, budget: Budget, as_json: bool) -> None:
    import math

    from effnet.arch.budget import largest
    from effnet.arch.scaling import STRATEGIES, compound

    if strategy_name not in STRATEGIES:
        raise ConfigError(f"plan: no strategy is called '{strategy_name}'; known: {', '.join(STRATEGIES)}")
    strategy = compound(family.coefficients) if strategy_name == "compound" else STRATEGIES[strategy_name]
    multiple = family.resolution_multiple
    found = largest(family.baseline, strategy, budget, num_classes=family.num_classes, resolution_multiple=multiple)
    depth, width, resolution = strategy.at(2.0**found.octaves)
    data: dict[str, Any] = {
        "baseline": family.baseline.name,
        "strategy": strategy.name,
        "multipliers": {"depth": round(depth, 6), "width": round(width, 6), "resolution": round(resolution, 6)},
        "resolution": found.architecture.resolution,
        **found.cost._asdict(),
        "budget": {name: limit for name, limit in budget._asdict().items() if limit is not None},
    }
    if strategy.name == "compound":
        data["phi"] = round(found.octaves * math.log(2) / math.log(family.coefficients.cost_ratio), 6)
    if as_json:
        click.echo(json.dumps(data, indent=2))
        return
    phi = f", φ = {data['phi']:.2f}" if "phi" in data else ""
    click.echo(
        f"{family.baseline.name} scaled by {strategy.name}{phi}: depth ×{depth:.3f}, width ×{width:.3f}, ", nl=False
    )
    click.echo(f"resolution ×{resolution:.3f} = {found.architecture.resolution} pixels")
    for name, value in found.cost._asdict().items():
        limit = data["budget"].get(name)
        click.echo(f"{name:12}{value:16,}" + (f"   {value / limit:.1%} of {limit:,}" if limit else ""))


@click.command("import-weights")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--arch", "name", required=True, help="The weights' network: a name (also NAME.timm) or a file.")
@click.option("--naming", default="auto", show_default=True, help="effnet, timm, torchvision, lukemelas or auto.")
@click.option("--num-classes", type=click.IntRange(1), help="Classes wanted; if not the file's, the classifier is new.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write.  [default: the network's name]")
@options.JSON
def import_weights(
    file: Path, name: str, naming: str, num_classes: int | None, out: Path | None, as_json: bool
) -> None:
    """Turn a weights file of timm, torchvision or lukemelas naming into a model folder of ours."""
    from effnet.arch import zoo
    from effnet.models.weights import ARCHITECTURE, load_weights, save_model

    folder = out or Path(name if Path(name).suffix not in (".json", ".yaml", ".yml") else Path(name).stem)
    if (folder / ARCHITECTURE).exists():
        raise ConfigError(f"{folder}: holds a model already; name another folder with --out")
    arch = zoo.find(name)
    loaded = load_weights(file, arch, naming, num_classes)
    arch, note = _as_computed_there(arch, name, loaded.naming)
    loaded.network.architecture = arch
    save_model(folder, loaded.network)
    classes = loaded.network.classifier.out_features
    if as_json:
        data = {
            "folder": str(folder),
            "arch": arch.name,
            "naming": loaded.naming,
            "tensors": loaded.num_tensors,
            "reinitialized": list(loaded.reinitialized),
            "num_classes": classes,
        }
        click.echo(json.dumps(data, indent=2))
        return
    click.echo(f"{folder}: {arch.name}, {classes} classes, all {loaded.num_tensors} tensors of {loaded.naming} naming")
    if loaded.reinitialized:
        click.echo(f"new, to be trained: {', '.join(loaded.reinitialized)}")
    if note:
        click.echo(note, err=True)


def _as_computed_there(arch: Architecture, name: str, naming: str) -> tuple[Architecture, str]:
    """Return the network as the weights' code base computes it, where that is certain, and what to tell the user."""
    from effnet.arch import zoo

    if name not in zoo.names() or naming not in zoo.VARIANTS:
        return arch, ""
    if naming == "timm" and name.startswith("efficientnet_"):
        from effnet.models.timm_folder import NAMES

        theirs = next(theirs for theirs, ours in NAMES.items() if ours == f"{name}.timm")
        return arch, (
            f"timm has {theirs} twice, and the file does not say which it is: taken as tf_{theirs} (TensorFlow's "
            f"padding); for timm's own {theirs} import again with --arch {name}.timm"
        )
    return zoo.get(f"{name}.{naming}"), ""


COMMANDS = (describe, plan, import_weights)


def _known(settings: FamilyConfig, config: Path, store: Path, num_classes: int | None, images: int | None) -> Known:
    """Return what is known of the dataset; nothing is looked up where both numbers are stated."""
    from effnet.errors import AwayError, DataError
    from effnet.plan import Known, known_of

    if num_classes and images:
        return Known(num_classes, images, None, None)
    try:
        found = known_of(settings.data, config.parent, store / "datasets")
    except AwayError:
        raise
    except (ConfigError, DataError) as error:
        if num_classes is None:
            raise ConfigError(
                f"plan: {error}; without the images here, state both --num-classes and --images"
            ) from error
        found = Known(num_classes, None, None, None)
    return found._replace(num_classes=num_classes or found.num_classes, images=images or found.images)
