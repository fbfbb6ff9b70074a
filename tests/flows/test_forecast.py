"""A family that is foretold before it is built, by the command."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from effnet.report.facts import load_facts
from effnet.store import Store
from tests.flows.explored import finished
from tests.tiny import CONFIG, run_effnet, write_tiny

FORETOLD = (
    CONFIG.replace("epochs: 3", "epochs: 1").replace("phi: [0, 1, 2]", "phi: [0, 1], stop_when: {gain_below: 0.1}")
    + "coefficients: [1.2, 1.1, 1.15]\nforecast: {costs: [0.5, 1, 2, 4], seeds: 2}\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, prefect_home: Path) -> Path:
    """A folder in which the members of a family were foretold, and nothing else was done."""
    folder = tmp_path_factory.mktemp("foretold")
    shutil.copytree(prefect_home, folder / "store" / "prefect")
    write_tiny(folder, FORETOLD)
    done = run_effnet("forecast", "tiny.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "forecast.json").write_text(done.stdout)
    return folder


@pytest.mark.slow
def test_the_command_trains_small_networks_and_says_what_they_say(folder: Path) -> None:
    found = json.loads((folder / "forecast.json").read_text())
    assert [point["factor"] for point in found["points"]] == [0.5, 1, 2, 4]
    runs = {run for point in found["points"] for run in point["runs"]}
    assert runs == set(finished(folder))
    assert len(runs) == 8
    assert [each["name"] for each in found["foretold"]["members"]] == ["B0", "B1"]
    assert not list((folder / "store/runs").glob("*/evaluation.json"))  # val was not looked at
    assert list((folder / "store/families").glob("*/forecast.svg"))
    plan = run_effnet("plan", "tiny.yaml", cwd=folder)
    assert f"ago, from 4 costs, {0.46} to 3.6 times the baseline's, 2 trainings each" in plan.stdout, plan.stderr
    assert found["foretold"]["told"] in plan.stdout or "top-1 expected" in plan.stdout
    assert re.search(r"forecast +6 trainings", plan.stdout)  # the other two are B0's and B1's first, and counted there


@pytest.mark.slow
def test_the_family_trains_nothing_of_it_twice_and_has_both_numbers(folder: Path) -> None:
    before = finished(folder)
    done = run_effnet("family", "tiny.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert finished(folder) == before  # B0 and B1 are in the sweep
    family = json.loads(done.stdout)
    found = json.loads((folder / "forecast.json").read_text())
    assert [each["foretold"] for each in family["members"]] == found["foretold"]["members"]
    assert family["left_out"] == []
    facts = load_facts(Store(folder / "store"), family["key"])
    assert facts.forecast is not None
    assert {cost.stage: cost.trainings for cost in facts.costs}["forecast members"] == 6
    page = (facts.folder / "report.html").read_text()
    assert "Forecast, and what became of it" in page
    client = MlflowClient(f"sqlite:///{folder / 'store' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    kinds = [run.data.tags["effnet.kind"] for run in client.search_runs([experiment.experiment_id])]
    assert (kinds.count("forecast"), kinds.count("member")) == (6, 2)
    again = run_effnet("forecast", "tiny.yaml", "--json", cwd=folder)
    assert json.loads(again.stdout) == found


@pytest.mark.slow
def test_without_a_config_history_is_all_that_can_be_shown(folder: Path) -> None:
    done = run_effnet("forecast", cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "give a CONFIG, or --history" in done.stderr
    done = run_effnet("forecast", "--history", "--store", "store", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "taught.yaml").write_text(
        FORETOLD.replace("recipe:\n", "recipe:\n  teacher: largest\n")
        .replace("forecast: {costs: [0.5, 1, 2, 4], seeds: 2}\n", "")
        .replace(", stop_when: {gain_below: 0.1}", "")
    )
    done = run_effnet("forecast", "taught.yaml", cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "taught.yaml: forecast knows nothing of teachers" in done.stderr
