"""A run: what to train (RunSpec), and the folder in which it happens (RunFolder).

The folder is the interface between a training and everything else:

    config.json          the RunSpec; written first
    about.json           what people call it, for records that are sent later
    metrics.jsonl        one JSON line per epoch; appended
    pace.json            how far it is within its epoch, for those who watch; replaced every few seconds
    output.log           what the training printed
    checkpoints/step-N/  the training's state; the newest two and the best are kept
    model.safetensors    the weights that people take away
    result.json          written last: a folder that has it is done
    hits.json            which images of minival and val the network is right about (effnet.hits)
    probe.safetensors    where the run starts from other weights: these with a classifier on their features alone
    probe.json           its scores on minival, a floor for the training's
    evaluation.json      scores on the validation split, written once by the evaluation
    latency.json         how long the untrained network takes, if a search needs it
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from effnet.arch.spec import Architecture
from effnet.config import Recipe
from effnet.errors import ConfigError, DataError
from effnet.foreign import refuse_foreign
from effnet.stages import Stage
from effnet.store import Store, digest, hold, publish
from effnet.values import Value, explain

# Fields of a recipe that no result depends on; what its teacher's name means is the spec's own `teacher`.
NOT_DECIDING = {"base", "checkpoint_minutes", "left_open", "teacher"}
CACHE_VERSION = 4  # raise it when a change makes stored results wrong
# Fields that came later, as they have been before: with these a run keeps its key.
_BEFORE = {
    "norms": "train",
    "head_rate": 1.0,
    "left_open": [],
    "balance": False,
    "micro_batch": None,
    "deterministic": False,
    "teacher": None,
    "teacher_weight": 0.5,
    "temperature": 1.0,
}
DIVERGED = "lower recipe.learning_rate"  # ends the message of a training whose loss is no longer a number
MIN_KEY = 4  # shortest text that is tried as the beginning of a key
SHOWN_KEY = 12  # letters of a run's key, of sixteen, that people are shown
BESIDE = "beside other work"  # marks a latency that something disturbed
LATENCY_TRIES = 3  # occasions, at most, on which a latency is measured until one is quiet

_V = TypeVar("_V", bound=Value)


class Start(Value):
    """Weights that a training starts from."""

    path: str  # of a weights file; where it lies is not part of a run's key
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    new_head: Annotated[bool, Field(description="always start with a new classifier")] = False
    grown_from: Annotated[
        Architecture | None, Field(description="smaller network that they are of; they are grown into the run's")
    ] = None
    origin: Annotated[
        str | None, Field(description="address that they came from; of the Hugging Face hub, with the commit")
    ] = None

    def told(self) -> str:
        """Return what they are, for people: `weights 0123456789abcdef`."""
        of = f" of {self.grown_from.name}, grown" if self.grown_from else ""
        came = f" from {self.origin}" if self.origin else ""
        return f"weights {self.sha256[:16]}{of}{came}"


class Teacher(Value):
    """A network that a training learns from: a finished run of the same store, or a weights file."""

    architecture: Architecture
    run: Annotated[str | None, Field(pattern=r"^[0-9a-f]{16}$", description="its key, for a run of the store")] = None
    path: str | None = None  # of the weights file of any other; where it lies is not part of a run's key
    sha256: Annotated[str | None, Field(pattern=r"^[0-9a-f]{64}$", description="of that file")] = None
    outputs: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...],
        Field(description="which of its outputs each class of the dataset is; none: they are the same"),
    ] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.run is None) != (self.path is not None and self.sha256 is not None):
            raise ValueError("a teacher is a run, or a path with its sha256")
        return self

    def told(self) -> str:
        """Return what it is, for people: `run 0123456789abcdef, efficientnet_b3`."""
        what = f"run {self.run}" if self.run else f"weights {str(self.sha256)[:16]}"
        return f"{what}, {self.architecture.name}"

    def identity(self) -> dict[str, Any]:
        """Return what decides its answers, for the key of what learns from it."""
        if self.run:
            found: dict[str, Any] = {"run": self.run}
        else:
            found = {"sha256": self.sha256, "architecture": self.architecture.key()}
        return found | ({"outputs": self.outputs} if self.outputs else {})


class RunSpec(Value):
    """All that decides a training's result: equal specs are trained once."""

    architecture: Architecture
    dataset: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$", description="digest of the dataset")]
    num_classes: Annotated[int, Field(ge=2, le=1_000_000)]
    recipe: Recipe
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    start: Annotated[Start | None, Field(description="weights to start from; none: initialised from the seed")] = None
    teacher: Annotated[Teacher | None, Field(description="whose answers it learns besides the labels")] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.recipe.teacher is None) != (self.teacher is None):
            raise ValueError("recipe.teacher is a name, and `teacher` the network that it means: give both or neither")
        return self

    def key(self) -> str:
        """Return 16 hex digits that equal specs share; the architecture's name is not part of them."""
        data = self.model_dump(mode="json")
        data["architecture"] = self.architecture.key()
        for name in NOT_DECIDING:
            del data["recipe"][name]
        data["recipe"] = without_new(data["recipe"])
        if self.start:
            for name in ("path", "origin", "grown_from"):
                del data["start"][name]
            if self.start.grown_from:  # it came later: without it runs keep their keys
                data["start"]["grown_from"] = self.start.grown_from.key()
            data["start"]["classifier"] = "zero"  # where it is new; it was drawn before
        del data["teacher"]  # it came later
        if self.teacher:
            data["teacher"] = self.teacher.identity()
        return digest({"version": CACHE_VERSION, **data})[:16]


def without_new(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a dumped recipe without fields that came later and have no effect here, so that keys stay as they were."""
    if recipe["norm_ranks"] is None:  # it was 0 before, and means the same to one process
        recipe = recipe | {"norm_ranks": 0}
    return {name: value for name, value in recipe.items() if name not in _BEFORE or value != _BEFORE[name]}


_FIRST = re.compile(r"( fold 1)?( seed 0)?$")
_WHICH = re.compile(r"( fold \d+)?( seed \d+)?$")


class About(Value):
    """What people call a run, and where its records belong; not part of what it computes."""

    experiment: str  # the family's name
    name: str
    kind: Stage
    labels: dict[str, float]  # φ, α, ...
    family: str  # key of the build that it was first wanted for

    @property
    def network(self) -> str:
        """What is trained, without which fold and seed: B7 for `B7 fold 2 seed 1`."""
        return _WHICH.sub("", self.name)

    @property
    def plain(self) -> str:
        """The name that it has where it is alone: B7 for `B7 seed 0`; that of any other seed or fold as it is."""
        return _FIRST.sub("", self.name)


def numbered(name: str, fold: int, folds: int, seed: int, seeds: int) -> str:
    """Return what people call one of several trainings: `B7 seed 0`, `B7 fold 2 seed 1`; B7 if it is alone.

    Args:
        name: of what is trained.
        fold: from 1 on.
        folds: how many there are.
        seed: from 0 on.
        seeds: how many there are.
    """
    which = f" fold {fold}" if folds > 1 else ""
    return f"{name}{which}{f' seed {seed}' if seeds > 1 else ''}"


FEATURES_KEPT = "; its features alone are kept: no epoch was better"  # than the probe


class Probe(Value):
    """What a classifier alone reaches on the features that a run's first weights give, on the minival split."""

    top1: Annotated[float, Field(ge=0, le=1)]
    top5: Annotated[float, Field(ge=0, le=1)]
    loss: float
    strength: float  # inverse of the regression's penalty
    images: int  # that it learnt from


class RunResult(Value):
    """What a finished training found, on the minival split."""

    key: str
    top1: Annotated[float, Field(ge=0, le=1)]  # of the weights in model.safetensors
    top5: Annotated[float, Field(ge=0, le=1)]
    loss: float
    best_epoch: int  # counted from 1; the epoch whose weights were kept; 0: the probe's
    epochs: int  # done; fewer than the recipe's if patience ended
    steps: int
    params: int
    macs: int
    seconds: float  # of all processes that worked on the run, from start to end of each
    weights_sha256: str
    environment: dict[str, str]  # versions, device, threads, ranks, precision
    notes: tuple[str, ...] = ()  # where a short training deviated from its recipe

    @property
    def kept(self) -> str:
        """Say at the end of a line which weights these are."""
        return f", after epoch {self.best_epoch}" if self.best_epoch else FEATURES_KEPT


class Pace(Value):
    """How far a training is, also within an epoch, and how fast lately."""

    epochs: float  # trained, of the recipe's
    images_per_second: float
    images_per_epoch: int = 0  # 0: written before this was told

    def is_after(self, whole: int) -> bool:
        """Say whether it is of the epoch that follows so many whole ones, and not of one that is over."""
        return whole < self.epochs <= whole + 1

    def seconds_left(self, epochs: int) -> float | None:
        """Return how long the training takes to the end of so many epochs; None if that cannot be said."""
        if not self.images_per_epoch or self.images_per_second <= 0:
            return None
        return max(epochs - self.epochs, 0) * self.images_per_epoch / self.images_per_second


class Latency(Value):
    """How long a network takes for one image, and how far that can be trusted."""

    latency_ms: float  # median
    spread_ms: float = 0.0  # between the quartiles
    runs: int = 0  # that the median is taken over
    threads: int = 1
    device: str = "an unknown processor"
    others: float = 0.0  # cores that other processes kept busy meanwhile
    quiet: bool = False  # nothing disturbed it
    tries: int = 0  # times it was measured, on different occasions

    @property
    def settled(self) -> bool:
        """Whether it need not be measured again."""
        return self.quiet or self.tries >= LATENCY_TRIES

    def where(self) -> str:
        """Say what it was measured on."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{threads} of {self.device}{'' if self.quiet else f', {BESIDE}'}"


class ClassScore(NamedTuple):
    """How well a network knows one class; None where nothing is to be divided by."""

    recall: float | None  # of its images, the share that got it
    precision: float | None  # of the images that got it, the share that are of it
    f1: float | None  # harmonic mean of both


class Evaluation(Value):
    """How weights score on a split, usually the validation split. Fractions are between 0 and 1."""

    key: str  # of the run; of the weights (the start of their sha256) if they belong to no run
    dataset: str
    split: str
    samples: int
    top1: Annotated[float, Field(ge=0, le=1)]
    top5: Annotated[float, Field(ge=0, le=1)]
    loss: float  # cross-entropy in nats
    calibration_error: float  # mean distance between confidence and accuracy, in fifteen bins of confidence
    calibration: tuple[tuple[int, float, float], ...] = ()  # images, confidence, share right, of each bin
    class_samples: tuple[int, ...]  # images of each class
    class_right: tuple[int, ...]  # of these, how many got their class
    confusion: tuple[tuple[int, int, int], ...]  # class, class found, images: all pairs that occurred
    mistakes: tuple[tuple[int, int, int, float], ...] = ()  # surest: image, class, found, confidence
    resolutions: dict[int, float]  # top-1 with images of other sides; the network's own is among them
    latency_ms: float  # batch of 1 on one core (paper, table 4)
    latency: Latency | None = None  # the same, and how it was measured; none in files of earlier versions
    features_alone: float | None = None  # top-1 of the probe of a run that starts from other weights
    matched: str = ""  # how the dataset's classes were found among the network's, where that is not obvious
    images_per_second: float  # at the best batch, with all threads
    best_batch: int
    environment: dict[str, str]
    seconds: float | None = None  # that it took, without waiting; none in files of earlier versions

    @property
    def class_scores(self) -> list[ClassScore]:
        """Recall, precision and F1 of each class."""
        found = [0] * len(self.class_samples)
        for _, label, images in self.confusion:
            found[label] += images
        return [
            ClassScore(
                recall=right / samples if samples else None,
                precision=right / taken if taken else None,
                f1=2 * right / (samples + taken) if samples + taken else None,
            )
            for samples, right, taken in zip(self.class_samples, self.class_right, found, strict=True)
        ]

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall over the classes that have images: each class counts the same, however many it has."""
        found = [score.recall for score in self.class_scores if score.recall is not None]
        return sum(found) / len(found)

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the classes that have images or were given to some."""
        found = [score.f1 for score in self.class_scores if score.f1 is not None]
        return sum(found) / len(found)


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @classmethod
    def create(cls, store: Store, spec: RunSpec) -> RunFolder:
        """Return the folder of a spec's run, writing config.json if it is new."""
        folder = cls(store.runs / spec.key())
        if not folder.config_path.exists():
            publish(folder.config_path, spec.model_dump_json(indent=2).encode())
        return folder

    @property
    def key(self) -> str:
        """The run's key, which is the folder's name."""
        return self.path.name

    @property
    def store(self) -> Store:
        """The store that the folder lies in."""
        return Store(self.path.absolute().parent.parent)

    @property
    def config_path(self) -> Path:
        """config.json."""
        return self.path / "config.json"

    @property
    def metrics_path(self) -> Path:
        """metrics.jsonl."""
        return self.path / "metrics.jsonl"

    @property
    def pace_path(self) -> Path:
        """Pace, replaced every few seconds of training."""
        return self.path / "pace.json"

    @property
    def log_path(self) -> Path:
        """output.log."""
        return self.path / "output.log"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def weights_path(self) -> Path:
        """model.safetensors."""
        return self.path / "model.safetensors"

    @property
    def result_path(self) -> Path:
        """result.json."""
        return self.path / "result.json"

    @property
    def evaluation_path(self) -> Path:
        """evaluation.json."""
        return self.path / "evaluation.json"

    @property
    def probe_path(self) -> Path:
        """probe.json."""
        return self.path / "probe.json"

    @property
    def probe_weights_path(self) -> Path:
        """probe.safetensors."""
        return self.path / "probe.safetensors"

    @property
    def hits_path(self) -> Path:
        """hits.json."""
        return self.path / "hits.json"

    @property
    def latency_path(self) -> Path:
        """latency.json."""
        return self.path / "latency.json"

    def spec(self) -> RunSpec:
        """Read config.json; raise ConfigError if it is missing, broken or not this folder's."""
        refuse_foreign(self.path)
        try:
            spec = read_value(RunSpec, self.config_path)
        except DataError as error:
            raise ConfigError(str(error)) from error
        if spec is None:
            raise ConfigError(f"{self.path}: no config.json here; a run folder has one, written by effnet or by hand")
        if spec.key() != self.key:
            raise ConfigError(
                f"{self.config_path}: belongs to run {spec.key()}, not to this folder; the file was changed or moved, "
                "or was written by another version of effnet"
            )
        return spec

    def describe(self, about: About) -> None:
        """Write about.json, unless the run has one; one that is no longer alone, or is again, gets its new name."""
        known = self.about()
        if known and known.name != about.name and known.plain == about.plain:
            about = known.model_copy(update={"name": about.name})
        elif known:
            return
        publish(self.path / "about.json", about.model_dump_json(indent=2).encode())

    def about(self) -> About | None:
        """Read about.json; None if there is none."""
        return read_value(About, self.path / "about.json")

    def latency_ms(self) -> float:
        """Return latency.json's milliseconds; raise DataError if it is not there or broken."""
        if (latency := read_value(Latency, self.latency_path)) is None:
            raise DataError(f"{self.latency_path}: missing; run the command again")
        return latency.latency_ms

    def latency(self) -> Latency | None:
        """Return the evaluation's latency, else that of latency.json; None if the network was never timed."""
        if evaluation := self.evaluation():
            return evaluation.latency or Latency(latency_ms=evaluation.latency_ms)
        return read_value(Latency, self.latency_path)

    def known_latency_ms(self) -> float | None:
        """Return the milliseconds of `latency`, if it is known."""
        latency = self.latency()
        return latency.latency_ms if latency else None

    def trained(self) -> RunResult:
        """Read result.json of a run that was trained just now; raise DataError if it has gone."""
        if (result := self.result()) is None:
            raise DataError(f"{self.path}: its result is missing; run the command again")
        return result

    def evaluated(self) -> Evaluation:
        """Read evaluation.json of a run that was evaluated just now; raise DataError if it has gone."""
        if (evaluation := self.evaluation()) is None:
            raise DataError(f"{self.path}: its evaluation is missing; run the command again")
        return evaluation

    @property
    def state(self) -> str:
        """How far the run is: new, begun, trained or evaluated."""
        if self.result_path.is_file():
            return "evaluated" if self.evaluation_path.is_file() else "trained"
        return "begun" if read_journal(self.metrics_path)[0] else "new"

    def unfinished(self) -> str:
        """Return what to tell a person who wants the weights of a run that has none yet."""
        about = self.about()
        called = f" ({about.name} of {about.experiment})" if about else ""
        member = about.plain.lower() if about and about.kind is Stage.MEMBER and " " not in about.plain else "NAME"
        return (
            f"run {self.key}{called} is not finished: start it again with the command that began it (effnet family "
            f"CONFIG, or effnet train CONFIG --member {member}); it goes on where it stopped"
        )

    def result(self) -> RunResult | None:
        """Read result.json; None if the run is not done."""
        return read_value(RunResult, self.result_path)

    def pace(self) -> Pace | None:
        """Return how far the training is; None if it has not trained for long enough to say, or nobody can tell."""
        try:
            return read_value(Pace, self.pace_path)
        except (DataError, OSError):  # of another version, or cut short: only for show
            return None

    def probe(self) -> Probe | None:
        """Read probe.json; None if there is none, or no weights beside it."""
        return read_value(Probe, self.probe_path) if self.probe_weights_path.exists() else None

    def evaluation(self) -> Evaluation | None:
        """Read evaluation.json; None if there is none."""
        return read_value(Evaluation, self.evaluation_path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; the system frees it when the process ends, however it ends.

        Raises:
            BusyError: if another process holds it.
        """
        with hold(self.path / "lock", f"{self.path}: another process is training this run; wait for it or stop it"):
            yield


def read_value(model: type[_V], path: Path) -> _V | None:
    """Read a value that effnet wrote as JSON; None if there is no file, DataError if it is broken."""
    try:
        return model.model_validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise DataError(f"{path}: {explain(error, model)}; remove the file and run again") from error


def read_journal(path: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Read a journal's whole lines from byte `start`; return them and the byte after the last.

    A line cut short by a kill has no newline yet and is left for the next call.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
    except FileNotFoundError:
        return [], start
    end = data.rfind(b"\n") + 1
    try:
        return [json.loads(line) for line in data[:end].splitlines()], start + end
    except ValueError as error:
        raise DataError(f"{path}: holds a broken line after byte {start}") from error
