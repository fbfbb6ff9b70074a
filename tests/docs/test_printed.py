"""The documentation's commands, files and Python are what they say: run as they are printed, in a copy of the clone.

Only what is large is made small: the demo's config trains fewer members for fewer epochs, on smaller images. Commands
that cannot run here are in docs/promises.md with the reason; that they would be accepted is checked of them, as of all.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import yaml
from PIL import Image

from effnet.arch import zoo
from effnet.config import FamilyConfig
from effnet.models.build import build
from effnet.models.weights import save_weights
from flows.cli.main import cli
from tests.docs.printed import ROOT, Block, blocks, clone, environment, run, start
from tests.docs.promises import NOT_TRIED, documents, plain, promises

SMALL = {
    "coefficients": [1.2, 1.1, 1.15],
    "fit": None,
    "members": {"phi": [0, 0.2, 0.6, 1], "dropout": [0.1, 0.2]},
}
SMALL_PHOTOS = {"members": {"published": ["efficientnet_lite0"]}}
WORDS = {"CONFIG": "configs/mnist.yaml", "[RUN ...]": "RUN"}
SECONDS = 550


def shell(document: str, beginning: str) -> Block:
    """Return the shell block of a document whose first command begins so."""
    return next(block for block in blocks(document, "sh") if block.commands[0].startswith(beginning))


def do(command: str, folder: Path, **changes: str) -> str:
    """Run a printed command that must end well; return what it printed."""
    done = run(command, folder, seconds=SECONDS, **changes)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr
    return done.stdout


def shrink(path: Path, epochs: int, **changes: Any) -> None:
    """Make a config small: an epoch or two, and what else changes; None takes a field away."""
    config = yaml.safe_load(path.read_text())
    recipe = config["recipe"] if isinstance(config["recipe"], dict) else {"base": config["recipe"]}
    config["recipe"] = recipe | {"epochs": epochs, "batch_size": 32}
    config |= changes
    path.write_text(yaml.safe_dump({name: value for name, value in config.items() if value is not None}))


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory, prefect_home: Path) -> Path:
    """A clone in which the demo's command was run, as `make demo` prints it."""
    folder = clone(tmp_path_factory.mktemp("user") / "effnet")
    shrink(folder / "configs/mnist.yaml", 1, **SMALL)
    shrink(folder / "configs/digits.yaml", 1, **SMALL | {"members": {"phi": [0]}})
    shutil.copytree(prefect_home, folder / ".effnet/prefect")
    demo = do("make --dry-run demo", folder).splitlines()[-1]
    assert demo == ".venv/bin/effnet family configs/mnist.yaml"
    assert "B3" in do(demo, folder)
    return folder


@pytest.fixture(scope="module")
def servers(user: Path) -> Iterator[dict[str, str]]:
    """The servers' addresses, by name; started and stopped as the README says."""
    up, down = shell("README.md", "effnet shard photos").commands[-2:]
    found = re.findall(r"^(\w+) +(http://\S+)$", do(up, user), re.MULTILINE)
    assert [name for name, _ in found] == ["prefect", "mlflow"]
    yield dict(found)
    assert do(down, user).count("stopped") == 2


def test_commands_of_a_block_are_those_that_a_shell_would_run() -> None:
    text = "# a comment\neffnet up   # says where\n\neffnet deploy --set a='#1' \\\n  --set b=c#d  # e\n"
    assert Block("x.md", 1, "sh", text).commands == ["effnet up", "effnet deploy --set a='#1' --set b=c#d"]


def test_the_demo_is_built_as_printed(user: Path) -> None:
    assert shell("README.md", "make demo").commands == ["make demo", "make test"]
    assert len(list((user / ".effnet/runs").glob("*/evaluation.json"))) == len(SMALL["members"]["phi"])


def test_the_servers_start_and_stop_as_printed(servers: dict[str, str]) -> None:
    assert {urllib.request.urlopen(url, timeout=30).status for url in servers.values()} == {200}


@pytest.mark.slow
def test_deployed_and_run_by_the_worker_that_is_printed(user: Path, servers: dict[str, str], tmp_path: Path) -> None:
    block = shell("docs/operations.md", "effnet up")
    up, deploy = block.commands
    assert servers["prefect"] in do(up, user)  # they run: it says where
    said = do(deploy, user)
    assert "build_family/digits" in said
    workers = [line.strip() for line in said.splitlines() if " worker start " in line]
    (now,) = (line.strip() for line in said.splitlines() if " deployment run " in line)
    assert all(servers["prefect"] in line for line in [*workers, now])
    home = {"HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    started = [start(line, user, tmp_path / f"{number}.log", **home) for number, line in enumerate(workers)]
    try:
        do(f"{now} --watch", user, **home)
        assert all("started!" in (tmp_path / f"{number}.log").read_text() for number in range(len(workers)))
    finally:
        end(started)
    said = (tmp_path / "0.log").read_text() + (tmp_path / "1.log").read_text()
    assert "evaluated on 357 held-out images" in said


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    """End groups of processes, and wait for them."""
    for process in processes:
        os.killpg(process.pid, signal.SIGTERM)
    for process in processes:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def test_the_records_are_looked_at_as_printed(user: Path) -> None:
    runs, _, show, compare = shell("docs/records.md", "effnet runs").commands  # watched: tests/flows/cli/test_watch.py
    assert do(runs, user).count("B3") >= 1
    assert "B3" in do(show, user)
    assert "phi" in do(compare, user) or "φ" in do(compare, user)
    (code,) = blocks("docs/records.md", "python")
    given = "import numpy\nimages = numpy.zeros((2, 8, 9, 3), numpy.uint8)\n"
    said = python(given + code.text + "print(model.predict(images)[0]['labels'])", user)
    assert len(said.split(",")) >= 5


@pytest.mark.slow
def test_trainings_are_done_as_printed(user: Path) -> None:
    block = shell("docs/training.md", "apt-get")
    runs = json.loads(do("effnet runs --json", user))
    folder = next(f".effnet/runs/{row['run']}" for row in runs if (row["family"], row["name"]) == ("mnist", "B0"))
    Image.new("RGB", (40, 30), "teal").save(user / "shoe.png")
    rows = [row.quote for row in promises() if row.document == block.document and row.other.startswith(NOT_TRIED)]
    tried = [command for command in block.commands if plain(command) not in rows]
    assert len(tried) == 5
    for command in tried:
        for word, meant in {**WORDS, "RUN": folder}.items():
            command = command.replace(word, meant)
        do(command, user)


@pytest.mark.slow
def test_a_family_on_ones_own_images(user: Path, servers: dict[str, str]) -> None:
    document = "docs/tutorials/own-images.md"
    (config,) = blocks(document, "yaml")
    FamilyConfig.model_validate(yaml.safe_load(config.text))  # as printed
    random = np.random.default_rng(0)
    for label in ("daisy", "rose", "tulip"):
        (user / "photos" / label).mkdir(parents=True)
        for number in range(40):
            pixels = random.integers(0, 256, (24, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(user / "photos" / label / f"{number}.jpg")
    beginning, *rest = shell("README.md", "effnet init").commands
    do(beginning, user)
    shrink(user / "photos.yaml", 1, **SMALL_PHOTOS)
    for command in rest:
        do(command.replace("NEW-PHOTOS", "photos"), user)
    for command in shell("README.md", "effnet shard photos").commands[:-2]:  # the last two: `servers`
        do(command, user)
    (user / "flowers.yaml").write_text(config.text)
    commands = shell(document, "effnet doctor").commands
    assert "Lite2 starts from" in do(commands[2], user)  # what it costs as printed
    shrink(user / "flowers.yaml", 1, **SMALL_PHOTOS)
    for command in commands:
        said = do(command, user)
    assert servers["mlflow"] in said
    given = "import numpy\nimages = numpy.zeros((2, 8, 9, 3), numpy.uint8)\n"
    (code,) = blocks(document, "python")
    assert "daisy" in python(f"{given}{code.text}print(found)", user)


def test_images_are_predicted_as_printed(user: Path) -> None:
    for folder in (user / "photos", user):
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), "teal").save(folder / "photo.jpg")
    for command in shell("docs/training.md", "effnet predict b2").commands:
        do(command.replace("b2", "b0"), user)
    assert (user / "out.csv").read_text().startswith("path,label_1,probability_1,label_2,")
    assert len(list((user / "seen").glob("*.png"))) == 1
    (code,) = blocks("docs/training.md", "python")
    run = json.loads(do("effnet show b0 --json", user))["run"]
    told = code.text.replace("predictor.predict(", "print(predictor.predict(").replace("  # [{", ")  # [{")
    assert "'probability': " in python(told.replace("0123456789abcdef", run), user)


@pytest.mark.slow
def test_weights_come_and_go_as_printed(user: Path) -> None:
    save_weights(user / "tf_efficientnet_b0.safetensors", build(zoo.get("efficientnet_b0"), seed=0), "timm")
    for command in shell("README.md", "effnet import-weights").commands:
        do(command, user)
    assert (user / "flowers.onnx").stat().st_size > 10_000_000


def test_python_runs_as_printed(user: Path) -> None:
    (code,) = blocks("README.md", "python")
    python(code.text, user)
    (code,) = blocks("docs/data.md", "python")
    (index,) = sorted((user / ".effnet/datasets").glob("*/index.parquet"))[:1]
    assert python(f"folder = {str(index.parent)!r}\n{code.text}print(image.size, label)", user).strip()


def python(code: str, folder: Path) -> str:
    """Run Python as somebody who pastes it; return what it printed."""
    done = subprocess.run(
        ["python", "-c", code], cwd=folder, env=environment(), capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize(
    "document",
    [
        "docs/data.md",
        "docs/search.md",
        "docs/forecast.md",
        "docs/operations.md",
        "docs/tutorials/aws.md",
        "docs/choosing-a-recipe.md",
    ],
)
def test_configs_are_taken_as_printed(document: str) -> None:
    for block in blocks(document, "yaml"):
        FamilyConfig.model_validate({"family": "printed", "baseline": "efficientnet_b0"} | yaml.safe_load(block.text))


def spans() -> list[tuple[str, str, bool]]:
    """Return every command of ours in the documentation, with its document, and whether it stands in a block."""
    found = []
    for document in documents():
        found += [(document, command, True) for block in blocks(document, "sh") for command in block.commands]
        text = re.sub(r"^ *```.*?^ *```$", "", (ROOT / document).read_text(), flags=re.DOTALL | re.MULTILINE)
        found += [(document, " ".join(span.split()), False) for span in re.findall(r"`(effnet [^`]*)`", text)]
    return [(document, command, whole) for document, command, whole in found if re.search(r"(^|[ /])effnet ", command)]


MEANT = {"CONFIG": "digits", "T": "process", "F": "onnx", "N": "2", "NAME=VALUE": "image=x"}


@pytest.mark.parametrize(("document", "command", "whole"), spans())
def test_every_command_would_be_accepted(document: str, command: str, whole: bool) -> None:
    words = [word for word in shlex.split(re.sub(r"[\[\]]", "", command)) if word not in ("…", "...")]
    words = words[next(number for number, word in enumerate(words) if word.endswith("effnet")) + 1 :]
    found: click.Command = cli
    while words and isinstance(found, click.Group):
        name = words.pop(0)
        assert name in found.commands, f"{document}: {command}"
        found = found.commands[name]
    words = [MEANT.get(word, word) for word in words]
    try:
        found.make_context("effnet", words)
    except click.MissingParameter:
        assert not whole  # the name of a command, in a sentence
    except (click.exceptions.NoArgsIsHelpError, click.BadOptionUsage):  # the latter: an option without its value
        assert not whole
