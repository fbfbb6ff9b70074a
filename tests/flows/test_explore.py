"""Search, study and halving, alone and in one family; killed and run again they repeat nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from effnet.arch.spec import Architecture
from effnet.runs import RunFolder
from tests.docs.printed import blocks
from tests.flows.explored import config, finished, found
from tests.tiny import CONFIG, run_effnet, write_tiny


def test_search_finds_a_baseline_for_the_family(home: Path) -> None:
    history = found(home, "search.json")
    trials = history["trials"]
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3]  # type: ignore[index,attr-defined]
    assert all(12_000 <= trial["macs"] <= 180_000 for trial in trials)  # type: ignore[index,attr-defined]
    (path,) = (home / "store/families").glob("*/baseline.json")
    baseline = Architecture.load(path)
    control = history["control"]
    assert trials[:2] == control[:2]  # type: ignore[index]
    best = max([*trials, *control], key=lambda trial: trial["final_reward"] or 0)  # type: ignore[misc,has-type]
    assert [trial["final_reward"] is not None for trial in trials].count(True) == 2  # type: ignore[attr-defined]
    spec = RunFolder(home / "store/runs" / best["run"]).spec()
    assert spec.architecture.key() == baseline.key()
    family = json.loads((home / "family.json").read_text())
    member = RunFolder(home / "store/runs" / family["members"][0]["run_key"]).spec().architecture
    assert member.stages == baseline.stages
    assert history["pareto"]
    assert (home / "store/families" / family["key"] / "search.svg").exists()


def test_study_compares_at_equal_cost(home: Path) -> None:
    study = found(home, "study.json")
    ((_, rows),) = study["baselines"].items()  # type: ignore[attr-defined]
    assert [(row["strategy"], row["factor"]) for row in rows] == [
        ("depth", 1.0), ("depth", 2.0), ("compound", 1.0), ("compound", 2.0),
    ]  # fmt: skip
    base = rows[0]["macs"]
    assert all(row["macs"] <= row["factor"] * base for row in rows)
    assert all(len(row["top1"]) == 2 and row["low"] <= row["mean"] <= row["high"] for row in rows)
    assert rows[0]["runs"] == rows[2]["runs"]  # the baseline is trained once for all
    assert list((home / "store/families").glob("*/study_*.svg"))


def test_grid_is_halved_and_decided(home: Path) -> None:
    fit = found(home, "fit.json")
    first, *_, last = fit["rungs"]  # type: ignore[misc]
    assert first["epochs"] < last["epochs"] == 2
    assert len(first["top1"]) > len(last["top1"]) >= 2
    assert fit["paper"] in [finalist["network"] for finalist in fit["finalists"]]  # type: ignore[attr-defined]
    assert all(len(finalist["top1"]) == 2 for finalist in fit["finalists"])  # type: ignore[attr-defined]
    family = json.loads((home / "family.json").read_text())
    assert list(family["coefficients"].values()) == fit["winner"]
    assert fit["compound"] == sum(candidate["grows"] == 3 for candidate in fit["candidates"])  # type: ignore[attr-defined]
    (paper,) = (one for one in fit["finalists"] if one["network"] == fit["paper"])  # type: ignore[attr-defined]
    assert fit["paper_in_window"] or paper["coefficients"] != fit["winner"]  # reported, never chosen
    study = found(home, "study.json")
    assert study["coefficients"] == fit["winner"]  # it comes after the fit, and compares what was fitted


def test_every_training_has_its_end_in_mlflow(home: Path) -> None:
    client = MlflowClient(f"sqlite:///{home / 'store' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    left = [run for run in runs if run.data.tags["mlflow.note.content"].startswith("Stopped after 1 of 2 epochs")]
    kinds = {run.data.tags["effnet.kind"] for run in left}
    assert kinds == {"search"}  # rungs of the grid have whole schedules of their own
    for run in runs:
        time = "device_hours" if run.data.tags["effnet.kind"] == "family" else "train_hours"
        assert {"top1", "params", "macs", "latency_ms", time} <= run.data.metrics.keys()


@pytest.mark.slow
def test_again_it_takes_seconds_and_trains_nothing(home: Path) -> None:
    before = finished(home)
    for command in (("study", "tiny.yaml"), ("fit", "tiny.yaml"), ("search", "tiny.yaml")):
        done = run_effnet(*command, cwd=home)
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.strip()).is_dir()
    assert finished(home) == before


@pytest.mark.slow
def test_search_by_measured_latency(prefect_home: Path, tmp_path: Path) -> None:
    shutil.copytree(prefect_home, tmp_path / "store" / "prefect")
    write_tiny(tmp_path, config(search=True).replace("control: true", "target_latency_ms: 0.5, trials: 2"))
    text = (tmp_path / "tiny.yaml").read_text().replace("trials: 4, ", "")
    (tmp_path / "tiny.yaml").write_text(text)
    done = run_effnet("search", "tiny.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    trials = found(tmp_path, "search.json")["trials"]
    for trial in trials:  # type: ignore[attr-defined]
        folder = RunFolder(tmp_path / "store/runs" / trial["run"])
        assert trial["cost"] == folder.latency_ms() > 0
    (best,) = (trial for trial in trials if trial["final_reward"] is not None)  # type: ignore[attr-defined]
    assert best["final_reward"] == pytest.approx(best["top1"] * (best["cost"] / 0.5) ** -0.07)


def test_search_without_a_search_is_told(tmp_path: Path) -> None:
    write_tiny(tmp_path, config())
    done = run_effnet("search", "tiny.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "give {search: ...} to search for one" in done.stderr


@pytest.mark.slow
def test_a_study_says_whether_the_baseline_is_balanced(prefect_home: Path, tmp_path: Path) -> None:
    """On minival, as docs/search.md prints it, but shorter."""
    (block,) = (block for block in blocks("docs/search.md", "yaml") if "split: minival" in block.text)
    printed = yaml.safe_load(block.text)
    printed["study"] |= {"seeds": 1, "epochs": 1}
    changed = yaml.safe_load(CONFIG) | printed | {"coefficients": [1.2, 1.1, 1.15]}
    write_tiny(tmp_path, yaml.safe_dump(changed))
    shutil.copytree(prefect_home, tmp_path / "store" / "prefect")
    done = run_effnet("study", "tiny.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "study tiny: per doubling of multiply-adds " in done.stderr
    study: Any = found(tmp_path, "study.json")
    assert [gain["dimension"] for gain in study["gains"]["tiny"]] == ["depth", "width", "resolution"]
    shares = {row["strategy"]: row["shares"] for row in study["baselines"]["tiny"] if row["shares"]}
    for place, dimension in enumerate(("depth", "width", "resolution")):
        assert [share > 0 for share in shares[dimension]] == [other == place for other in range(3)]
    assert not list((tmp_path / "store/runs").glob("*/evaluation.json"))  # val was not looked at

    by_hand = ("--multipliers", "1", "1.4", "1", "--multipliers", "2", "1", "1")
    done = run_effnet("study", "tiny.yaml", *by_hand, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    study = json.loads((tmp_path / done.stdout.strip() / "study.json").read_text())
    ((contest,),) = study["contests"].values()
    assert (contest["one"], contest["other"]) == ("d2 w1 r1", "d1 w1.4 r1")
    assert f"study tiny: d2 w1 r1 against d1 w1.4 r1 ×{contest['factor']:g}: " in done.stderr
    assert contest["told"] != "a tie" or "one training of each would show " in done.stderr
    bad = run_effnet("study", "tiny.yaml", "--multipliers", "0", "1", "1", cwd=tmp_path)
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)
    assert "--multipliers: multipliers.0.0: " in bad.stderr
