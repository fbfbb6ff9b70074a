"""How a stage has its trainings carried out, scored and timed; MLflow and the screen follow."""

from __future__ import annotations

from collections.abc import Sequence

from effnet.config import PoolCompute, RayCompute
from effnet.errors import DataError
from effnet.hits import run_hits
from effnet.order import Order
from effnet.report.words import counted
from effnet.runs import read_journal
from effnet.stages import Stage
from tasks.board import Board, note
from tasks.build import Build, Training
from tasks.compute.place import carry_out
from tasks.compute.watch import Watch


def train(
    build: Build,
    trainings: Sequence[Training],
    *,
    ranks: int = 1,
    until: int | None = None,
    stage: Stage | None = None,
) -> None:
    """Train what is not trained yet, in child processes, and forward the journals to MLflow meanwhile.

    Args:
        build: the family.
        trainings: of one stage; those that are done are only forwarded.
        ranks: processes per machine that train one network together; a work pool's config may ask for more.
        until: epochs after which to stop early; a later call continues them.
        stage: that trains them, where some of them are of another one as well.
    """
    if not trainings:
        return
    stage = stage or trainings[0].about.kind
    for training in trainings:
        training.folder.describe(training.about)
        build.tracker.open_training(training.folder, training.about)
    left = [training for training in trainings if not _reached(training, until)]
    keys = {training.folder.key for training in left}
    for training in trainings:
        if training.folder.key not in keys:
            build.tracker.forward(training.folder)
    if len(left) < len(trainings):
        build.screen.say(
            f"{stage.heading}: {len(trainings) - len(left)} of {counted(len(trainings), 'training')} reused"
        )
    board = Board(build, stage, trainings, until)
    board.begin()
    orders = _orders(build, left, ranks, until)
    try:
        watch = Watch(build.screen.warn, board.tick, board.done, build.screen.say)
        carry_out(orders, build.config.compute, build.store, watch)
        if left:
            board.show()  # that all is done
    except BaseException:
        for training in left:
            build.tracker.pause(training.folder.key)
        raise
    finally:
        build.screen.settle()


def _orders(build: Build, trainings: Sequence[Training], ranks: int, until: int | None) -> list[Order]:
    """Return an order for each training, with as many processes and machines as the config says."""
    machines, compute = 1, build.config.compute
    if isinstance(compute, PoolCompute | RayCompute):
        ranks, machines = max(ranks, compute.ranks), compute.machines
    return [
        Order(
            name=training.order_name,
            action="train",
            runs=(training.folder.key,),
            size=training.size,
            ranks=ranks,
            machines=machines,
            until=until,
        )
        for training in trainings
    ]


def measure_latency(build: Build, trainings: Sequence[Training]) -> None:
    """Time every network that has not been timed, one after the other, while nothing else runs."""
    missing = {training.folder.key: None for training in trainings if not training.folder.latency_path.exists()}
    if missing:
        _carry_out_one(build, Order(name="measure latency", action="latency", runs=tuple(missing)))
    for training in trainings:
        build.tracker.forward(training.folder)


def keep_minival_hits(build: Build, trainings: Sequence[Training]) -> None:
    """Store which images of minival each finished training gets right, where that is not stored yet."""
    missing = [training.folder.key for training in trainings if run_hits(training.folder, "minival") is None]
    if missing:
        _carry_out_one(build, Order(name="score on minival", action="hits", runs=tuple(missing)))


def leave(build: Build, trainings: Sequence[Training]) -> None:
    """End the MLflow runs of trainings that halving dropped."""
    for training in trainings:
        build.tracker.leave(training.folder)


def evaluate(build: Build, trainings: Sequence[Training]) -> int:
    """Score every finished training on the validation split, once; return how many were scored already.

    Latencies that other work disturbed, that of the other evaluations too, are measured again while nothing of ours
    runs, except on a work pool.
    """
    missing = [each for each in trainings if each.folder.evaluation() is None or run_hits(each.folder, "val") is None]
    if missing:
        _evaluate(build, missing)
    _measure_again(build, trainings)
    for training in trainings:
        build.tracker.forward(training.folder)
    return len(trainings) - len(missing)


def _evaluate(build: Build, trainings: Sequence[Training]) -> None:
    """Score trainings, those of one network one after the other: it is timed once; on a work pool, one job does all."""
    compute, total = build.config.compute, len(trainings)
    if isinstance(compute, PoolCompute):
        groups = {"evaluate all": trainings}
    else:
        networks: dict[str, list[Training]] = {}
        for training in trainings:
            networks.setdefault(training.spec.architecture.key(), []).append(training)
        groups = {f"evaluate {group[0].name}": group for group in networks.values()}
    orders = [
        Order(
            name=name,
            action="evaluate",
            runs=tuple(dict.fromkeys(each.folder.key for each in group)),
            size=float(sum(each.cost.macs for each in group)),
        )
        for name, group in groups.items()
    ]

    def tick() -> None:
        scored = sum(each.folder.evaluation_path.exists() for each in trainings)
        build.screen.progress("evaluate", scored / total, ("trainings", "of"), [(str(scored), str(total))])

    def done(name: str) -> None:
        for training in groups[name]:
            build.tracker.forward(training.folder)
            note(build, f"evaluate {training.name}", training)

    try:
        carry_out(orders, compute, build.store, Watch(build.screen.warn, tick, done, build.screen.say))
    finally:
        build.screen.settle()


def _measure_again(build: Build, trainings: Sequence[Training]) -> None:
    noisy = [each for each in trainings if (known := each.folder.latency()) and not known.settled]
    if noisy and not isinstance(build.config.compute, PoolCompute | RayCompute):  # a pool's machines differ
        names = ", ".join(training.name for training in noisy)
        build.screen.say(f"latency of {names} is measured again: other work disturbed it")
        runs = tuple(training.folder.key for training in noisy)
        _carry_out_one(build, Order(name="measure latency", action="latency", runs=runs))


def _carry_out_one(build: Build, order: Order) -> None:
    carry_out([order], build.config.compute, build.store, Watch(build.screen.warn, say=build.screen.say))


def _reached(training: Training, until: int | None) -> bool:
    """Say whether a training is done, or as far as wanted."""
    return training.folder.result() is not None or (until is not None and epochs_done(training) >= until)


def epochs_done(training: Training) -> int:
    """Return the epochs in a training's journal."""
    return len(read_journal(training.folder.metrics_path)[0])


def score_after(training: Training, epochs: int) -> tuple[float, float]:
    """Return (top-1, -loss) on minival after `epochs` epochs; of the kept weights if the training has ended by then."""
    result = training.folder.result()
    if result is not None and result.epochs <= epochs:
        return result.top1, -result.loss
    lines = read_journal(training.folder.metrics_path)[0][:epochs]
    if len(lines) < epochs:
        raise DataError(f"{training.folder.path}: its journal has gone; run the command again")
    return lines[-1]["minival_top1"], -lines[-1]["minival_loss"]
