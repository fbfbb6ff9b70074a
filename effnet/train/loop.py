"""Train one run to its end, from wherever it stands.

The state of a training is its step and its tensors: the order of samples, augmentation, dropout and stochastic depth
are pure functions of (seed, epoch, sample). So a training that was stopped or killed resumes bit for bit as if nothing
had happened (same machine, threads and ranks), and with other ranks every sample still comes once per epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from effnet.arch.cost import count
from effnet.data.loader import WaitedError
from effnet.errors import BusyError, DataError, RunFailedError, StoppedError
from effnet.evaluation.metrics import Scores, evaluate
from effnet.files import reason
from effnet.machine import raise_if_broken
from effnet.models.build import freeze_norms
from effnet.process import say
from effnet.runs import DIVERGED, RunFolder, RunResult
from effnet.store import publish, sha256_file
from effnet.train import checkpoint
from effnet.train.distributed import World, lost_others
from effnet.train.pace import Pacer
from effnet.train.probe import probe
from effnet.train.schedule import adapted, learning_rate, stage
from effnet.train.settle import settle
from effnet.train.state import (
    AbandonedError,
    Progress,
    TrainingState,
    environment,
    first_network,
    prepare,
    resume,
    save,
)
from effnet.train.step import take_step
from effnet.train.usage import with_all_energy


class Stop:
    """A request to stop, checked at every block, on GPUs at every micro-batch; with several ranks after every step."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def request(self, reason: str) -> None:
        """Ask the training to save its state and stop."""
        self.reason = self.reason or reason


def train(
    folder: RunFolder, *, started: float, stop: Stop, warn: Callable[[str], None], until: int | None = None
) -> RunResult | None:
    """Train the run in `folder` and return its result; a finished run is returned as it is.

    In a process that torchrun started, this is one of several ranks; the first one writes the files. The others may
    be on machines that see none of them.

    Args:
        folder: holds config.json; its dataset lies in the same store.
        started: Unix seconds at which the process began.
        stop: checked after every step.
        warn: told about broken checkpoints, which are skipped, and about other deviations from the recipe.
        until: epochs after which to leave the run, with a checkpoint and without a result: None is returned then.

    Raises:
        ConfigError: if config.json cannot be used.
        DataError: if the dataset, a checkpoint or the weights to start from are missing, broken or not this run's,
            or the disk is full.
        BusyError: if another process trains this run.
        StoppedError: if `stop` asked for it, and a checkpoint was written; or if another rank is gone.
        RunFailedError: if the loss is no longer a number.
    """
    world: World | None = None
    try:
        world = World()
        if result := _result(folder, world):
            return result
        with _held(folder, world):
            return _train(folder, world, started, stop, warn, until)
    except RuntimeError as error:
        if not lost_others(error):
            raise
        raise StoppedError(
            f"run {folder.key}: lost the other ranks ({str(error).strip()[:120].splitlines()[0]}); start it again"
        ) from error
    except OSError as error:
        raise_if_broken(error)
        raise DataError(
            f"{error.filename or folder.path}: {reason(error)}; what is saved is whole, start "
            "the training again to go on"
        ) from error
    finally:
        if world:
            world.close()


@contextmanager
def _held(folder: RunFolder, world: World) -> Iterator[None]:
    """Hold the run's lock, in the leader; every rank learns whether it was free."""
    with ExitStack() as stack:
        problem = None
        if world.is_leader:
            try:
                stack.enter_context(folder.lock())
            except BusyError as error:
                problem = str(error)
        if problem := world.broadcast(problem):
            raise BusyError(problem)
        yield


def _train(
    folder: RunFolder, world: World, started: float, stop: Stop, warn: Callable[[str], None], until: int | None
) -> RunResult | None:
    if result := _result(folder, world):
        return result
    training = prepare(folder, world, started, warn)
    try:
        resume(training)
        settle(training)
        if world.size == 1:  # ranks stop together, between two steps
            _look_often(training, stop)
        if not training.progress.step:
            _probe(training, stop)
            for note in adapted(training.spec.recipe, training.steps_per_epoch):
                say(note)
        if usage := training.progress.unjudged:
            _judge(training, training.progress.step // training.steps_per_epoch - 1, usage, stop)
        for epoch in _epochs_left(training):
            if until is not None and epoch >= until:
                return None
            _train_epoch(training, epoch, stop)
        if world.is_leader:
            _finish(training)
        if (result := _result(folder, world)) is None:
            raise DataError(f"{folder.result_path}: missing; run the command again")
        return result
    finally:
        training.train_loader.close()
        training.minival_loader.close()


def _result(folder: RunFolder, world: World) -> RunResult | None:
    """Return the result that the leader sees."""
    result = folder.result() if world.is_leader else None
    told = world.broadcast(result.model_dump_json() if result else None)
    return RunResult.model_validate_json(told) if told else None


def _probe(training: TrainingState, stop: Stop) -> None:
    """Where only the classifier is new, find how far the features go without training, as epoch 0."""
    if not training.new_classifier:
        return
    best = None
    if training.world.is_leader:
        with _given_up(training, stop, "the features alone will be looked at again"):
            threads, look = training.minival_loader.threads, training.look
            found = probe(training.folder, training.network, training.device, threads, look)
        best = (found.top1, found.top5, found.loss)
        say(f"features alone: minival top-1 {found.top1:.1%}")
    training.progress.best = training.world.broadcast(best)  # all ranks count their epochs from it


def _epochs_left(training: TrainingState) -> Iterator[int]:
    """Yield epochs, counted from 0, until the last one or until patience ends."""
    recipe, progress = training.spec.recipe, training.progress
    while (epoch := progress.step // training.steps_per_epoch) < recipe.epochs:
        done = progress.step % training.steps_per_epoch == 0
        if recipe.patience and done and epoch - progress.best_epoch >= recipe.patience:
            return
        yield epoch


def _train_epoch(training: TrainingState, epoch: int, stop: Stop) -> None:
    """Train from the current step to the end of the epoch (counted from 0), judge, write the journal, checkpoint."""
    progress, recipe, steps = training.progress, training.spec.recipe, training.steps_per_epoch
    now = stage(recipe, training.spec.architecture, epoch)
    training.network.train()
    if recipe.norms == "frozen":
        freeze_norms(training.network)
    training.network.dropout.p = now.dropout
    training.clock.begin()
    first_step = progress.step
    pacer = Pacer(training.folder, steps, recipe.batch_size, writes=training.world.is_leader)
    pacer.begin(first_step)
    batches = training.clock.waiting(training.train_loader.epoch(epoch, first_step % steps, now.resolution))
    with _given_up(training, stop, "the step in progress will be repeated"):
        for batch in batches:
            take_step(training, batch, now)
            pacer.tick(progress.step)
            if progress.step % steps == 0:
                break
            asked, due = training.world.any_of(stop.reason is not None, _is_due(training))
            if asked:
                save(training)
                raise StoppedError(f"{_stopped(training, stop)}; nothing is lost")
            if due:
                save(training)
    images = (progress.step - first_step) * recipe.batch_size
    _judge(training, epoch, with_all_energy(training.clock.usage(images), images, training.world), stop)
    if training.world.any(stop.reason is not None) and epoch + 1 < recipe.epochs:
        raise StoppedError(f"{_stopped(training, stop)}, after epoch {epoch + 1}; nothing is lost")


def _is_due(training: TrainingState) -> bool:
    """Say whether a checkpoint is due, by steps or by time; with several ranks the leader's clock counts."""
    recipe = training.spec.recipe
    if recipe.checkpoint_every and training.progress.step % recipe.checkpoint_every == 0:
        return True
    minutes = (time.monotonic() - training.saved) / 60
    return bool(training.world.is_leader and recipe.checkpoint_minutes and minutes >= recipe.checkpoint_minutes)


def _stopped(training: TrainingState, stop: Stop) -> str:
    reason = stop.reason or "asked to stop"
    return f"run {training.folder.key}: {reason}; stopped at step {training.progress.step}"


@contextmanager
def _given_up(training: TrainingState, stop: Stop, lost: str) -> Iterator[None]:
    """Save the state from before work that was given up midway, and say what will be done again."""
    try:
        yield
    except AbandonedError as error:
        save(training)
        raise StoppedError(f"{_stopped(training, stop)}; {lost}") from error
    except WaitedError as error:  # for data
        if training.world.size > 1:  # the others wait for this rank
            raise StoppedError(f"{_stopped(training, stop)}; it will resume from its last checkpoint") from error
        save(training)
        raise StoppedError(f"{_stopped(training, stop)}, while it waited for data; nothing is lost") from error


def _look_often(training: TrainingState, stop: Stop) -> None:
    """Check for a request to stop at every block of the network, forward and backward: a step may take minutes."""

    def look() -> None:
        if stop.reason is not None and not (gpu and torch.cuda.is_current_stream_capturing()):
            raise AbandonedError

    def after(_block: nn.Module, _given: object, found: Tensor) -> None:
        look()
        if found.requires_grad:
            found.register_hook(lambda _gradient: look())  # type: ignore[no-untyped-call]

    gpu = training.device.type == "cuda"
    training.look = look
    networks = {training.network, training.judged}
    for network in networks | ({training.teacher.network} if training.teacher else set()):
        for block in network.blocks:
            block.register_forward_hook(after)


def _judge(training: TrainingState, epoch: int, usage: Mapping[str, float], stop: Stop) -> None:
    """End an epoch (counted from 0); if that is given up midway, it is done again later."""
    training.progress.unjudged = dict(usage)
    with _given_up(training, stop, f"epoch {epoch + 1} will be evaluated again"):
        _end_epoch(training, epoch, usage)


def _end_epoch(training: TrainingState, epoch: int, usage: Mapping[str, float]) -> None:
    """Judge the epoch, write its line in the journal and a checkpoint."""
    progress, world = training.progress, training.world
    total = training.loss_sum.clone()
    world.sum_(total)
    train_loss = float(total) / (training.steps_per_epoch * training.spec.recipe.batch_size)
    if not math.isfinite(train_loss):
        raise RunFailedError(
            f"run {training.folder.key}: the loss is no longer a number in epoch {epoch + 1}; {DIVERGED}"
        )
    world.broadcast_buffers(training.judged)
    training.judged.eval()  # without an average it is the network that was just trained
    scores = evaluate(training.judged, training.spec.architecture, training.minival_loader, training.device, world.sum_)
    _keep_best(progress, epoch, scores)
    progress.unjudged = None
    training.loss_sum.zero_()
    rate = learning_rate(training.spec.recipe, progress.step - 1, training.steps_per_epoch)
    training.journal.append(
        epoch + 1,
        progress.step,
        time.time(),
        {
            "train_loss": train_loss,
            "learning_rate": rate,
            "minival_top1": scores.top1,
            "minival_top5": scores.top5,
            "minival_loss": scores.loss,
            **usage,
            "seconds": training.seconds,
        },
    )
    if world.is_leader:
        say(
            f"epoch {epoch + 1} of {training.spec.recipe.epochs}: train loss {train_loss:.3f}, minival top-1 "
            f"{scores.top1:.1%}, {training.seconds:.0f} s"
        )
    save(training, anew=True)


def _keep_best(progress: Progress, epoch: int, scores: Scores) -> None:
    """Note the epoch if it is the best so far: top-1 first, then the lower loss; the probe is only beaten by top-1."""
    if progress.best[0] >= scores.top1 and not progress.best_epoch:
        return
    if (scores.top1, -scores.loss) > (progress.best[0], -progress.best[2]):
        progress.best = (scores.top1, scores.top5, scores.loss)
        progress.best_epoch, progress.best_step = epoch + 1, progress.step


def _best_weights(training: TrainingState) -> Path:
    folder, progress = training.folder, training.progress
    if training.new_classifier and folder.probe() is None:  # another machine found it, and is gone
        first, _ = first_network(folder, training.spec)
        probe(folder, first.to(training.device), training.device, training.minival_loader.threads)
    if not progress.best_epoch:  # no epoch was better
        return folder.probe_weights_path
    best = folder.checkpoints / f"step-{progress.best_step}"
    if trouble := checkpoint.problem(best):
        raise DataError(f"{trouble}; it held the best weights: remove {folder.path} and train again")
    return best / checkpoint.WEIGHTS


def _finish(training: TrainingState) -> None:
    """Take the best epoch's weights out of its checkpoint and write the result."""
    folder, spec, progress = training.folder, training.spec, training.progress
    if not math.isfinite(progress.best[2]):  # which result.json could not hold
        raise RunFailedError(
            f"run {folder.key}: the loss on minival is not a number in the best epoch, {progress.best_epoch}; "
            f"{DIVERGED}"
        )
    publish(folder.weights_path, _best_weights(training).read_bytes())
    cost = count(spec.architecture, spec.num_classes)
    result = RunResult(
        key=folder.key,
        top1=progress.best[0],
        top5=progress.best[1],
        loss=progress.best[2],
        best_epoch=progress.best_epoch,
        epochs=progress.step // training.steps_per_epoch,
        steps=progress.step,
        params=cost.params,
        macs=cost.macs,
        seconds=training.seconds,
        weights_sha256=sha256_file(folder.weights_path),
        environment=environment(training),
        notes=tuple(adapted(spec.recipe, training.steps_per_epoch)),
    )
    publish(folder.result_path, result.model_dump_json(indent=2).encode())
