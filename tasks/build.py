"""Build: what every stage needs. Training: a run that a stage wants."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from effnet.arch.cost import FORWARD_SHARE, Cost, count
from effnet.arch.scaling import PAPER, Coefficients
from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig, Recipe, given_coefficients
from effnet.data.shards.manifest import Manifest
from effnet.data.shards.room import Order, order_that_fits
from effnet.errors import ConfigError
from effnet.family import Member, plan_members
from effnet.plan import StagePrice, Work, price, work
from effnet.runs import About, RunFolder, RunSpec, Start, Teacher
from effnet.stages import Stage
from effnet.store import Store
from tasks.records.tracking import Tracker
from tasks.terminal.screen import Screen
from tasks.whole import Whole

FEW_STEPS = 100  # fewer change weights little, whatever the recipe


@dataclass(frozen=True)
class Training:
    """A run that is wanted."""

    spec: RunSpec
    folder: RunFolder
    about: About

    @property
    def name(self) -> str:
        """What people call it."""
        return self.about.name

    @property
    def order_name(self) -> str:
        """Name of the work of training it; a member's own name, such as B3, does not say what is being done."""
        return f"train {self.name}" if self.about.kind is Stage.MEMBER else self.name

    @cached_property
    def cost(self) -> Cost:
        """Parameters and multiply-adds of its network."""
        return count(self.spec.architecture, self.spec.num_classes)

    @property
    def epochs(self) -> int:
        """Epochs from its beginning to its end."""
        return self.spec.recipe.epochs

    def work(self, epochs: float, images: int) -> Work:
        """Return the work of so many epochs of so many images, with what its teacher does."""
        teacher = self.spec.teacher
        return work(epochs * images, self.cost, count(teacher.architecture, self.spec.num_classes) if teacher else None)

    @property
    def size(self) -> float:
        """Expected size of the training, in multiply-adds per sample."""
        macs = float(self.cost.macs)
        if self.spec.teacher:
            macs += FORWARD_SHARE * count(self.spec.teacher.architecture, self.spec.num_classes).macs
        return macs * self.epochs


@dataclass(frozen=True)
class Build:
    """What every stage needs."""

    config: FamilyConfig
    baseline: Architecture
    manifest: Manifest
    store: Store
    tracker: Tracker
    screen: Screen
    base: Path = Path()  # folder of the config; its relative paths begin there
    key: str = ""  # of the build; empty where no family is built
    approved: bool = False  # whatever it costs
    folds: Sequence[Manifest] = ()  # datasets of members.folds, the first of which is the manifest; none without
    whole: Whole | None = None  # how far the family is; None where a stage is carried out alone
    fold: int = 0  # whose dataset the manifest is of, from 1 on; of builds from `of_folds`

    @property
    def of_folds(self) -> list[Build]:
        """The build on the dataset of each fold; itself alone without folds."""
        numbered = enumerate(self.folds, 1)
        return [dataclasses.replace(self, manifest=manifest, fold=fold) for fold, manifest in numbered] or [self]

    @property
    def folder(self) -> Path:
        """Where the family's results lie; made if it is new."""
        folder = self.store.families / self.key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def dataset(self) -> Path:
        """Folder of the dataset."""
        return self.store.datasets / self.manifest.digest

    @property
    def num_classes(self) -> int:
        """Classes of the dataset."""
        return len(self.manifest.classes)

    def prices(
        self, coefficients: Coefficients | None = None, members: Sequence[Member] | None = None
    ) -> list[StagePrice]:
        """Return what the stages of the config take.

        Args:
            coefficients: α, β, γ where they are known by now.
            members: those that are trained, where some are left out.
        """
        known = coefficients or given_coefficients(self.config) or PAPER
        members = members or plan_members(self.baseline, self.config, known, self.num_classes)
        images = self.manifest.samples["train"]
        return price(self.config, self.baseline, known, list(members), num_classes=self.num_classes, images=images)

    @property
    def recipe(self) -> Recipe:
        """The config's recipe, for as many images as there are to train on."""
        return self.config.recipe.sized(self.manifest.samples["train"])

    def tell_few_steps(self, recipe: Recipe | None = None) -> None:
        """Say so if a recipe (the config's where none is given) has so few steps that networks hardly learn."""
        # By effnet, for so many images: there is nothing to mend in the config.
        chosen = recipe is not None or {"epochs", "batch_size"} <= {*self.config.recipe.left_open}
        images, recipe = self.manifest.samples["train"], recipe or self.recipe
        steps = images // recipe.batch_size * recipe.epochs
        if steps >= FEW_STEPS:
            return
        if chosen:
            self.screen.say(f"{steps} steps in all, with {images:,} images to train on: more images would help most")
        else:
            self.screen.warn(f"{steps} steps in all are few: give more epochs or a smaller batch_size")

    @cached_property
    def order(self) -> Order:
        """How images are mixed: as the recipe says, or so that the cache for fetched shards is large enough.

        Raises:
            ConfigError: if no order is possible with the config's cache.
        """
        return order_that_fits(self.config, self.manifest)

    def tell_order(self) -> None:
        """Say how images are mixed if that is not what the config says; raise ConfigError as `order` does."""
        if self.order.note:
            self.screen.say(self.order.note)

    @cached_property
    def outside_teacher(self) -> Teacher | None:
        """The network that the recipe's teacher means, where that is no member of the family; None without a teacher.

        Raises:
            ConfigError: if there is none, or its classes are not the dataset's.
            DataError: if its weights are broken.
        """
        if self.recipe.teacher is None:
            return None
        from effnet.evaluation.teacher import find_teacher

        found, told = find_teacher(self.recipe.teacher, self.base, self.store, self.manifest)
        if told:
            self.screen.say(f"teacher {self.recipe.teacher}: {told}")
        if found.run and RunFolder(self.store.runs / found.run).spec().dataset != self.manifest.digest:
            self.screen.warn(
                f"teacher {self.recipe.teacher} learnt from another dataset: if that holds images of this one's "
                "minival or val, top-1 there will be too high"
            )
        return found

    def training(
        self,
        stage: Stage,
        name: str,
        architecture: Architecture,
        recipe: Recipe,
        labels: Mapping[str, float],
        *,
        start: Start | None = None,
        teacher: Teacher | None = None,
        seed: int = 0,
    ) -> Training:
        """Return the training of an architecture on the dataset; its run folder is made if it is new.

        Args:
            stage: that wants it.
            name: for people.
            architecture: of the network.
            recipe: to train it by; without a `teacher` its fields about one have no effect, and are left out.
            labels: logged as parameters beside the run's spec: φ, α, ...
            start: weights to start from.
            teacher: that it learns from.
            seed: added to the config's.

        Raises:
            ConfigError: if the recipe is for starting from weights, and there are none; or if the teacher takes other
                images.
            DataError: if the weights are not the architecture's.
        """
        if recipe.norms == "frozen" and start is None:
            raise ConfigError(
                f"{name}: a recipe with frozen norms, such as finetune, is for starting from weights; give some, or "
                "another recipe"
            )
        if teacher and teacher.architecture.in_channels != architecture.in_channels:
            raise ConfigError(
                f"{name}: its teacher takes images of {teacher.architecture.in_channels} channels, it takes "
                f"{architecture.in_channels}; name another teacher"
            )
        changes: dict[str, object] = {"shuffle_shards": self.order.shuffle_shards}
        spec = RunSpec(
            architecture=architecture,
            dataset=self.manifest.digest,
            num_classes=self.num_classes,
            recipe=(recipe if teacher else untaught(recipe)).model_copy(update=changes),
            seed=self.config.seed + seed,
            start=start,
            teacher=teacher,
        )
        if start and not (self.store.runs / spec.key()).exists():
            from effnet.models.weights import load_to_start

            # or there would be a run that cannot begin
            load_to_start(Path(start.path), start.grown_from or architecture, self.num_classes)
        about = About(experiment=self.config.family, name=name, kind=stage, labels=dict(labels), family=self.key)
        return Training(spec, RunFolder.create(self.store, spec), about)


def untaught(recipe: Recipe) -> Recipe:
    """Return a recipe as it is without a teacher."""
    return recipe.model_copy(
        update={name: Recipe.model_fields[name].default for name in ("teacher", "teacher_weight", "temperature")}
    )
