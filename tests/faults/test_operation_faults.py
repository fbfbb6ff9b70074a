"""A family on a real stack whose servers, worker and own process are killed; and two families that want one output."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings

from effnet.runs import RunFolder, read_journal
from tasks.servers.prefect_setup import connected
from tests.faults.counts import FULL, show, wanted
from tests.operations.pools import Workers, wait_until
from tests.operations.stack import ROOT, Stack, running_stack
from tests.tiny import CONFIG, clean_environment, run_effnet, write_tiny

ALONE = {  # P1 and P2, and how often each
    "Prefect away for 10 s": 6,
    "Prefect away for 90 s": 6,
    "flow killed": 6,
    "worker killed": 6,
    "PostgreSQL stopped hard": 20,
}
# In one family, where counts are small.
TOGETHER = ("Prefect away for 10 s", "flow killed", "worker killed", "PostgreSQL stopped hard")
CAMPAIGNS = [((fault,), number) for fault, number in ALONE.items()] if FULL else [(TOGETHER, 1)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as stack:
        done = run_effnet("deploy", "--project", ROOT, cwd=stack.folder, **stack.environment)
        assert done.returncode == 0, done.stderr
        yield stack


@pytest.fixture(scope="module")
def reference(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A family that nothing disturbed."""
    site = Site(stack, tmp_path_factory.mktemp("reference"), "reference")
    try:
        site.start()
        assert site.process.wait(400) == 0, site.told()
    finally:
        site.workers.kill()
    return site


@pytest.mark.slow
@pytest.mark.timeout(1800 if not FULL else 6000)  # two families and four faults, where other tests run as well
@pytest.mark.parametrize(("faults", "families"), CAMPAIGNS)
def test_family_goes_on_whatever_is_killed(
    stack: Stack, reference: Site, tmp_path: Path, faults: tuple[str, ...], families: int
) -> None:
    source = random.Random(faults[0])
    fired: Counter[str] = Counter()
    for number in range(families):
        site = Site(stack, tmp_path / str(number), f"{faults[-1].lower().replace(' ', '-')}-{number}")
        try:
            site.start()
            for fault in faults:
                wait_until(site.gets_on(), 240)
                time.sleep(source.random() * 5 / len(faults))
                assert site.process.poll() is None, f"over before {fault}: {site.told()}"
                site.disturb(fault)
                fired[fault] += 1
            assert site.process.wait(600) == 0, f"{faults}: {site.told()}"
            site.check(reference)
        finally:
            site.workers.kill()
    show("operations disturbed", fired, {"families finished, right everywhere": families})


class Site:
    """A family of its own on the stack, in a store of its own, with a worker of its own."""

    def __init__(self, stack: Stack, folder: Path, family: str) -> None:
        self.stack, self.folder, self.family = stack, folder, family
        self.environment = stack.environment
        text = CONFIG.replace("family: tiny", f"family: {family}").replace("epochs: 3", "epochs: 100")
        text = text.replace("phi: [0, 1, 2]", "phi: [0]") + "coefficients: [1.2, 1.1, 1.15]\n"
        self.config = write_tiny(folder, text + "compute: {work_pool: effnet-gpu}\n")
        self.workers = Workers(self.environment["PREFECT_API_URL"], folder / "workers", self.environment)
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start worker and family."""
        self.workers.start("effnet-gpu", self.family)
        self.build()

    def build(self) -> None:
        """Start the family."""
        with (self.folder / "family.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "family", str(self.config)],
                cwd=self.folder,
                env=clean_environment() | self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def gets_on(self) -> Callable[[], object]:
        """Return what says whether trainings have more epochs than now, or are done, or all is over."""

        def epochs() -> int:
            journals = (self.folder / "store" / "runs").glob("*/metrics.jsonl")
            return sum(len(read_journal(path)[0]) for path in journals)

        before = epochs()
        return lambda: self.process.poll() is not None or epochs() > before or self.runs()

    def disturb(self, fault: str) -> None:
        """Do one of P1 and P2."""
        if fault.startswith("Prefect away"):
            self.stack.kill("prefect")
            time.sleep(float(fault.split()[3]))
            self.stack.start_server("prefect")
        elif fault == "flow killed":
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.build()
        elif fault == "worker killed":
            self.workers.kill_workers_only()
            self.workers.start("effnet-gpu", f"{self.family}-again")
        else:
            self.stack.stop_postgres()
            time.sleep(5)
            self.stack.start_postgres()

    def check(self, reference: Site) -> None:
        """Check weights, MLflow and Prefect; what MLflow missed while it was away is sent by the next run."""
        done = run_effnet("family", self.config, "--json", cwd=self.folder, **self.environment)
        assert done.returncode == 0, done.stderr
        assert all(member["reused"] for member in json.loads(done.stdout)["members"])
        folders = {path.parent.name: RunFolder(path.parent) for path in self.runs()}
        assert folders.keys() == {path.parent.name for path in reference.runs()}
        for key, folder in folders.items():
            there = RunFolder(reference.folder / "store" / "runs" / key)
            assert folder.weights_path.read_bytes() == there.weights_path.read_bytes()
        self._check_mlflow(folders)
        self._check_prefect(60)

    def runs(self) -> list[Path]:
        """Return the results of all trainings."""
        return sorted((self.folder / "store" / "runs").glob("*/result.json"))

    def told(self) -> str:
        """Return the end of what the family printed."""
        return (self.folder / "family.log").read_text()[-3000:]

    def _check_mlflow(self, folders: dict[str, RunFolder]) -> None:
        names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
        with pytest.MonkeyPatch.context() as patch:
            for name in names:
                patch.setenv(name, self.environment[name])
            client = MlflowClient(self.environment["MLFLOW_TRACKING_URI"])
            experiment = client.get_experiment_by_name(self.family)
            runs = client.search_runs([experiment.experiment_id])
            keys = Counter(run.data.tags["effnet.key"] for run in runs)
            assert set(keys.values()) == {1}
            assert folders.keys() <= keys.keys()
            for run in runs:
                assert run.info.status == "FINISHED", run.info.run_name
                if run.data.tags["effnet.key"] in folders:
                    lines = read_journal(folders[run.data.tags["effnet.key"]].metrics_path)[0]
                    history = client.get_metric_history(run.info.run_id, "minival_top1")
                    assert [point.step for point in history] == [line["epoch"] for line in lines]

    def _check_prefect(self, seconds: float) -> None:
        """No run of the family is left that did not end."""

        def left() -> list[str]:
            login = {PREFECT_API_AUTH_STRING: self.environment["PREFECT_API_AUTH_STRING"]}
            url = self.environment["PREFECT_API_URL"]
            with temporary_settings(login), connected(url), get_client(sync_client=True) as client:
                runs = [run for run in client.read_flow_runs(limit=200) if self._is_ours(run.parameters)]
            assert any(run.state_name == "Completed" for run in runs)
            return [run.name for run in runs if run.state is None or not run.state.is_final()]

        wait_until(lambda: not left(), seconds)

    def _is_ours(self, parameters: dict[str, object]) -> bool:
        return str(self.folder) in json.dumps(parameters, default=str)


@pytest.mark.slow
def test_one_of_two_families_on_one_output_wins(tmp_path: Path) -> None:
    fired: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for number in range(wanted(1, 20)):
        folder = tmp_path / str(number)
        config = write_tiny(folder, CONFIG.replace("phi: [0, 1, 2]", "phi: [0]") + "coefficients: [1.2, 1.1, 1.15]\n")
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "family", str(config)],
                cwd=folder,
                env=clean_environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        fired["two families at once"] += 1
        told = [process.communicate(timeout=400)[1] for process in processes]
        codes = sorted(process.returncode for process in processes)
        assert codes in ([0, 73], [0, 0]), told
        assert codes == [0, 0] or any("another process is building it" in text for text in told)
        outcomes["one won, the other said so" if codes == [0, 73] else "one after the other"] += 1
        (result,) = (folder / "store" / "runs").glob("*/result.json")
        assert [line["epoch"] for line in read_journal(result.parent / "metrics.jsonl")[0]] == [1, 2, 3]
    show("two on one output", fired, outcomes)
