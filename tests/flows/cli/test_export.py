"""effnet export: files are measured before they are kept, and say what they are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from effnet.config import DataConfig, FamilyConfig, FolderSource
from effnet.data.shards.write import write_shards
from effnet.errors import ConfigError, RunFailedError
from effnet.evaluation.classes import Known, classes_of_model, classes_of_run
from effnet.evaluation.exported import split_images
from effnet.evaluation.predictor import open_predictor
from effnet.evaluation.run import evaluate_run
from effnet.models import timm_folder
from effnet.models.weights import load_model, save_model
from effnet.runs import About, RunFolder
from effnet.store import Store, publish
from flows.cli.main import cli
from tests.docs import printed
from tests.docs.printed import blocks
from tests.tiny import VAL, run_effnet, store_beside, take_over


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, dataset_store: Store, config: FamilyConfig, trained: RunFolder
) -> RunFolder:
    """A trained and evaluated member of a family that states the licence of its images."""
    store = store_beside(dataset_store, tmp_path_factory.mktemp("home") / ".effnet")
    folder = RunFolder.create(store, trained.spec())
    take_over(trained, folder)
    evaluate_run(folder)
    family = config.model_copy(update={"licence": "CC BY 4.0"})
    publish(store.families / "f" / "config.json", family.model_dump_json().encode())
    folder.describe(About(experiment="tiny", name="B0", kind="member", labels={"phi": 0.0}, family="f"))
    return folder


def export(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["export", *map(str, arguments)])


def exported(*arguments: str | Path) -> dict[str, object]:
    done = export(*arguments, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


def test_a_file_is_measured_on_val_beside_its_network(run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "new" / "b0.onnx"
    told = exported(run.path, "--format", "onnx", "--with-preprocessing", "--out", path)
    evaluation = run.evaluated()
    assert (told["measured_on"], told["images"]) == ("val", VAL)
    assert told["top1_network"] == evaluation.top1
    assert (told["top1"], told["drop"], told["agreement"]) == (evaluation.top1, 0, 1)
    assert told["drop_noise"] > 0
    assert told["latency"]["latency_ms"] > 0
    assert told["latency_network"]["threads"] == 1
    assert told["bytes"] == path.stat().st_size
    session = onnxruntime.InferenceSession(path)
    says = session.get_modelmeta().custom_metadata_map
    assert (says["family"], says["member"], says["run"]) == ("tiny", "B0", run.key)
    assert (says["dataset"], says["licence"]) == (run.spec().dataset, "CC BY 4.0")
    predictor = open_predictor(run.path)
    assert json.loads(says["classes"]) == list(predictor.class_names)
    (first, *_) = split_images(run.store.datasets / run.spec().dataset, "val", 8, 0)
    (probabilities,) = session.run(None, {"images": first.pixels})
    np.testing.assert_allclose(probabilities, predictor.probabilities(first.pixels), atol=1e-6)


@pytest.mark.slow
def test_int8_is_calibrated_and_what_it_loses_is_told(run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "b0.onnx"
    told = exported(run.path, "--format", "onnx", "--precision", "int8", "--max-drop", "5", "--out", path)
    assert told["calibrated_on"] == 256
    assert told["pays"] == (told["latency"]["latency_ms"] < told["latency_float32"]["latency_ms"])
    session = onnxruntime.InferenceSession(path)
    assert session.get_modelmeta().custom_metadata_map["precision"] == "int8"
    assert b"QuantizeLinear" in path.read_bytes()
    arch, right = run.spec().architecture, 0
    mean, std = (np.array(numbers, np.float32) for numbers in (arch.pixel_mean, arch.pixel_std))
    for batch in split_images(run.store.datasets / run.spec().dataset, "val", 8, 0):
        images = ((batch.pixels - mean) / std).transpose(0, 3, 1, 2)
        right += int((session.run(None, {"images": images})[0].argmax(1) == batch.labels).sum())
    assert told["top1"] == right / VAL
    assert told["drop"] == pytest.approx(run.evaluated().top1 - right / VAL)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.slow
def test_a_file_for_any_size_is_measured_on_whole_images(run: RunFolder, tmp_path: Path, precision: str) -> None:
    path = tmp_path / "b0.onnx"
    options = ("--with-preprocessing", "--any-size", "--precision", precision, "--max-drop", "5")
    told = exported(run.path, "--format", "onnx", *options, "--out", path)
    assert (told["measured_on"], told["images"]) == ("val", VAL)
    assert told["top1_network"] == run.evaluated().top1
    assert 0 < told["apart"] < (0.02 if precision == "float32" else 1)
    assert told["agreement"] > (0.99 if precision == "float32" else 0.8)
    image = np.random.default_rng(0).integers(0, 256, (1, 50, 30, 3), dtype=np.uint8)
    (found,) = onnxruntime.InferenceSession(path).run(None, {"images": image})
    (wanted,) = open_predictor(run.path).probabilities(image)
    assert np.abs(found - wanted).max() < (0.02 if precision == "float32" else 0.3)


@pytest.mark.slow
def test_a_file_that_loses_too_much_is_not_written(run: RunFolder, tmp_path: Path) -> None:
    for label in ("a", "b"):  # nearly black: ranges of activations that fit no digit
        (tmp_path / "dark" / label).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (8, 8), (number, 0, number)).save(tmp_path / "dark" / label / f"{number}.png")
    source = FolderSource(kind="folder", train=str(tmp_path / "dark"))
    dark, _ = write_shards(DataConfig(source=source, minival=0.4, val=0.2), tmp_path / "datasets")
    before = sorted(tmp_path.iterdir())
    wanted = ("export", run.path, "--format", "onnx", "--precision", "int8", "--out", "b0.onnx")
    dataset = tmp_path / "datasets" / dark.digest
    done = run_effnet(*wanted, "--calibrate", dataset, cwd=tmp_path)
    assert done.returncode == 70, done.stderr
    assert "b0.onnx: not written, as it would lose" in done.stderr
    assert "more than --max-drop 1; calibrate on other images" in done.stderr
    assert all(line.startswith("effnet: ") for line in done.stderr.splitlines())  # what it does, and one of why not
    assert sorted(tmp_path.iterdir()) == before
    done = run_effnet(*wanted, "--calibrate", dataset, "--force", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b0.onnx").is_file()
    assert " points lost" in done.stdout
    assert "float32 in ONNX" in done.stdout


def test_few_images_of_val_if_asked(run: RunFolder, tmp_path: Path) -> None:
    told = exported(run.path, "--format", "torch", "--limit", "50", "--out", tmp_path / "b0.pt2")
    assert (told["images"], told["agreement"]) == (50, 1)


def test_without_the_dataset_that_is_said(run: RunFolder, tmp_path: Path) -> None:
    save_model(tmp_path / "bare", load_model(run.path))
    done = export(tmp_path / "bare", "--format", "torch", "--out", tmp_path / "b0.pt2")
    assert "the dataset is not here: compared on 32 random images alone, the same answer for 100.00%" in done.stdout
    done = export(tmp_path / "bare", "--format", "onnx", "--precision", "int8", "--out", tmp_path / "b0.onnx")
    assert isinstance(done.exception, ConfigError)
    assert "give --calibrate" in str(done.exception)
    done = export(
        tmp_path / "bare",
        *("--format", "onnx", "--precision", "int8", "--calibrate", tmp_path, "--out", tmp_path / "b0.onnx"),
    )
    assert isinstance(done.exception, ConfigError)
    assert "no dataset with images of minival" in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--with-preprocessing", "--with-preprocessing is of --format onnx or torch; safetensors has weights alone"),
        ("--format torch --precision int8", "--precision int8 is of --format onnx"),
        ("--format onnx --calibrate .", "--calibrate is of --precision int8"),
        (
            "--limit 3 --force",
            "--limit and --force are of --format onnx or torch; safetensors has weights alone, and is",
        ),
        ("--format timm --max-drop 2", "--max-drop is of --format onnx or torch; timm has weights alone, and is not"),
        ("--format timm", "timm has no network like tiny"),
        ("--format onnx --any-size", "--any-size is of --format onnx --with-preprocessing"),
        ("--format torch --with-preprocessing --any-size", "--any-size is of --format onnx --with-preprocessing"),
    ],
)
def test_options_that_go_with_nothing_are_refused(run: RunFolder, tmp_path: Path, arguments: str, told: str) -> None:
    done = export(run.path, *arguments.split(), "--out", tmp_path / "out")
    assert isinstance(done.exception, ConfigError)
    assert told in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_ours_has_the_classes_and_the_crop_of_its_run(run: RunFolder, tmp_path: Path) -> None:
    exported(run.path, "--format", "safetensors", "--out", tmp_path / "x/st")
    own, folder = open_predictor(run.path), open_predictor(tmp_path / "x/st")
    assert (folder.named, folder.class_names, folder.crop_padding) == (True, own.class_names, own.crop_padding)
    assert classes_of_model(tmp_path / "x/st") == classes_of_run(run)
    save_model(tmp_path / "bare", own.network)  # of which nobody knows the classes: no names are made up
    exported(tmp_path / "bare", "--format", "safetensors", "--out", tmp_path / "again")
    assert not open_predictor(tmp_path / "again").named
    assert classes_of_model(tmp_path / "again") == Known()


@pytest.mark.slow
def test_files_are_made_and_run_as_printed(run: RunFolder, tmp_path: Path) -> None:
    random = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(random).resize((90, 70)).save(tmp_path / "photo.jpg")
    (made, _) = blocks("docs/export.md", "sh")
    for command in made.commands:
        done = printed.run(command.replace("b2", str(run.path), 1), tmp_path)
        assert done.returncode == 0, done.stderr
    said = []
    for block in blocks("docs/export.md", "python"):
        done = subprocess.run([sys.executable, "-c", block.text], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.split())
    (best,) = open_predictor(run.path).predict([(tmp_path / "photo.jpg").read_bytes()])
    assert len(said) == 3
    for label, probability in said:  # ONNX: whole, and cut by Pillow; torch
        assert label == best["label"]
        assert float(probability) == pytest.approx(best["probability"], abs=0.02)


def test_a_place_where_nothing_can_be_written_is_told(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = export(run.path, "--format", "torch", "--out", tmp_path / "file" / "b0.pt2")
    assert isinstance(done.exception, ConfigError)
    assert "name another path" in str(done.exception)


def test_timms_folder_has_the_runs_card(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_folder, "timm_name", lambda _: "tf_efficientnet_b0")  # as if it had a published shape
    told = exported(run.path, "--format", "timm", "--out", tmp_path / "b0")
    assert told == {"out": str(tmp_path / "b0"), "format": "timm", "architecture": "tf_efficientnet_b0"}
    assert sorted(path.name for path in (tmp_path / "b0").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    card = (tmp_path / "b0/README.md").read_text()
    assert "# tiny B0" in card
    assert f"| top-1 (95 % interval over images) | {run.evaluated().top1:.2%} (" in card
    assert "Licence of the images: CC BY 4.0" in card


def test_a_program_that_was_spoiled_is_refused(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from effnet.evaluation import exported as files

    monkeypatch.setattr(
        files.Exported, "given", lambda self, pixels: files._normalized(255 - pixels, self.arch).numpy()
    )
    done = export(run.path, "--format", "torch", "--out", tmp_path / "b0.pt2")
    assert isinstance(done.exception, RunFailedError)
    assert not list(tmp_path.iterdir())
