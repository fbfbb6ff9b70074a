"""What several tests need: a family that trains in seconds, and its dataset."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig, load_baseline, load_config
from effnet.data.shards.manifest import Manifest
from effnet.data.shards.write import write_shards
from effnet.evaluation.latency import BRIEFLY
from effnet.process import note_stopping
from effnet.runs import RunFolder, RunSpec
from effnet.store import Store
from effnet.train.loop import Stop, train
from tests import parallel
from tests.docs.promises import not_kept
from tests.faults.counts import TABLES
from tests.flows.fixtures import home, prefect_home
from tests.operations.pools import deployed, workers
from tests.s3_servers import bucket, moto_url, owner, real_bucket, rgw
from tests.tiny import store_beside, write_tiny

__all__ = ["bucket", "deployed", "home", "moto_url", "owner", "prefect_home", "real_bucket", "rgw", "workers"]

# One thread for each process: several tests run at once, and threads that wait for a core only cost time.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
torch.set_num_threads(1)
os.environ.setdefault(BRIEFLY, "1")

RAN: set[str] = set()  # tests (node ids) that were called, in any process of xdist
SKIPPED: set[str] = set()
BROKEN: list[str] = []  # promises whose tests did not run


@pytest.hookimpl(trylast=True)  # after -m and -k
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if sample := os.environ.get("EFFNET_SAMPLE"):
        parallel.keep_sample(config, items, int(sample))
    parallel.order(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> parallel.Scheduler:
    return parallel.Scheduler(config, log)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        SKIPPED.add(report.nodeid)
    elif report.when == "call":
        RAN.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In an xdist worker, hand its fault tables to the process that prints; elsewhere, check the promises.

    EFFNET_PROMISES, which continuous integration sets, means that the whole suite was to run, or all but its slow
    tests: the session then fails if one of them that docs/promises.md names did not run.
    """
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["fault_tables"] = TABLES
    elif "EFFNET_PROMISES" in os.environ:
        BROKEN.extend(not_kept(RAN, SKIPPED, slow=session.config.option.markexpr != "not slow"))
        if BROKEN and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    TABLES.extend(getattr(node, "workeroutput", {}).get("fault_tables", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for table in TABLES:
        terminalreporter.write_line(table)
    for name in BROKEN:
        terminalreporter.write_line(f"docs/promises.md names a test that must run here: {name}", red=True)


@pytest.fixture(autouse=True)
def _asked_to_stop_no_more() -> Iterator[None]:
    """Reset a request to stop this process, so that one test's request does not reach the next."""
    yield
    note_stopping(False)


@pytest.fixture(scope="session")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session")
def config(config_path: Path) -> FamilyConfig:
    return load_config(config_path)


@pytest.fixture(scope="session")
def baseline(config: FamilyConfig, config_path: Path) -> Architecture:
    return load_baseline(config, config_path.parent)


@pytest.fixture(scope="session")
def dataset_store(config: FamilyConfig, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that holds the tiny family's dataset; tests only read it."""
    store = Store(tmp_path_factory.mktemp("dataset-store"))
    write_shards(config.data, store.datasets)
    return store


@pytest.fixture(scope="session")
def manifest(config: FamilyConfig, dataset_store: Store) -> Manifest:
    manifest, _ = write_shards(config.data, dataset_store.datasets)
    return manifest


@pytest.fixture
def store(tmp_path: Path, dataset_store: Store) -> Store:
    """A store of its own, with the tiny family's dataset."""
    return store_beside(dataset_store, tmp_path / "store")


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    dataset_store: Store,
    baseline: Architecture,
    config: FamilyConfig,
    manifest: Manifest,
) -> RunFolder:
    """The run of `run_folder`, trained undisturbed; tests only read it."""
    store = store_beside(dataset_store, tmp_path_factory.mktemp("trained") / "store")
    spec = RunSpec(architecture=baseline, dataset=manifest.digest, num_classes=10, recipe=config.recipe)
    folder = RunFolder.create(store, spec)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(folder, started=time.time(), stop=Stop(), warn=print)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's empty database, made once: that takes longer than what is tested with it. Copy it."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}")
    return path


@pytest.fixture
def run_folder(store: Store, baseline: Architecture, config: FamilyConfig, manifest: Manifest) -> RunFolder:
    """A run that is not trained yet."""
    return RunFolder.create(
        store,
        RunSpec(architecture=baseline, dataset=manifest.digest, num_classes=10, recipe=config.recipe),
    )
