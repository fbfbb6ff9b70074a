"""Trainings on a work pool: real server, real workers, real kills; the same weights as here."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import get_client

from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig, LocalCompute, PoolCompute, Recipe
from effnet.data.shards.manifest import Manifest, load_manifest
from effnet.data.shards.parts import split_work
from effnet.errors import ConfigError, MachineError, StoppedError
from effnet.order import Order
from effnet.runs import RunFolder, RunSpec, read_journal
from effnet.storage import open_folder
from effnet.store import Store
from tasks.compute import interrupt, pool
from tasks.compute.place import carry_out
from tasks.compute.watch import Watch
from tasks.shard import _shard_on_pool
from tasks.terminal.screen import Screen
from tests.operations.pools import Workers, connected, wait_until
from tests.tiny import store_beside

POOL = "effnet-gpu"
EPOCHS = 30  # as many as last until what happens to a training is noticed


@pytest.fixture
def spec(baseline: Architecture, manifest: Manifest, config: FamilyConfig) -> RunSpec:
    return spec_of(baseline, manifest, config)


def spec_of(baseline: Architecture, manifest: Manifest, config: FamilyConfig) -> RunSpec:
    return RunSpec(
        architecture=baseline, dataset=manifest.digest, num_classes=len(manifest.classes), recipe=config.recipe
    )


class Watched:
    """Carries out orders on the pool, and notes what was said."""

    def __init__(self, url: str, store: Store, compute: PoolCompute) -> None:
        self.url, self.store, self.compute = url, store, compute
        self.done: list[str] = []
        self.warned: list[str] = []
        self.ticks = 0

    def run(self, *orders: Order) -> None:
        def tick() -> None:
            self.ticks += 1

        with connected(self.url):
            carry_out(
                orders,
                self.compute,
                self.store,
                Watch(self.warned.append, tick, self.done.append),
            )


def train(store: Store, *specs: RunSpec) -> list[Order]:
    folders = [RunFolder.create(store, spec) for spec in specs]
    return [Order(name=f"t{number}", action="train", runs=(each.key,)) for number, each in enumerate(folders)]


def jobs(url: str, state: str | None = None) -> list[str]:
    with connected(url), get_client(sync_client=True) as client:
        runs = client.read_flow_runs()
    return [str(run.id) for run in runs if state in (None, run.state_name) and "job" in run.parameters]


def longer(spec: RunSpec, epochs: int, seed: int) -> RunSpec:
    recipe: Recipe = spec.recipe.model_copy(update={"epochs": epochs})
    return spec.model_copy(update={"recipe": recipe, "seed": seed})


def weights(store: Store, order: Order) -> str:
    return RunFolder(store.runs / order.runs[0]).trained().weights_sha256


def trained_here(spec: RunSpec, dataset_store: Store, folder: Path, ranks: int = 1) -> str:
    """Return the weights that a training gives without a pool."""
    here = store_beside(dataset_store, folder)
    (order,) = train(here, spec)
    order = order.model_copy(update={"ranks": ranks})
    carry_out([order], LocalCompute(), here, Watch(print))
    return weights(here, order)


@pytest.fixture(scope="module")
def reference(
    baseline: Architecture,
    manifest: Manifest,
    config: FamilyConfig,
    dataset_store: Store,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[RunSpec, str]:
    """A training of seconds, and the weights that it gives without a pool."""
    spec = longer(spec_of(baseline, manifest, config), EPOCHS, seed=6)
    return spec, trained_here(spec, dataset_store, tmp_path_factory.mktemp("reference") / "store")


def aws() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


@pytest.mark.slow
def test_two_workers_share_the_trainings_and_hand_them_back(
    deployed: str, workers: Workers, store: Store, spec: RunSpec, bucket: str, dataset_store: Store, tmp_path: Path
) -> None:
    workers.environment = aws()
    scratches = [workers.start(POOL, name) for name in ("one", "two")]
    specs = [longer(spec, 1, seed) for seed in (1, 2, 3, 4)]
    watched = Watched(deployed, store, PoolCompute(work_pool=POOL, exchange=f"s3://{bucket}/team"))
    orders = train(store, *specs)
    watched.run(*orders)
    assert sorted(watched.done) == ["t0", "t1", "t2", "t3"]
    trained_at = [{path.parent.name for path in each.glob("*/runs/*/result.json")} for each in scratches]
    assert all(trained_at)
    assert set.union(*trained_at) == {order.runs[0] for order in orders}

    assert trained_here(specs[0], dataset_store, tmp_path / "here") == weights(store, orders[0])

    before = len(jobs(deployed))
    watched.run(*orders, Order(name="evaluation", action="evaluate", runs=tuple(o.runs[0] for o in orders)))
    assert len(jobs(deployed)) == before + 1  # what is done is found by its key
    assert all(RunFolder(store.runs / order.runs[0]).evaluated() for order in orders)


@pytest.mark.slow
def test_job_that_is_killed_goes_on_from_its_checkpoint(
    deployed: str, workers: Workers, store: Store, reference: tuple[RunSpec, str]
) -> None:
    workers.start(POOL, "one")
    watched = Watched(deployed, store, PoolCompute(work_pool=POOL))
    (order,) = train(store, reference[0])
    folder = RunFolder(store.runs / order.runs[0])

    def kill() -> None:
        wait_until(lambda: list(folder.checkpoints.glob("step-*/MANIFEST.json")))
        (job,) = jobs(deployed, "Running")
        for process in psutil.process_iter(["environ"]):
            if (process.info["environ"] or {}).get("PREFECT__FLOW_RUN_ID") == job:
                process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    watched.run(order)
    killer.join()
    assert watched.done == ["t0"]
    assert any("restarted from its last checkpoint" in line for line in watched.warned)
    assert [line["epoch"] for line in read_journal(folder.metrics_path)[0]] == list(range(1, EPOCHS + 1))
    assert weights(store, order) == reference[1]


@pytest.fixture
def through_s3(
    deployed: str,
    workers: Workers,
    store: Store,
    reference: tuple[RunSpec, str],
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Watched, Order]:
    """A training that is ordered through S3, whose machine soon counts as dead when it is silent."""
    monkeypatch.setattr(pool, "SILENT_SECONDS", 12.0)
    workers.environment = aws()
    (order,) = train(store, reference[0])
    return Watched(deployed, store, PoolCompute(work_pool=POOL, exchange=f"s3://{bucket}/team")), order


@pytest.mark.slow
def test_machine_that_vanishes_is_noticed_and_another_goes_on_to_the_same_weights(
    deployed: str, workers: Workers, through_s3: tuple[Watched, Order], store: Store, reference: tuple[RunSpec, str]
) -> None:
    watched, order = through_s3
    folder = RunFolder(store.runs / order.runs[0])
    workers.start(POOL, "one")
    seen = []

    def lose() -> None:
        wait_until(lambda: folder.metrics_path.exists())  # so a checkpoint was sent as well
        workers.kill()
        seen.append(folder.metrics_path.read_text())
        workers.start(POOL, "another")

    loser = threading.Thread(target=lose)
    loser.start()
    watched.run(order)
    loser.join()
    assert watched.done == ["t0"]
    assert any("its heartbeat stopped" in line for line in watched.warned)
    assert not jobs(deployed, "Running")
    assert folder.metrics_path.read_text().startswith(seen[0])  # no epoch was trained twice
    assert weights(store, order) == reference[1]


@pytest.mark.slow
def test_machine_that_comes_back_after_another_took_its_work_sends_nothing(
    workers: Workers,
    through_s3: tuple[Watched, Order],
    store: Store,
    reference: tuple[RunSpec, str],
    bucket: str,
) -> None:
    watched, order = through_s3
    folder = RunFolder(store.runs / order.runs[0])
    scratch = workers.start(POOL, "one")
    there = open_folder(f"s3://{bucket}/team")
    ended = []

    def cut_off() -> None:
        wait_until(lambda: folder.metrics_path.exists())
        held = workers.hold(0)
        workers.start(POOL, "another")
        wait_until(lambda: any("its heartbeat stopped" in line for line in watched.warned))
        wait_until(lambda: any(file.name.endswith(".replaced") for file in there.list("jobs")))
        workers.go_on(held)
        _, left = psutil.wait_procs(held[1:], timeout=60)  # all but the worker
        ended.append(left)

    cutter = threading.Thread(target=cut_off)
    cutter.start()
    watched.run(order)
    cutter.join()
    assert watched.done == ["t0"]
    assert ended == [[]]
    assert not list(scratch.glob("*/runs/*/result.json"))  # it stopped
    assert weights(store, order) == reference[1]


@pytest.mark.slow
def test_two_machines_train_one_network_and_go_on_when_one_of_them_vanishes(
    deployed: str,
    workers: Workers,
    store: Store,
    spec: RunSpec,
    bucket: str,
    dataset_store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "SILENT_SECONDS", 20.0)
    workers.environment = aws()
    scratches = [workers.start(POOL, name, limit=1) for name in ("one", "two")]
    compute = PoolCompute(work_pool=POOL, exchange=f"s3://{bucket}/team", machines=2)
    watched = Watched(deployed, store, compute)
    whole = longer(spec, 8, seed=10)
    (order,) = train(store, whole)
    together = order.model_copy(update={"machines": 2})
    folder = RunFolder(store.runs / order.runs[0])

    def lose() -> None:
        wait_until(lambda: folder.metrics_path.exists())  # so a checkpoint was sent as well
        workers.kill(1)
        workers.start(POOL, "another", limit=1)

    loser = threading.Thread(target=lose)
    loser.start()
    watched.run(together)
    loser.join()
    assert watched.done == ["t0"]
    assert any("restarted from its last checkpoint" in line for line in watched.warned)
    assert all(list(scratch.glob("*/runs/*/config.json")) for scratch in scratches)
    assert folder.trained().environment["ranks"] == "2"
    assert [line["epoch"] for line in read_journal(folder.metrics_path)[0]] == list(range(1, 9))
    assert weights(store, order) == trained_here(whole, dataset_store, tmp_path / "here", ranks=2)


@pytest.mark.slow
def test_jobs_write_the_dataset_and_train_from_it_where_it_lies(
    deployed: str,
    workers: Workers,
    baseline: Architecture,
    config: FamilyConfig,
    manifest: Manifest,
    bucket: str,
    tmp_path: Path,
) -> None:
    workers.environment = aws()
    scratches = [workers.start(POOL, name, limit=1) for name in ("one", "two")]
    compute = PoolCompute(work_pool=POOL, exchange=f"s3://{bucket}/team", shard_jobs=2)
    store = Store(tmp_path / "store")
    store.prepare()
    with connected(deployed):
        _shard_on_pool(config.data, compute, store, tmp_path, Screen())
        assert split_work(config.data, store.datasets, tmp_path, 2, None) == []
        _shard_on_pool(
            config.data, compute, store, tmp_path, Screen()
        )  # which finds it: there is nobody to write it again
    assert all(list(scratch.glob("*/logs/shard-*.log")) for scratch in scratches)
    folder = store.datasets / manifest.digest
    assert load_manifest(folder) == manifest
    assert not list(folder.glob("*.tar"))  # the shards stay where they are

    spec = RunSpec(architecture=baseline, dataset=manifest.digest, num_classes=10, recipe=config.recipe)
    watched = Watched(deployed, store, compute)
    watched.run(*train(store, longer(spec, 1, seed=11)))
    assert watched.done == ["t0"]


def test_stopping_the_parent_stops_the_jobs_with_a_checkpoint(
    deployed: str, workers: Workers, store: Store, spec: RunSpec
) -> None:
    workers.start(POOL, "one")
    watched = Watched(deployed, store, PoolCompute(work_pool=POOL))
    (order,) = train(store, longer(spec, 400, seed=7))
    folder = RunFolder(store.runs / order.runs[0])

    def stop() -> None:
        wait_until(lambda: folder.metrics_path.exists())
        interrupt._asked.set()

    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            watched.run(order)
    finally:
        interrupt._asked.clear()
        stopper.join()
    assert not jobs(deployed, "Running")
    assert not jobs(deployed, "Cancelling")
    assert folder.result() is None
    assert "asked to stop" in folder.log_path.read_text()


@pytest.mark.slow
def test_gpu_that_is_missing_is_looked_for_on_other_machines_before_anything_is_fetched(
    deployed: str, workers: Workers, store: Store, spec: RunSpec, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "ATTEMPTS", 2)
    workers.environment = aws()
    scratch = workers.start(POOL, "one")
    watched = Watched(deployed, store, PoolCompute(work_pool=POOL, gpus=1, exchange=f"s3://{bucket}/gpus"))
    where = f"0 GPUs here, 1 wanted (machine {os.uname().nodename}, "
    with pytest.raises(MachineError, match="t0: " + re.escape(where) + r".*, 2 times \(work pool effnet-gpu, last job"):
        watched.run(*train(store, spec))
    (told,) = watched.warned
    assert "broken machine" in told
    assert where in told
    assert not list(scratch.glob("*/datasets/*"))


def test_person_who_cancels_a_job_stops_the_family(deployed: str, store: Store, spec: RunSpec) -> None:
    watched = Watched(deployed, store, PoolCompute(work_pool=POOL))
    (order,) = train(store, longer(spec, 3, seed=8))

    def cancel() -> None:
        from prefect.states import Cancelled

        (job,) = wait_until(lambda: jobs(deployed, "Scheduled") or jobs(deployed, "Late"))
        with connected(deployed), get_client(sync_client=True) as client:
            client.set_flow_run_state(job, Cancelled(), force=True)  # type: ignore[arg-type]

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(StoppedError, match="its job was cancelled"):
        watched.run(order)
    canceller.join()


def test_pool_without_a_deployment_is_told(deployed: str, store: Store, spec: RunSpec) -> None:
    watched = Watched(deployed, store, PoolCompute(work_pool="elsewhere"))
    with pytest.raises(ConfigError, match="no deployment run_job/elsewhere on the Prefect server"):
        watched.run(*train(store, spec))


def test_job_that_no_worker_takes_is_told(
    deployed: str, store: Store, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "UNTAKEN_SECONDS", 1.0)
    watched = Watched(deployed, store, PoolCompute(work_pool=POOL))
    told = threading.Event()

    def warn(line: str) -> None:
        watched.warned.append(line)
        interrupt._asked.set()
        told.set()

    try:
        with connected(deployed), pytest.raises(KeyboardInterrupt):
            carry_out(
                train(store, longer(spec, 3, seed=9)),
                watched.compute,
                store,
                Watch(warn),
            )
    finally:
        interrupt._asked.clear()
    assert "no worker has picked it up; is one running? prefect worker start --pool effnet-gpu" in watched.warned[0]


@pytest.mark.slow
def test_job_that_is_wrongly_marked_as_crashed_is_waited_for(
    deployed: str, workers: Workers, store: Store, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "DEAD_SECONDS", 8.0)
    workers.start(POOL, "one")
    watched = Watched(deployed, store, PoolCompute(work_pool=POOL))
    (order,) = train(store, longer(spec, 60, seed=12))
    folder = RunFolder(store.runs / order.runs[0])
    before = len(jobs(deployed))

    def mark() -> None:
        from prefect.states import Crashed

        wait_until(lambda: folder.metrics_path.exists())
        (job,) = jobs(deployed, "Running")
        with connected(deployed), get_client(sync_client=True) as client:
            client.set_flow_run_state(job, Crashed(message="nobody saw it"), force=True)  # type: ignore[arg-type]

    marker = threading.Thread(target=mark)
    marker.start()
    watched.run(order)
    marker.join()
    assert watched.done == ["t0"]
    assert len(jobs(deployed)) == before + 1
    assert watched.warned in ([], ["t0: reported as crashed (nobody saw it), but it is alive; waiting for it"])


@pytest.mark.slow
def test_run_that_another_process_holds_is_waited_for(
    deployed: str, workers: Workers, store: Store, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "ATTEMPTS", 1)
    monkeypatch.setattr(pool, "BUSY_SECONDS", 1.0)
    watched = Watched(deployed, store, PoolCompute(work_pool=POOL))
    (order,) = train(store, longer(spec, 2, seed=13))

    def end_busy_twice() -> None:
        from prefect.states import Failed

        for number in (1, 2):
            (job,) = wait_until(lambda: jobs(deployed, "Scheduled") or jobs(deployed, "Late"))
            with connected(deployed), get_client(sync_client=True) as client:
                client.set_flow_run_state(job, Failed(name="Busy", message="held"), force=True)  # type: ignore[arg-type]
            wait_until(lambda number=number: len(watched.warned) == number)
        workers.start(POOL, "one")

    other = threading.Thread(target=end_busy_twice)
    other.start()
    watched.run(order)
    other.join()
    assert watched.done == ["t0"]
    assert all(line.startswith("t0: held; waiting for that one (job ") for line in watched.warned)
