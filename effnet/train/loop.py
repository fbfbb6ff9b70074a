"""Train one run to its end, from wherever it stands.

The state of a training is its step and its tensors: the order of samples, augmentation, dropout and stochastic depth
are pure functions of (seed, step). So a training that was stopped or killed goes on bit for bit as if nothing had
happened (same machine, same number of threads).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from effnet.arch.cost import count
from effnet.data.keyed import mix
from effnet.data.loader import Batch, Loader
from effnet.data.policies import augment_batch, mix_batch
from effnet.data.shards import load_manifest
from effnet.errors import ConfigError, DataError, RunFailedError, StoppedError
from effnet.evaluation.metrics import Scores, evaluate
from effnet.models.build import build
from effnet.models.preprocess import normalize
from effnet.runs import RunFolder, RunResult, RunSpec
from effnet.store import publish, sha256_file
from effnet.train import checkpoint
from effnet.train.ema import Ema
from effnet.train.journal import Journal
from effnet.train.optim import make_optimizer
from effnet.train.schedule import learning_rate

EVALUATION_BATCH = 256


class Stop:
    """A request to stop, checked after every step."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def request(self, reason: str) -> None:
        """Ask the training to save its state and stop."""
        self.reason = self.reason or reason


@dataclass
class Progress:
    """All of a training's state besides its tensors; part of every checkpoint."""

    step: int = 0  # steps done
    loss_sum: float = 0.0  # over the steps of the current epoch
    best_epoch: int = 0
    best_step: int = 0
    best: tuple[float, float, float] = (-1.0, 0.0, math.inf)  # minival top-1, top-5, loss
    seconds: float = 0.0  # of earlier processes


@dataclass
class Training:
    """One run in this process."""

    folder: RunFolder
    spec: RunSpec
    dataset: Path
    device: torch.device
    network: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    train_loader: Loader
    minival_loader: Loader
    journal: Journal
    started: float  # Unix seconds at which this process began
    progress: Progress = field(default_factory=Progress)

    @property
    def evaluated(self) -> nn.Module:
        """The network whose weights are judged and taken away."""
        return self.ema.network if self.ema else self.network

    @property
    def seconds(self) -> float:
        """Seconds spent on the run so far, by this process and earlier ones."""
        return self.progress.seconds + time.time() - self.started


def train(folder: RunFolder, *, started: float, stop: Stop, warn: Callable[[str], None]) -> RunResult:
    """Train the run in `folder` and return its result; a finished run is returned as it is.

    Args:
        folder: holds config.json; its dataset lies in the same store.
        started: Unix seconds at which the process began.
        stop: checked after every step.
        warn: told about broken checkpoints, which are passed over.

    Raises:
        ConfigError: if config.json cannot be used.
        DataError: if the dataset is missing or broken.
        BusyError: if another process trains this run.
        StoppedError: if `stop` asked for it; a checkpoint was written.
        RunFailedError: if the loss is no longer a number.
    """
    with folder.lock():
        if result := folder.result():
            return result
        training = _prepare(folder, started)
        try:
            _resume(training, warn)
            for epoch in _epochs_left(training):
                _train_epoch(training, epoch, stop)
            return _finish(training)
        finally:
            training.train_loader.close()
            training.minival_loader.close()


def _prepare(folder: RunFolder, started: float) -> Training:
    spec = folder.spec()
    dataset = folder.store.datasets / spec.dataset
    manifest = load_manifest(dataset)
    if manifest is None:
        raise DataError(f"{dataset}: the run's dataset is not there; shard it first")
    if len(manifest.classes) != spec.num_classes:
        raise ConfigError(
            f"{folder.config_path}: num_classes is {spec.num_classes}, the dataset has {len(manifest.classes)} classes"
        )
    recipe, resolution = spec.recipe, spec.architecture.resolution
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # On the CPU the decoder shares the training's own threads; beside a GPU the cores have nothing else to do.
    threads = torch.get_num_threads() if device.type == "cpu" else len(os.sched_getaffinity(0))
    network = build(spec.architecture, spec.num_classes, seed=spec.seed)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Training(
        folder=folder,
        spec=spec,
        dataset=dataset,
        device=device,
        network=network,
        optimizer=make_optimizer(network, recipe),
        ema=Ema(network, recipe.ema_decay) if recipe.ema_decay else None,
        train_loader=Loader(
            dataset,
            "train",
            batch_size=recipe.batch_size,
            resolution=resolution,
            augment=recipe.augment,
            train=True,
            seed=spec.seed,
            shuffle_shards=recipe.shuffle_shards,
            threads=threads,
            cache=folder.store.cache,
        ),
        minival_loader=Loader(
            dataset,
            "minival",
            batch_size=EVALUATION_BATCH,
            resolution=resolution,
            augment=recipe.augment,
            threads=threads,
            cache=folder.store.cache,
        ),
        journal=Journal(folder.metrics_path),
        started=started,
    )


def _epochs_left(training: Training) -> Iterator[int]:
    steps = training.train_loader.steps_per_epoch
    while (epoch := training.progress.step // steps) < training.spec.recipe.epochs:
        yield epoch


def _train_epoch(training: Training, epoch: int, stop: Stop) -> None:
    """Train from the current step to the end of the epoch (counted from 0), judge, write the journal, checkpoint."""
    progress, every = training.progress, training.spec.recipe.checkpoint_every
    steps = training.train_loader.steps_per_epoch
    first_step, start = progress.step, time.perf_counter()
    training.network.train()
    for batch in training.train_loader.epoch(epoch, progress.step % steps):
        progress.loss_sum += _step(training, batch)
        progress.step += 1
        inside_epoch = progress.step % steps != 0
        if stop.reason and inside_epoch:
            _checkpoint(training)
            raise StoppedError(f"run {training.folder.key}: {stop.reason}; stopped at step {progress.step}")
        if every and inside_epoch and progress.step % every == 0:
            _checkpoint(training)
    train_seconds = time.perf_counter() - start
    train_loss = progress.loss_sum / steps
    if not math.isfinite(train_loss):
        raise RunFailedError(
            f"run {training.folder.key}: the loss is no longer a number in epoch {epoch + 1}; "
            "lower recipe.learning_rate"
        )
    scores = evaluate(training.evaluated, training.spec.architecture, training.minival_loader, training.device)
    _keep_best(progress, epoch, scores)
    progress.loss_sum = 0.0
    training.journal.append(
        epoch + 1,
        progress.step,
        time.time(),
        {
            "train_loss": train_loss,
            "learning_rate": training.optimizer.param_groups[0]["lr"],
            "minival_top1": scores.top1,
            "minival_top5": scores.top5,
            "minival_loss": scores.loss,
            "images_per_second": (progress.step - first_step) * training.spec.recipe.batch_size / train_seconds,
            "seconds": training.seconds,
        },
    )
    _checkpoint(training)
    if stop.reason and epoch + 1 < training.spec.recipe.epochs:
        raise StoppedError(f"run {training.folder.key}: {stop.reason}; stopped after epoch {epoch + 1}")


def _step(training: Training, batch: Batch) -> float:
    """Take one step and return its loss."""
    recipe, step = training.spec.recipe, training.progress.step
    torch.manual_seed(int(mix(training.spec.seed, step)) >> 1)  # dropout and stochastic depth
    for group in training.optimizer.param_groups:
        group["lr"] = learning_rate(recipe, step, training.train_loader.steps_per_epoch)
    seed, epoch = training.spec.seed, step // training.train_loader.steps_per_epoch
    pixels = batch.images.to(training.device, non_blocking=True)
    pixels = augment_batch(pixels, recipe.augment, batch.samples, seed, epoch)
    labels = batch.labels.to(training.device, non_blocking=True)
    images, other_labels, share = mix_batch(
        normalize(pixels, training.spec.architecture), labels, recipe.augment, seed, step
    )
    with torch.autocast(training.device.type, torch.bfloat16, enabled=training.device.type == "cuda"):
        logits = training.network(images)
    losses = functional.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing, reduction="none")
    if other_labels is not labels:
        others = functional.cross_entropy(
            logits.float(), other_labels, label_smoothing=recipe.label_smoothing, reduction="none"
        )
        losses = share * losses + (1 - share) * others
    loss = losses.mean()
    training.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    training.optimizer.step()
    if training.ema:
        training.ema.update(training.network, step)
    return float(loss.detach())


def _keep_best(progress: Progress, epoch: int, scores: Scores) -> None:
    """Note the epoch if it is the best so far: top-1 first, then the lower loss."""
    if (scores.top1, -scores.loss) > (progress.best[0], -progress.best[2]):
        progress.best = (scores.top1, scores.top5, scores.loss)
        progress.best_epoch, progress.best_step = epoch + 1, progress.step


def _checkpoint(training: Training) -> None:
    state: dict[str, Any] = {
        "progress": vars(training.progress) | {"seconds": training.seconds},
        "optimizer": training.optimizer.state_dict(),
    }
    if training.ema:
        state["network"] = training.network.state_dict()
    folder = training.folder.checkpoints
    checkpoint.save(folder, training.progress.step, training.evaluated.state_dict(), state)
    checkpoint.prune(folder, training.progress.best_step)


def _resume(training: Training, warn: Callable[[str], None]) -> None:
    folder = checkpoint.newest(training.folder.checkpoints, warn)
    if folder is None:
        return
    weights, state = checkpoint.load(folder)
    try:
        training.evaluated.load_state_dict(weights)
        training.network.load_state_dict(state.get("network", weights))
        training.optimizer.load_state_dict(state["optimizer"])
        training.progress = Progress(**state["progress"])
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise DataError(f"{folder}: does not fit this run; remove the run's folder {training.folder.path}") from error


def _finish(training: Training) -> RunResult:
    """Take the best epoch's weights out of its checkpoint and write the result."""
    folder, spec, progress = training.folder, training.spec, training.progress
    best = folder.checkpoints / f"step-{progress.best_step}"
    if trouble := checkpoint.problem(best):
        raise DataError(f"{trouble}; it held the best weights: remove {folder.path} and train again")
    publish(folder.weights_path, (best / checkpoint.WEIGHTS).read_bytes())
    cost = count(spec.architecture, spec.num_classes)
    result = RunResult(
        key=folder.key,
        top1=progress.best[0],
        top5=progress.best[1],
        loss=progress.best[2],
        best_epoch=progress.best_epoch,
        epochs=spec.recipe.epochs,
        steps=progress.step,
        params=cost.params,
        macs=cost.macs,
        seconds=training.seconds,
        weights_sha256=sha256_file(folder.weights_path),
        environment=environment(training.device),
    )
    publish(folder.result_path, result.model_dump_json(indent=2).encode())
    return result


def environment(device: torch.device) -> dict[str, str]:
    """Return what a result depends on besides its spec."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores"
    return {"torch": torch.__version__, "device": f"{device.type} ({name})", "threads": str(torch.get_num_threads())}
