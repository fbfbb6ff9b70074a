"""effnet runs, show and compare on a store with one training done and one begun."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from effnet.errors import ConfigError
from effnet.runs import About, RunFolder, RunSpec
from flows.cli.main import cli
from tests.tiny import take_over


@pytest.fixture
def home(run_folder: RunFolder, trained: RunFolder) -> Path:
    """A store with a run that is trained, and one that is new."""
    take_over(trained, run_folder)
    run_folder.describe(About(experiment="tiny", name="B0", kind="member", labels={"phi": 0.0}, family="f"))
    spec = run_folder.spec()
    recipe = spec.recipe.model_copy(update={"epochs": 9})
    other = RunFolder.create(run_folder.store, RunSpec(**{**dict(spec), "recipe": recipe, "seed": 1}))
    other.describe(About(experiment="tiny", name="fit α1.2", kind="fit", labels={}, family="f"))
    return run_folder.store.root


def call(*arguments: str) -> str:
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_runs_lists_all_with_their_state(home: Path) -> None:
    rows = json.loads(call("runs", "--json", "--store", str(home)))
    assert {(row["name"], row["state"], row["epochs"]) for row in rows} == {
        ("B0", "trained", 3),
        ("fit α1.2", "new", 0),
    }
    assert [row["name"] for row in json.loads(call("runs", "--kind", "fit", "--json", "--store", str(home)))] == [
        "fit α1.2"
    ]
    text = call("runs", "--store", str(home))
    assert "trained" in text
    assert "3/3" in text
    assert "0/9" in text


def test_show_finds_a_run_by_key_beginning_or_name(home: Path, run_folder: RunFolder) -> None:
    for name in (run_folder.key, run_folder.key[:6], "b0"):
        row = json.loads(call("show", name, "--json", "--store", str(home)))
        assert row["run"] == run_folder.key
        assert row["recipe.batch_size"] == 32
        assert [line["epoch"] for line in row["epochs_journal"]] == [1, 2, 3]
    text = call("show", "b0", "--store", str(home))
    result = run_folder.trained()
    for told in (
        f"top-1 {result.top1:.2%}, after epoch {result.best_epoch}",
        "B0 of the family tiny (member)",
        "minival top-1",
    ):
        assert told in text
    assert "ema_decay 0.9, augment.crop_area [0.7, 1.0]" in text  # what the recipe says beside its defaults
    assert "label_smoothing" not in text
    with pytest.raises(ConfigError, match="effnet runs"):
        call("show", "nothing", "--store", str(home))
    with pytest.raises(ConfigError, match="effnet runs"):
        call("show", run_folder.key[:3], "--store", str(home))  # too short to be a beginning


@pytest.mark.parametrize("best", [0, 2])
def test_it_is_said_where_the_features_alone_were_kept(home: Path, run_folder: RunFolder, best: int) -> None:
    kept = "; its features alone are kept: no epoch was better\n"
    result = run_folder.trained().model_copy(update={"best_epoch": best})
    run_folder.result_path.write_text(result.model_dump_json())
    minival = next(line for line in call("show", "b0", "--store", str(home)).splitlines(True) if "minival" in line)
    assert minival.endswith(kept if best == 0 else ", after epoch 2\n")
    first = call("evaluate", "b0", "--split", "minival", "--store", str(home)).splitlines(True)[0]
    assert first == f"{run_folder.path}{kept if best == 0 else chr(10)}"


def test_compare_shows_what_differs_and_nothing_else(home: Path) -> None:
    different = json.loads(call("compare", "b0", "fit α1.2", "--json", "--store", str(home)))
    assert different["recipe.epochs"] == [3, 9]
    assert different["seed"] == [0, 1]
    assert "recipe.batch_size" not in different
    assert "recipe.epochs" in call("compare", "b0", "fit α1.2", "--store", str(home))
    with pytest.raises(ConfigError, match="at least two"):
        call("compare", "b0", "--store", str(home))


def test_compare_shows_all_digits_of_a_number(
    home: Path, run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_folder.trained().model_copy(update={"macs": 37_000_000_001})
    monkeypatch.setattr(RunFolder, "result", lambda folder: result if folder.key == run_folder.key else None)
    text = call("compare", "b0", "fit α1.2", "--store", str(home))
    assert "37,000,000,001" in text
    assert run_folder.key[:12] in text
    assert run_folder.key[:13] not in text
