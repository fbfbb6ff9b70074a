"""effnet train, evaluate, cam and sync, as a user runs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import pytest
import skimage.data
from mlflow import MlflowClient
from PIL import Image

from effnet.arch import zoo
from effnet.config import FamilyConfig, Recipe, load_config
from effnet.data.shards.manifest import Manifest
from effnet.runs import RunFolder
from effnet.store import Store
from flows.cli.training import recipe_for_weights
from tasks.build import Build
from tasks.records.tracking import Tracker
from tasks.terminal.screen import Screen
from tests.tiny import CONFIG, MINIVAL, VAL, clean_environment, run_effnet, shown, write_tiny

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which B1 was trained."""
    home = tmp_path_factory.mktemp("train")
    write_tiny(home)
    done = run_effnet("train", "tiny.yaml", "--member", "b1", "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    (home / "b1.json").write_text(done.stdout)
    return home


@pytest.fixture
def trained(home: Path) -> dict[str, object]:
    return json.loads((home / "b1.json").read_text())  # type: ignore[no-any-return]


def test_one_member_is_trained_and_evaluated(home: Path, trained: dict[str, object]) -> None:
    assert trained["split"] == "val"
    assert trained["samples"] == VAL
    assert float(trained["top1"]) > 0.5  # type: ignore[arg-type]
    assert sum(trained["class_samples"]) == VAL  # type: ignore[arg-type]
    assert sum(trained["class_right"]) == round(float(trained["top1"]) * VAL)  # type: ignore[arg-type]
    again = run_effnet("train", "tiny.yaml", "--member", "B1", cwd=home)
    assert again.returncode == 0
    assert str(trained["run"]) in again.stdout
    assert "1 of 1 training reused" in again.stderr
    assert "latency" in again.stdout


def test_a_network_scaled_by_hand_is_trained(home: Path) -> None:
    done = run_effnet("train", "tiny.yaml", "--multipliers", "1", "1.5", "1", "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    folder = RunFolder(Path(json.loads(done.stdout)["run"]))
    about = folder.about()
    assert about is not None
    assert (about.name, about.labels) == ("d1 w1.5 r1", {"depth": 1.0, "width": 1.5, "resolution": 1.0})
    assert [stage.channels for stage in folder.spec().architecture.stages] == [12, 18]


@pytest.mark.parametrize("command", ["train", "find-rate"])
def test_an_unknown_member_is_told_before_any_work(command: str, tmp_path: Path) -> None:
    write_tiny(tmp_path)
    unknown = run_effnet(command, "tiny.yaml", "--member", "b9", cwd=tmp_path)
    assert (unknown.returncode, unknown.stderr) == (2, "effnet: no member 'b9'; the config plans b0, b1, b2\n")
    assert not (tmp_path / "store").exists()


def test_missing_weights_are_told_before_any_work(tmp_path: Path) -> None:
    write_tiny(
        tmp_path,
        CONFIG.replace("baseline: tiny-baseline.yaml", "baseline: efficientnet_lite0").replace(
            "members: {phi: [0, 1, 2], dropout: [0.1, 0.2]}",
            "members: {published: [efficientnet_lite0]}\nweights: nowhere/",
        ),
    )
    done = run_effnet("train", "tiny.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "no file of efficientnet_lite0 in nowhere/" in done.stderr
    assert not list((tmp_path / "store").glob("datasets/*"))


class Told(list[tuple[str, str]]):
    """A screen that keeps what it is told."""

    def say(self, line: str) -> None:
        self.append(("say", line))

    def warn(self, line: str) -> None:
        self.append(("warn", line))


@pytest.mark.parametrize(
    ("recipe", "images", "told"),
    [
        ("finetune", 51, [("say", "90 steps in all, with 51 images to train on: more images would help most")]),
        ("finetune", 500, []),
        (
            {"base": "finetune", "epochs": 1},
            500,
            [("warn", "31 steps in all are few: give more epochs or a smaller batch_size")],
        ),
    ],
)
def test_few_steps_are_advice_where_the_recipe_is_effnets_own(
    config: FamilyConfig, manifest: Manifest, recipe: object, images: int, told: list[tuple[str, str]]
) -> None:
    screen = Told()
    wanted = config.model_copy(update={"recipe": Recipe.model_validate(recipe)})
    counted = manifest.model_copy(update={"samples": manifest.samples | {"train": images}})
    store, nobody = Store(Path()), cast(Tracker, None)
    build = Build(wanted, zoo.get("efficientnet_lite0"), counted, store, nobody, cast(Screen, screen))
    recipe_for_weights(build)
    assert screen == told


def test_unknown_weights_are_told(home: Path) -> None:
    missing = run_effnet("train", "tiny.yaml", "--start-from", "nowhere", cwd=home)
    assert missing.returncode == 2
    assert "no run 'nowhere' in " in missing.stderr


def test_fine_tuning_starts_from_a_run(home: Path, trained: dict[str, object]) -> None:
    config = (home / "tiny.yaml").read_text().replace("seed: 0", "").replace("epochs: 3", "epochs: 1")
    (home / "more.yaml").write_text("seed: 1\n" + config)
    command = ("train", "more.yaml", "--member", "b1", "--json")
    fresh = run_effnet(*command, cwd=home)
    tuned = run_effnet(*command, "--start-from", str(trained["run"]), cwd=home)
    assert tuned.returncode == 0, tuned.stderr
    assert json.loads(tuned.stdout)["run"] != json.loads(fresh.stdout)["run"]
    assert json.loads(tuned.stdout)["top1"] > json.loads(fresh.stdout)["top1"]
    other = run_effnet("train", "more.yaml", "--member", "b0", "--start-from", str(trained["run"]), cwd=home)
    assert other.returncode == 65
    assert "not the weights of tiny_b0" in other.stderr
    assert other.stderr.count("effnet: ") == 1


@pytest.mark.slow
def test_fine_tuning_takes_its_own_recipe_and_tells_the_floor(home: Path, trained: dict[str, object]) -> None:
    config, _, _ = (home / "tiny.yaml").read_text().partition("recipe:")
    (home / "bare.yaml").write_text(config)
    command = ("--member", "b1", "--start-from", str(trained["run"]))
    tuned = run_effnet("train", "bare.yaml", *command, "--new-head", cwd=home)
    assert tuned.returncode == 0, tuned.stderr
    assert "recipe finetune: at most 8 epochs in batches of 32" in tuned.stderr
    lines = [line[7:] for line in tuned.stderr.splitlines()]
    begun = lines.index("B1: reading weights and images")  # before the first epoch, which may take long
    assert re.fullmatch(r"B1: features alone: minival top-1 \d+\.\d%", lines[begun + 1])
    assert lines[begun + 2].startswith("B1: ")
    assert [line for line in lines if line.startswith("dataset ")]  # what it trains on, and what was left out of it
    assert re.search(
        r"^features alone: top-1 \d+\.\d+%, a classifier on the weights as they came; training them added [+-]",
        tuned.stdout,
        re.M,
    )
    (home / "nothing.yaml").write_text(f"{config}recipe: finetune\n")
    nothing = run_effnet("train", "nothing.yaml", "--member", "b1", cwd=home)
    assert nothing.returncode == 2
    assert nothing.stderr.splitlines()[-1].endswith("is for starting from weights; give some, or another recipe")
    (home / "one.yaml").write_text(f"{config}recipe: {{base: smoke, epochs: 1}}\n")
    other = run_effnet("train", "one.yaml", *command, cwd=home)
    assert other.returncode == 0, other.stderr
    assert "recipe smoke is for training from nothing; from weights, `recipe: finetune` is better" in other.stderr
    assert "33 steps in all are few" in other.stderr
    assert "features alone" not in other.stdout  # the classifier was kept


def test_flips_stand_beside_the_plain_score_and_leave_the_runs_own(home: Path, trained: dict[str, object]) -> None:
    run = Path(str(trained["run"]))
    before = {name: (run / name).read_bytes() for name in ("evaluation.json", "hits.json", "result.json")}
    done = run_effnet("evaluate", run, "--flips", "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "effnet: --flips: trained without mirroring (augment.flip), perhaps for a reason\n"
    found = json.loads(done.stdout)
    flips = found["flips"]
    assert found["top1"] == trained["top1"]  # the plain score stays
    assert flips["top1"] != found["top1"]
    assert flips["lead"] == pytest.approx(flips["top1"] - found["top1"])
    assert flips["interval"][0] < flips["lead"] < flips["interval"][1]
    assert "flips" not in trained
    assert {name: (run / name).read_bytes() for name in before} == before


def test_evaluate_scores_runs_and_bare_weights(home: Path, trained: dict[str, object]) -> None:
    run = Path(str(trained["run"]))
    by_key = run_effnet("evaluate", run.name, "--store", "store", "--classes", cwd=home)
    assert by_key.returncode == 0, by_key.stderr
    assert f"top-1 {trained['top1']:.2%}" in by_key.stdout
    assert len(by_key.stdout.splitlines()) == 5 + 1 + 10
    (dataset,) = [path for path in (home / "store/datasets").iterdir() if not path.name.startswith(".")]
    arch = json.loads((run / "config.json").read_text())["architecture"]
    of_config = run_effnet("evaluate", run.name, "--store", "store", "--data", "tiny.yaml", cwd=home)
    assert of_config.returncode == 0, of_config.stderr
    assert f"top-1 {trained['top1']:.2%}" in of_config.stdout
    (home / "arch.json").write_text(json.dumps(arch))
    shutil.copy(run / "model.safetensors", home / "bare.safetensors")
    bare = run_effnet(
        "evaluate",
        "bare.safetensors",
        "--network",
        "arch.json",
        "--data",
        dataset,
        "--split",
        "minival",
        "--crop-padding",
        "0",
        "--json",
        cwd=home,
    )
    assert bare.returncode == 0, bare.stderr
    found = json.loads(bare.stdout)
    result = json.loads((run / "result.json").read_text())
    assert (found["split"], found["samples"]) == ("minival", MINIVAL)
    assert found["top1"] == result["top1"]
    for arguments, reason in (
        (("bare.safetensors", "--data", dataset), "name its network with --network"),
        (("bare.safetensors", "--network", "arch.json"), "give one with --data"),
        (("nothing",), "`effnet runs` lists the runs"),
        (("bare.safetensors", "--network", "arch.json", "--data", home), "no dataset here"),
        (("bare.safetensors", "--network", "arch.json", "--data", "nothing"), "no folder of a dataset, and no config"),
    ):
        done = run_effnet("evaluate", *map(str, arguments), cwd=home)
        assert done.returncode in (2, 65)
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1


def test_cam_draws_where_the_network_looks(home: Path, trained: dict[str, object]) -> None:
    Image.fromarray(skimage.data.astronaut()).save(home / "astronaut.jpg")
    run = str(trained["run"])
    done = run_effnet("cam", run, run, "--image", "astronaut.jpg", "--out", "cam.png", cwd=home)
    assert done.returncode == 0, done.stderr
    with Image.open(home / "cam.png") as figure:
        assert figure.width > figure.height > 100


def test_sync_sends_what_mlflow_never_saw(home: Path, trained: dict[str, object]) -> None:
    uri = f"sqlite:///{home / 'other.db'}"
    done = run_effnet("sync", "--store", "store", "--to", uri, cwd=home)
    assert done.returncode == 0, done.stderr
    assert "runs are in MLflow" in done.stdout
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(load_config(home / "tiny.yaml").family)
    assert experiment is not None
    found = {run.data.tags["effnet.key"]: run for run in client.search_runs([experiment.experiment_id])}
    run = found[Path(str(trained["run"])).name]
    assert (run.info.run_name, run.info.status) == ("B1", "FINISHED")
    assert run.data.metrics["val_top1"] == shown(trained["top1"])
    history = client.get_metric_history(run.info.run_id, "minival_top1")
    assert [metric.step for metric in history] == [1, 2, 3]
    assert run_effnet("sync", "--store", "store", "--to", uri, cwd=home).returncode == 0
    assert client.get_metric_history(run.info.run_id, "minival_top1") == history
    gone = run_effnet("sync", "--store", "store", "--to", "http://127.0.0.1:9", cwd=home)
    assert gone.returncode == 70
    assert "run the command again when MLflow is back" in gone.stderr


def test_an_order_is_carried_out_by_a_command(run_folder: RunFolder, tmp_path: Path) -> None:
    """As docs/training.md prints it, but for the key."""
    text = (ROOT / "docs" / "training.md").read_text().split("```json\n")[1].split("```")[0]
    order = tmp_path / "order.json"
    os.symlink(run_folder.store.root, tmp_path / ".effnet")
    order.write_text(text.replace("0123456789abcdef", run_folder.key))
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "job", "order.json"],
        cwd=tmp_path,
        env=clean_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not run_folder.metrics_path.exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.terminate()
    told = process.communicate(timeout=120)[1]
    assert process.returncode == 75, told
    assert "asked to stop; stopped at step" in told
    done = run_effnet("job", "order.json", cwd=tmp_path)
    assert done.returncode == 0
    result = run_folder.trained()
    assert result.environment["threads"] == "1"  # as in a family, whatever the machine has
    assert f"epoch {result.epochs} of {result.epochs}: train loss " in done.stderr
    told = f"b3: trained, {result.epochs} epochs, minival top-1 {result.top1:.1%}"
    assert done.stderr.splitlines()[-1] == told
    assert run_effnet("job", "order.json", cwd=tmp_path).stderr.splitlines() == [told]  # it is done already
    for wrong, said in (
        (text.replace("train", "brew"), "action: "),
        ("{", "order.json: not JSON"),
        (text, "no config.json here"),
    ):
        order.write_text(wrong)
        done = run_effnet("job", "order.json", cwd=tmp_path)
        assert done.returncode == 2
        assert said in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
