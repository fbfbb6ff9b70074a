"""RUN and MODEL mean the same in every command."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig, load_config
from effnet.data.shards.manifest import Manifest
from effnet.data.shards.write import write_shards
from effnet.errors import ConfigError, DataError
from effnet.evaluation.run import evaluate_run
from effnet.models.weights import read_tensors
from effnet.process import say
from effnet.runs import About, RunFolder, RunSpec
from effnet.stages import Stage
from effnet.store import Store
from effnet.train.loop import Stop, train
from flows.cli.find import find, find_dataset, find_run
from flows.cli.main import cli
from tasks.build import Build, Training
from tasks.records.tracking import Tracker
from tasks.register import register_members
from tasks.terminal.screen import Screen
from tests.tiny import CONFIG, store_beside, write_tiny


@pytest.fixture(scope="module")
def training(
    tmp_path_factory: pytest.TempPathFactory,
    dataset_store: Store,
    config: FamilyConfig,
    baseline: Architecture,
    manifest: Manifest,
    empty_database: Path,
) -> Training:
    """A member that is trained, evaluated and registered in its store's MLflow, and an untrained run beside it."""
    store = store_beside(dataset_store, tmp_path_factory.mktemp("home") / ".effnet")
    shutil.copy(empty_database, store.root / "mlflow.db")
    tracker = Tracker(f"sqlite:///{store.root / 'mlflow.db'}", "tiny", store.root / "artifacts", say)
    build = Build(config, baseline, manifest, store, tracker, Screen(), store.root, "0" * 16)
    recipe = config.recipe.model_copy(update={"epochs": 1})
    training = build.training(Stage.MEMBER, "B0", baseline, recipe, {"phi": 0.0}, seed=0)
    tracker.open_training(training.folder, training.about)
    training.folder.describe(About(experiment="tiny", name="B0", kind="member", labels={"phi": 0.0}, family="f"))
    train(training.folder, started=time.time(), stop=Stop(), warn=say)
    evaluate_run(training.folder)
    tracker.forward(training.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.events.emit_event", lambda *_, **__: None)  # Prefect would start a server to hear of it
        register_members.fn(build, {training.name: training}, None)
    other = RunFolder.create(store, RunSpec(**{**dict(training.folder.spec()), "seed": 1}))
    other.describe(About(experiment="tiny", name="fit α1.2", kind="fit", labels={}, family="f"))
    return training


FORMS = {
    "name": lambda _: "b0",
    "key": lambda training: training.folder.key,
    "beginning of a key": lambda training: training.folder.key[:6],
    "folder": lambda training: str(training.folder.path),
    "file": lambda training: str(training.folder.weights_path),
    "alias": lambda _: "models:/tiny-b0@champion",
    "version": lambda _: "models:/tiny-b0/1",
}
COMMANDS = {
    "show": ["show", "RUN"],
    "compare": ["compare", "RUN", "fit α1.2"],
    "evaluate": ["evaluate", "RUN", "--split", "minival"],
    "cam": ["cam", "RUN", "--image", "image.png", "--out", "OUT/cam.png"],
    "export": ["export", "RUN", "--out", "OUT/model"],
}


def everything() -> list[object]:
    """Return every command with every form; those that compute something take all but a few of them as slow tests."""
    quick = {"show", "compare"}
    return [
        pytest.param(command, form, marks=[] if command in quick or form in ("name", "alias") else pytest.mark.slow)
        for command in COMMANDS
        for form in FORMS
    ]


@pytest.mark.parametrize(("command", "form"), everything())
def test_every_command_takes_every_form(
    training: Training, command: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(training.folder.store.root.parent)
    Image.new("RGB", (9, 9), (200, 30, 40)).save("image.png")
    words = [word.replace("OUT", str(tmp_path)).replace("RUN", FORMS[form](training)) for word in COMMANDS[command]]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    if command == "show":
        assert training.folder.key in done.output
    assert find(FORMS[form](training), Path(".effnet")).resolve() == training.folder.path.resolve()


def test_the_store_may_be_in_ones_home(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(training.folder.store.root.parent))
    assert find("b0", Path("~/.effnet")) == training.folder.path


def test_a_registered_model_whose_run_is_elsewhere_is_fetched(training: Training, tmp_path: Path) -> None:
    store = training.folder.store.root
    os.symlink(store / "mlflow.db", tmp_path / "mlflow.db")
    folder = find("models:/tiny-b0@champion", tmp_path)
    assert folder.is_relative_to(tmp_path)
    fetched, own = read_tensors(folder / "model.safetensors"), read_tensors(training.folder.weights_path)
    assert fetched.keys() == own.keys()
    assert all(torch.equal(fetched[name], own[name]) for name in own)
    with pytest.raises(ConfigError, match="models:/tiny-b0@none: cannot be loaded from MLflow"):
        find("models:/tiny-b0@none", tmp_path)
    with pytest.raises(ConfigError, match="not a run"):
        find_run("models:/tiny-b0@champion", tmp_path)


def test_a_name_is_of_the_family_built_last(
    training: Training, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    about = training.folder.about()
    assert about
    for seed in range(3):
        run = RunFolder.create(store, RunSpec(**{**dict(training.folder.spec()), "seed": seed + 7}))
        run.describe(about)
    keys = sorted(path.name for path in store.runs.iterdir())
    listed = "; ".join(f"{key[:12]} B0 of tiny, new" for key in keys)
    with pytest.raises(ConfigError, match=rf"'B0' may be any of 3 runs \({listed}\); give the key"):
        find("B0", tmp_path)
    for key, files in zip(keys, (["result.json"], [], ["result.json", "evaluation.json"]), strict=True):
        for name in files:
            shutil.copy(training.folder.path / name, store.runs / key)
    (store.runs / keys[1] / "metrics.jsonl").write_bytes(training.folder.metrics_path.read_bytes())
    listed = f"{keys[0][:12]} B0 of tiny, trained; {keys[2][:12]} B0 of tiny, evaluated"  # not the one that only began
    with pytest.raises(ConfigError, match=rf"'B0' may be any of 2 runs \({listed}\); give the key"):
        find("B0", tmp_path)
    (store.runs / keys[2] / "result.json").unlink()
    assert find("b0", tmp_path).name == keys[0]  # the one that is finished
    assert capsys.readouterr().err == f"effnet: b0 is run {keys[0][:12]}, of family tiny\n"
    assert RunFolder(store.runs / keys[1]).state == "begun"
    for number, key in enumerate(keys):
        member = {"name": "B0", "phi": 0, "resolution": 8, "params": 1, "macs": 1, "top1": 0, "top5": 0}
        member |= {"latency_ms": 1, "seconds": 1, "run_key": key, "mlflow_run_id": None, "reused": False}
        family = {"family": f"tiny{number}", "key": str(number), "dataset": "d", "val_samples": 1, "coefficients": {}}
        path = store.families / str(number) / "family.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(family | {"members": [member]}))
        os.utime(path, (number, number))
    assert find("b0", tmp_path).name == keys[-1]
    assert capsys.readouterr().err == f"effnet: b0 is run {keys[-1][:12]}, of family tiny2\n"
    assert find(keys[0][:6], tmp_path).name == keys[0]
    assert not capsys.readouterr().err  # a key has one meaning
    broken = store.families / "newest/family.json"  # another version's, or cut short
    broken.parent.mkdir()
    broken.write_text('{"family": "t"}')
    assert find("b0", tmp_path).name == keys[-1]


@pytest.mark.parametrize(
    ("called", "command"),
    [
        ("B7", ["predict", "RUN", "image.png"]),
        ("B7", ["export", "RUN", "--out", "out"]),
        ("B7", ["evaluate", "RUN"]),
        ("B7 seed 0", ["evaluate", "RUN"]),
    ],
)
def test_a_run_that_is_not_finished_is_told_how_to_go_on(
    training: Training, called: str, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 9), (200, 30, 40)).save("image.png")
    run = RunFolder.create(Store(tmp_path / ".effnet"), training.folder.spec())
    words = [word.replace("RUN", "b7") for word in command]
    run.describe(About(experiment="tiny", name=called, kind=Stage.MEMBER, labels={}, family="f"))
    with pytest.raises(DataError) as caught:
        CliRunner().invoke(cli, words, catch_exceptions=False)
    assert str(caught.value) == (
        f"run {run.key} ({called} of tiny) is not finished: start it again with the command that began it (effnet "
        "family CONFIG, or effnet train CONFIG --member b7); it goes on where it stopped"
    )
    assert not (tmp_path / "out").exists()


def test_a_dataset_is_a_folder_or_that_of_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_tiny(tmp_path)
    (tmp_path / "tiny").mkdir()  # a folder of images, as people call it
    with pytest.raises(DataError, match=r"tiny\.yaml: its dataset is not in .*; `effnet shard tiny` writes it"):
        find_dataset("tiny", None)
    manifest, _ = write_shards(load_config(config).data, tmp_path / "store/datasets")
    folder = tmp_path / "store/datasets" / manifest.digest
    for name in ("tiny", "tiny.yaml", "tiny/", str(folder)):
        assert find_dataset(name, None).absolute() == folder
    with pytest.raises(DataError, match="its dataset is not in"):
        find_dataset("tiny", tmp_path / "other")
    Path("again.yaml").write_text(
        CONFIG.replace("{kind: digits, image_size: 8}", f"{{kind: dataset, location: {folder}}}")
    )
    assert find_dataset("again", None).absolute() == folder
    with pytest.raises(ConfigError, match="'none': no folder of a dataset, and no config of that name"):
        find_dataset("none", None)
    assert find_dataset("none/x", None) == Path("none/x")  # whoever reads it says what is wrong
    for command in (["data", "report", "tiny"], ["data", "duplicates", "tiny", "--out", "a.csv"], ["verify", "tiny"]):
        assert CliRunner().invoke(cli, command, catch_exceptions=False).exit_code == 0
    assert Path("a.csv").is_file()


def test_a_store_without_models_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="models:/x@champion: no model is registered in"):
        find("models:/x@champion", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_means_nothing_or_several_things_is_told(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    store = training.folder.store.root
    monkeypatch.chdir(store.parent)
    with pytest.raises(ConfigError, match="`effnet runs` lists"):
        find("nothing", store)
    with pytest.raises(ConfigError, match="no name of a run"):
        find("x" * 5000, store)
    with pytest.raises(ConfigError, match="no file or folder"):
        find("a\0b", store)
    Path("b0").mkdir()
    with pytest.raises(ConfigError, match=r"'b0' is a run of .* and is here: write ./b0 or"):
        find("b0", store)
    assert find("./b0", store) == Path("b0")
    shutil.rmtree("b0")


def test_a_folder_is_not_taken_for_a_shipped_config_nor_a_long_name_for_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()  # a dataset that lost its manifest: `effnet verify mnist` must not read another
    assert find_dataset("mnist", None) == Path("mnist")
    assert find_dataset("mnist/", None) == Path("mnist")
    with pytest.raises(ConfigError, match="no folder of a dataset, and no config of that name"):
        find_dataset("x" * 5000, None)
