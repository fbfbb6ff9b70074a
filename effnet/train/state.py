"""A training in this process: its parts, and how they go into a checkpoint and come back."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from effnet.config import Recipe
from effnet.data.loader import Loader
from effnet.data.shards.manifest import load_manifest
from effnet.data.shards.room import check_room
from effnet.errors import ConfigError, DataError
from effnet.evaluation.metrics import BATCH, batch_of
from effnet.machine import cores, raise_if_broken
from effnet.memory import MicroBatch, plan_micro_batch
from effnet.models.build import Network, build
from effnet.models.grow import grown_network
from effnet.models.weights import load_to_start
from effnet.runs import CACHE_VERSION, RunFolder, RunSpec
from effnet.store import sha256_file
from effnet.train import checkpoint
from effnet.train.distributed import World
from effnet.train.journal import Journal
from effnet.train.micro_batch import device_memory, number_of_parts
from effnet.train.optim import Optimizer
from effnet.train.passes import Buffers, GraphedPasses, Passes
from effnet.train.teacher import TeacherNetwork, open_teacher
from effnet.train.usage import Clock


class AbandonedError(Exception):
    """A step or an evaluation was given up midway because the training is to stop; the state before it is whole."""


@dataclass
class Progress:
    """All of a training's state besides its tensors; part of every checkpoint."""

    step: int = 0  # steps done
    loss_sum: float = 0.0  # over the images of the current epoch so far
    best_epoch: int = 0
    best_step: int = 0
    unjudged: dict[str, float] | None = None  # usage in an epoch whose last step is done, but which is not judged yet
    best: tuple[float, float, float] = (-1.0, 0.0, math.inf)  # minival top-1, top-5, loss
    seconds: float = 0.0  # of earlier processes


def _go_on() -> None:
    pass


@dataclass
class TrainingState:
    """One run in this process, which may be one of several ranks."""

    folder: RunFolder
    spec: RunSpec
    world: World
    network: Network
    optimizer: Optimizer
    train_loader: Loader
    minival_loader: Loader
    journal: Journal
    clock: Clock
    warn: Callable[[str], None]
    bfloat16: bool
    loss_sum: torch.Tensor  # float64, on the device: of this rank's images of the epoch
    buffers: Buffers
    micro_batch: MicroBatch
    passes: Passes | GraphedPasses
    trial: Passes  # the same, never as a graph
    progress: Progress = field(default_factory=Progress)
    saved: float = field(default_factory=time.monotonic)  # when the last checkpoint was written, or the training began
    look: Callable[[], None] = _go_on  # raises AbandonedError if the training is to stop
    micro_batch_is_settled: bool = False  # by the checkpoint that the training goes on from
    new_classifier: bool = False  # the rest starts from given weights
    teacher: TeacherNetwork | None = None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.world.device

    @property
    def judged(self) -> Network:
        """The network whose weights are judged and taken away."""
        return self.optimizer.average or self.network

    @property
    def parts(self) -> int:
        """Micro-batches of a step."""
        return number_of_parts(self.micro_batch, self.spec.recipe.batch_size, self.world.size)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        return self.train_loader.steps_per_epoch

    @property
    def seconds(self) -> float:
        """Seconds spent on the run so far, by this process and earlier ones."""
        return self.progress.seconds + self.clock.seconds()


def prepare(folder: RunFolder, world: World, started: float, warn: Callable[[str], None]) -> TrainingState:
    """Return a run's training at its start; see effnet.train.loop.train for what is raised."""
    spec = folder.spec()
    dataset = folder.store.datasets / spec.dataset
    _check(folder, spec, dataset, world)
    recipe, device = spec.recipe, world.device
    network, new_classifier = first_network(folder, spec)
    if recipe.deterministic:
        be_deterministic()
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Optimizer(network, recipe)
    teacher = open_teacher(folder, spec, device)
    bfloat16 = takes_bfloat16(recipe, device)
    micro_batch = plan_micro_batch(
        spec.architecture, spec.num_classes, -(-recipe.batch_size // world.size),
        memory=device_memory(device), bfloat16=bfloat16, wanted=recipe.micro_batch,
        teacher=spec.teacher.architecture if spec.teacher else None,
    )  # fmt: skip
    # Ranks may be on devices of different sizes.
    micro_batch = MicroBatch(world.least(micro_batch.images), world.any(micro_batch.recompute))
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if device.type == "cpu" and named not in ("", "-1") and world.is_leader:
        warn(f"is to use {named}, where torch sees no GPU: trains on the CPU (effnet doctor says more)")
    # On the CPU the decoder shares the training's own threads; beside a GPU the cores have nothing else to do.
    threads = torch.get_num_threads() if device.type == "cpu" else max(1, cores() // world.local_size)
    shared = {
        "resolution": spec.architecture.resolution,
        "augment": recipe.augment,
        "rank": world.rank,
        "world": world.size,
        "threads": threads,
        "cache": folder.store.cache,
    }
    train_loader = Loader(
        dataset,
        "train",
        batch_size=recipe.batch_size,
        train=True,
        seed=spec.seed,
        shuffle_shards=recipe.shuffle_shards,
        **shared,  # type: ignore[arg-type]
    )
    weights = balanced(train_loader.index.labels, spec.num_classes).to(device) if recipe.balance else None
    plain = Passes(network, recipe, bfloat16=bfloat16, class_weights=weights, teacher=teacher)
    passes: Passes | GraphedPasses = plain
    if device.type == "cuda":
        gradients = optimizer.keep_gradients()
        if world.size == 1:
            passes = GraphedPasses(plain, network, gradients)
    # On a GPU the training keeps its memory while the network is judged.
    evaluated = BATCH if device.type == "cpu" else batch_of(spec.architecture.resolution)
    return TrainingState(
        buffers=Buffers(network),
        folder=folder,
        spec=spec,
        world=world,
        network=network,
        optimizer=optimizer,
        train_loader=train_loader,
        minival_loader=Loader(dataset, "minival", batch_size=evaluated * world.size, **shared),  # type: ignore[arg-type]
        journal=Journal(folder.metrics_path, writes=world.is_leader),
        clock=Clock(started, device),
        warn=warn if world.is_leader else lambda _line: None,
        bfloat16=bfloat16,
        loss_sum=torch.zeros((), dtype=torch.float64, device=device),
        micro_batch=micro_batch,
        passes=passes,
        trial=plain,
        new_classifier=new_classifier,
        teacher=teacher,
    )


def takes_bfloat16(recipe: Recipe, device: torch.device) -> bool:
    """Say whether forward passes are under autocast to bfloat16: GPUs without it emulate it slowly."""
    if recipe.precision != "auto":
        return recipe.precision == "bfloat16"
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def be_deterministic() -> None:
    """Let this process use only kernels that give the same bits each time, before it uses a GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)


def noise_sizes(network: Network) -> tuple[int, int]:
    """Return how many random numbers stochastic depth and dropout take for each image."""
    return len(network.blocks), network.classifier.in_features


def balanced(labels: NDArray[np.int64], num_classes: int) -> torch.Tensor:
    """Return each class's weight, float32 (classes,): images / (classes that have some * images of the class).

    Over all images the mean weight is 1, so that the learning rate keeps its meaning; a class without images has 0.
    It is scikit-learn's "balanced" (King and Zeng, Logistic Regression in Rare Events Data, 2001).
    """
    counts = np.bincount(labels, minlength=num_classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return torch.from_numpy(np.where(counts, weights, 0.0)).float()


def _check(folder: RunFolder, spec: RunSpec, dataset: Path, world: World) -> None:
    manifest = load_manifest(dataset)
    if manifest is None:
        raise DataError(f"{dataset}: the run's dataset is not there; shard it first")
    if len(manifest.classes) != spec.num_classes:
        raise ConfigError(
            f"{folder.config_path}: num_classes is {spec.num_classes}, the dataset has {len(manifest.classes)} classes"
        )
    check_room(dataset, manifest, spec.recipe.shuffle_shards)
    if spec.recipe.batch_size < world.size:
        raise ConfigError(
            f"{folder.config_path}: recipe.batch_size {spec.recipe.batch_size} is less than one image for each of "
            f"the {world.size} ranks"
        )


def first_network(folder: RunFolder, spec: RunSpec) -> tuple[Network, bool]:
    """Return the network with the weights that the training starts from, and whether its classifier alone is new."""
    if spec.start is None:
        return build(spec.architecture, spec.num_classes, seed=spec.seed), False
    path = Path(spec.start.path)
    if not path.is_file() or sha256_file(path) != spec.start.sha256:
        raise DataError(f"{path}: missing, or not the weights that {folder.config_path} starts from")
    loaded = load_to_start(path, spec.start.grown_from or spec.architecture, spec.num_classes)
    network, new = loaded.network, spec.start.new_head or bool(loaded.reinitialized)
    if new:
        # Drawn by the rule for 1,000 classes, one for a few would be so large that its gradient destroys the weights.
        for parameter in network.classifier.parameters():
            nn.init.zeros_(parameter)
    if spec.start.grown_from:
        network = grown_network(network, spec.architecture, spec.seed)
    return network.train().requires_grad_(True), new


def environment(training: TrainingState) -> dict[str, str]:
    """Return what a result depends on, to the bit, besides its spec."""
    device, micro_batch = training.device, training.micro_batch
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores"
    more = {}
    if micro_batch.images < -(-training.spec.recipe.batch_size // training.world.size) or micro_batch.recompute:
        more["micro_batch"] = f"{micro_batch.images}{', recomputed' if micro_batch.recompute else ''}"
    if training.teacher:
        more["teacher"] = training.teacher.sha256[:16]
    return {
        "torch": str(torch.__version__),
        "device": f"{device.type} ({name})",
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
        "ranks": str(training.world.size),
        "precision": "bfloat16" if training.bfloat16 else "float32",
        **more,
    }


def save(training: TrainingState, *, anew: bool = False) -> None:
    """Write a checkpoint, from the leader; the other ranks go on once it is written.

    Args:
        training: between two steps, so that its state is whole.
        anew: write it even if there is one of this step, which was written before the epoch was judged.
    """
    training.world.sum_(training.loss_sum)
    training.progress.loss_sum = float(training.loss_sum)
    if not training.world.is_leader:
        training.loss_sum.zero_()  # the leader holds the sum of all from here on
    if training.world.is_leader:
        state: dict[str, Any] = {
            "run": training.folder.key,
            "version": CACHE_VERSION,
            "environment": environment(training),
            "progress": vars(training.progress) | {"seconds": training.seconds},
            "optimizer": training.optimizer.state_dict(),
            "micro_batch": tuple(training.micro_batch),
        }
        if training.optimizer.average:
            state["network"] = training.network.state_dict()
        folder = training.folder.checkpoints
        checkpoint.save(folder, training.progress.step, training.judged.state_dict(), state, anew=anew)
        checkpoint.prune(folder, training.progress.best_step)
    training.world.broadcast(None)
    training.saved = time.monotonic()


def _usable_steps(checkpoints: Path, world: World) -> set[int]:
    """Return the steps that this rank could resume from; the leader checks its own when it chooses, with warnings."""
    steps = checkpoint.steps(checkpoints)
    return {step for step in steps if world.is_leader or checkpoint.problem(checkpoints / f"step-{step}") is None}


def resume(training: TrainingState) -> None:
    """Resume from the newest valid checkpoint, if there is one; the leader chooses among those that all ranks see.

    Machines that share no store may hold different ones: the leader's newest may not have been sent.

    A checkpoint of another run or of another version of effnet is refused. One that was written with other threads,
    ranks or versions of torch is used with a warning: the training resumes with every sample in its place, but its
    weights are not the same to the bit.

    Raises:
        DataError: if the checkpoint does not fit.
    """
    world = training.world
    everywhere = world.intersection(_usable_steps(training.folder.checkpoints, world))
    found = checkpoint.newest(training.folder.checkpoints, training.warn, everywhere) if world.is_leader else None
    name = world.broadcast(found.name if found else None)
    if name is None:
        return
    folder = training.folder.checkpoints / name
    weights, state = checkpoint.load(folder)
    if (state.get("run"), state.get("version")) != (training.folder.key, CACHE_VERSION):
        raise DataError(
            f"{folder}: a checkpoint of another run or of another version of effnet; remove {folder.parent}"
        )
    try:
        training.judged.load_state_dict(weights)
        training.network.load_state_dict(state.get("network", weights))
        training.optimizer.load_state_dict(state["optimizer"])
        training.progress = Progress(**state["progress"])
        before = state["environment"]
        if before["ranks"] == str(world.size) and "micro_batch" in state:  # with others each has another share
            training.micro_batch, training.micro_batch_is_settled = MicroBatch(*state["micro_batch"]), True
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise_if_broken(error)
        raise DataError(f"{folder}: does not fit this run; remove the run's folder {training.folder.path}") from error
    if world.is_leader:
        training.loss_sum.fill_(training.progress.loss_sum)
    now = environment(training)
    if changed := [f"{name} {before.get(name)} -> {now[name]}" for name in now if now[name] != before.get(name)]:
        training.warn(
            f"resumes from {folder.name} with {', '.join(changed)}: the weights will not be the same to the bit"
        )
