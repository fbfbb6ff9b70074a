"""effnet predict, as a user runs it: files, folders, patterns; what cannot be read; tables."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from effnet.data.sources.named import find_images
from effnet.errors import ConfigError
from effnet.evaluation.predictor import Predictor, open_predictor, save_predictor
from effnet.models.weights import read_tensors, save_model
from effnet.runs import RunFolder
from effnet.store import publish
from flows.cli.find import find
from tests.tiny import clean_environment, run_effnet


@pytest.fixture(scope="module")
def run(trained: RunFolder) -> RunFolder:
    return trained


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty digits in two folders, with a broken image, a text, and what an operating system leaves behind."""
    folder = tmp_path_factory.mktemp("photos") / "photos"
    digits = load_digits()
    for number in range(30):
        target = folder / f"{number % 2}" / f"{number:02}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 255 / 16).astype(np.uint8)).convert("RGB").save(target)
    (folder / "1" / "broken.jpg").write_bytes((folder / "0" / "00.png").read_bytes()[:60])
    (folder / "notes.txt").write_text("not an image")
    (folder / "Thumbs.db").write_bytes(b"litter")
    return folder


def test_one_image(run: RunFolder, photos: Path) -> None:
    done = run_effnet("predict", run.path, photos / "0/00.png", "--top", "2", cwd=photos.parent)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    image, told = line.split("  ")
    assert image == str(photos / "0/00.png")
    pixels = np.asarray(Image.open(photos / "0/00.png"))
    (found,) = open_predictor(run.path).predict([pixels], {"top": 2})
    shares = zip(found["labels"], found["probabilities"], strict=True)
    assert told == ", ".join(f"{label} {share:.1%}" for label, share in shares)


def test_flips_are_averaged(run: RunFolder, photos: Path) -> None:
    done = run_effnet("predict", run.path, photos / "0/00.png", "--top", "1", "--flips", "--json", cwd=photos.parent)
    assert (done.returncode, done.stderr) == (0, "")
    pixels = np.asarray(Image.open(photos / "0/00.png"))
    plain, mirrored = open_predictor(run.path).probabilities([pixels, pixels[:, ::-1]])
    mean = (plain + mirrored) / 2
    assert json.loads(done.stdout)["probabilities"] == [pytest.approx(float(mean.max()), abs=2e-6)]
    assert float(mean.max()) != pytest.approx(float(plain.max()), abs=1e-4)


def test_a_folder_with_a_broken_image(run: RunFolder, photos: Path) -> None:
    done = run_effnet(
        "predict", run.key, photos, "--store", run.store.root, "--json", "--batch", "7", cwd=photos.parent
    )
    assert done.returncode == 65
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(row["path"]).name for row in rows if row.get("error")] == ["broken.jpg"]
    assert len(rows) == 31
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    right = sum(row["labels"][:1] == [str(int(Path(row["path"]).stem) % 10)] for row in rows if "error" not in row)
    assert right >= 15  # the first thirty digits are 0 to 9, three times; the network saw most of them
    summary, error = done.stderr.splitlines()
    assert summary.startswith("31 images in ")
    assert summary.endswith(" images/s; 1 could not be read; 1 other file passed over")
    assert error == "effnet: 1 of 31 images could not be read; their rows say why"


def test_a_table_and_what_the_network_sees(run: RunFolder, photos: Path, tmp_path: Path) -> None:
    outputs = ("--csv", tmp_path / "out.csv", "--save-crops", tmp_path / "seen", "--top", "3")
    done = run_effnet("predict", run.path, f"{photos}/*/*0.png", *outputs, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == f"{tmp_path / 'out.csv'}: written"
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["path"]).name for row in rows] == ["00.png", "10.png", "20.png"]
    assert all(float(row["probability_1"]) >= float(row["probability_3"]) for row in rows)
    assert {row["error"] for row in rows} == {""}
    seen = sorted((tmp_path / "seen").iterdir())
    assert len(seen) == 3
    side = run.spec().architecture.resolution
    assert {Image.open(path).size for path in seen} == {(side, side)}
    again = run_effnet("predict", run.path, f"{photos}/*/*0.png", *outputs, cwd=tmp_path)
    assert again.returncode == 0
    assert again.stderr.splitlines()[0] == f"{tmp_path / 'out.csv'}: written in place of the earlier one"
    assert sorted((tmp_path / "seen").iterdir()) == seen


@pytest.mark.parametrize("outputs", [(), ("--json",), ("--csv", "out.csv")])
def test_names_of_any_bytes_stay_on_one_line(
    run: RunFolder, photos: Path, tmp_path: Path, outputs: tuple[str, ...]
) -> None:
    (tmp_path / "odd").mkdir()
    for name in (b"caf\xe9.png", "größe \N{SNOWMAN}.png".encode(), b"two\nlines.png"):
        Path(os.fsdecode(os.fsencode(tmp_path / "odd") + b"/" + name)).write_bytes((photos / "0/00.png").read_bytes())
    done = run_effnet("predict", run.path, "odd", *outputs, "--save-crops", "seen", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out.csv").read_text() if "--csv" in outputs else done.stdout
    assert len(text.splitlines()) == 3 + ("--csv" in outputs)
    assert "größe" in text.encode().decode("unicode_escape" if "--json" in outputs and "\\u" in text else "utf-8")
    assert len(list((tmp_path / "seen").glob("*.png"))) == 3


def test_interrupted_it_ends_soon_and_keeps_what_it_has(run: RunFolder, photos: Path, tmp_path: Path) -> None:
    for number in range(3000):
        os.symlink(photos / "0/00.png", tmp_path / f"{number:04}.png")
    command = [sys.executable, "-m", "flows.cli", "predict", str(run.path), str(tmp_path), "--batch", "1", "--json"]
    process = subprocess.Popen(
        [*command, "--csv", str(tmp_path / "out.csv")],
        cwd=Path(__file__).parents[3],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for _ in range(20):
        assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode not in (0, 70), told
    assert "Traceback" not in told
    assert 20 <= len((tmp_path / "out.csv").read_text().splitlines()) < 3000


def test_a_sideways_photo_is_turned_as_in_training(run: RunFolder, photos: Path, tmp_path: Path) -> None:
    upright = Image.open(photos / "1/07.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "sideways.png", exif=exif)
    done = run_effnet("predict", run.path, photos / "1/07.png", "sideways.png", "--json", cwd=tmp_path)
    one, other = (json.loads(line) for line in done.stdout.splitlines())
    assert one["probabilities"] == other["probabilities"]


def test_a_model_folder_names_its_classes(run: RunFolder, photos: Path, tmp_path: Path) -> None:
    network = open_predictor(run.path).network
    save_predictor(tmp_path / "model", network, [f"digit {number}" for number in range(10)], None)
    done = run_effnet("predict", "model", photos / "0/00.png", "--top", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "  digit " in done.stdout


def test_a_folder_without_names_says_so(run: RunFolder, photos: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "model", open_predictor(run.path).network)
    done = run_effnet("predict", "model", photos / "0/00.png", cwd=tmp_path)
    assert (
        done.stderr == "effnet: model: this model folder does not name its classes; they are told by number, from 0\n"
    )
    shutil.copytree(run.path, tmp_path / "store/runs" / run.key)
    moved = open_predictor(tmp_path / "store/runs" / run.key)  # its dataset stayed behind
    assert (moved.named, moved.class_names) == (False, tuple("0123456789"))
    save_predictor(tmp_path / "nameless", moved.network, None, 3)
    again = open_predictor(tmp_path / "nameless")
    assert (again.named, again.crop_padding, again.class_names) == (False, 3, moved.class_names)


def test_what_effnet_does_not_read_is_named(tmp_path: Path) -> None:
    """Exported programs, and folders of other libraries, whose files are no advice to remove."""
    for name in ("b2.onnx", "b2.pt2"):
        (tmp_path / name).write_bytes(b"PK")
        done = run_effnet("predict", name, "a.png", cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith(f"effnet: {name}: an exported program, which runs without effnet: docs/export.md")
        with pytest.raises(ConfigError, match="an exported program"):
            read_tensors(tmp_path / name)
    for config, library in (
        ({"architecture": "tf_efficientnet_lite0", "num_classes": 2}, "timm (tf_efficientnet_lite0)"),
        ({"architectures": ["Net"], "model_type": "efficientnet"}, "Hugging Face's transformers (efficientnet)"),
    ):
        publish(tmp_path / "other/config.json", json.dumps(config).encode())
        done = run_effnet("predict", "other", "a.png", cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith(f"effnet: other: a folder for {library}, no run; effnet reads run folders, ")
        with pytest.raises(ConfigError, match="a folder for"):
            open_predictor(tmp_path / "other")
        publish(tmp_path / "other/model.safetensors", b"")
        weights = str(tmp_path / "other/model.safetensors")
        assert find(weights, tmp_path) == Path(weights)  # with --network they can be read


def test_bare_weights_of_a_named_network(run: RunFolder, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "arch.json").write_text(run.spec().architecture.model_dump_json())
    (tmp_path / "bare.safetensors").write_bytes(run.weights_path.read_bytes())
    done = run_effnet(
        "predict", "bare.safetensors", photos / "0/00.png", "--network", "arch.json", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    network = open_predictor(run.path).network
    numbers = Predictor(network, [str(number) for number in range(10)], crop_padding=None)
    (found,) = numbers.predict([np.asarray(Image.open(photos / "0/00.png"))], {"top": 3})
    assert json.loads(done.stdout)["labels"] == found["labels"]
    assert done.stderr == "effnet: a weights file does not name its classes; they are told by number, from 0\n"
    assert json.loads(done.stdout)["probabilities"] == pytest.approx(found["probabilities"], abs=1e-5)
    unnamed = run_effnet("predict", "bare.safetensors", photos / "0/00.png", cwd=tmp_path)
    assert (unnamed.returncode, unnamed.stderr.count("\n")) == (2, 1)
    assert "name its network with --network" in unnamed.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("nowhere.jpg",), 65, "1 name means no image; their rows say why"),
        (("empty",), 65, "1 name means no image; their rows say why"),
        (("empty/text.txt",), 65, "1 of 1 images could not be read; their rows say why"),
        (("a.png", "--device", "cuda:9"), 2, "--device cuda:9: t"),
        (
            ("a.png", "--device", "gpu"),
            2,
            "--device gpu: no such device; write cpu, cuda, or cuda:1 for the second GPU",
        ),
        (("a.png", "--csv", "a.png/out.csv"), 2, "a.png/out.csv: there is no folder "),
        (("a.png", "--csv", "new/out.csv"), 2, "new/out.csv: there is no folder "),
        (("a.png", "--save-crops", "a.png/seen"), 2, "a.png/seen: not a directory"),
        (("",), 2, "'': no name of a file or folder"),
        (("a.png", "--csv", "/dev/full"), 2, "/dev/full: a folder, a pipe or a device, where a file is to be written"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(
    run: RunFolder, photos: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/text.txt").write_text("no image")
    (tmp_path / "a.png").write_bytes((photos / "0/00.png").read_bytes())
    done = run_effnet("predict", run.path, *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"effnet: {told}")


def test_links_stay_links_and_a_table_can_be_printed(run: RunFolder, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    one = photos / "0/00.png"
    assert run_effnet("predict", run.path, one, "--csv", "link.csv", cwd=tmp_path).returncode == 0
    assert (tmp_path / "link.csv").is_symlink()
    done = run_effnet("predict", run.path, one, "--csv", "-", cwd=tmp_path)
    assert done.stdout == (tmp_path / "real.csv").read_text()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="a pipe, a device or a socket"):
        publish(tmp_path / "fifo", b"")
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)


def test_links_that_lead_back_are_not_followed(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.png").write_bytes((photos / "0/00.png").read_bytes())
    (tmp_path / "inner/b.png").write_bytes((photos / "0/00.png").read_bytes())
    (tmp_path / "inner/up").symlink_to(tmp_path)
    found = find_images([str(tmp_path / "inner")])
    assert [path.name for path in found.paths if path.is_file()] == ["b.png"]


def test_files_are_taken_once_and_litter_is_not(photos: Path) -> None:
    found = find_images([str(photos), str(photos / "0/00.png"), f"{photos}/0/*.png"])
    assert len(found.paths) == len(set(found.paths)) == 31
    assert found.passed_over == 1
    assert find_images([str(photos / "notes.txt")]).paths == (photos / "notes.txt",)  # named, so it is tried
    with pytest.raises(ConfigError, match="'': no name of a file"):
        find_images(["a.png", ""])


def test_what_means_no_image_has_its_place_and_its_reason(photos: Path) -> None:
    one = photos / "0/00.png"
    found = find_images(["nowhere", str(one), "x" * 300, "no/*.jpg", "nowhere", str(one)])
    assert [str(each.path)[:8] for each in found.named] == ["nowhere", str(one)[:8], "x" * 8, "no/*.jpg"]
    assert [each.missing for each in found.named] == [
        "no such file or folder",
        "",
        "file name too long",
        "no file matches",
    ]


def test_a_missing_file_alone_is_a_row(run: RunFolder, tmp_path: Path) -> None:
    done = run_effnet("predict", run.path, "nowhere.jpg", "--csv", "rows.csv", cwd=tmp_path)
    assert done.returncode == 65
    assert (tmp_path / "rows.csv").read_text().splitlines()[1] == "nowhere.jpg,,,,,,,no such file or folder"
    plain = run_effnet("predict", run.path, "nowhere.jpg", cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert not re.search(r"\| *torch$", plain.stderr, re.MULTILINE)  # there is nothing to load a network for
    assert plain.stdout == "nowhere.jpg  could not be read: no such file or folder\n"


def test_what_is_missing_does_not_stop_the_others(run: RunFolder, photos: Path, tmp_path: Path) -> None:
    one = photos / "0/00.png"
    done = run_effnet("predict", run.path, one, "nowhere.jpg", photos / "0/02.png", "no/*.jpg", "--json", cwd=tmp_path)
    assert done.returncode == 65
    rows = {row["path"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert list(rows) == [str(one), "nowhere.jpg", str(photos / "0/02.png"), "no/*.jpg"]  # as they were named
    assert rows["nowhere.jpg"] == {
        "path": "nowhere.jpg",
        "labels": [],
        "probabilities": [],
        "error": "no such file or folder",
    }
    assert rows["no/*.jpg"]["error"] == "no file matches"
    assert len(rows[str(photos / "0/00.png")]["labels"]) == 3
    assert done.stderr.splitlines()[-1] == "effnet: 2 names mean no image; their rows say why"
    assert done.stderr.startswith("2 images in ")


def test_it_ends_quietly_where_nobody_reads_on(run: RunFolder, photos: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "predict", run.path, photos, "--batch", "1"],
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()  # as `head -1` does
    told = process.stderr.read()
    assert process.wait(timeout=120) == 141
    assert told == b""
