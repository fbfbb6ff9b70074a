"""`import effnet`: what it names, what it costs, what it says of mistakes, and that docs/api.md tells it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import effnet
from effnet.arch import zoo
from effnet.arch.scaling import PAPER
from effnet.arch.spec import Architecture
from effnet.config import Augment, DataConfig, DigitsSource
from effnet.errors import ConfigError, DataError
from tests.docs.printed import ROOT, blocks

B0 = zoo.get("efficientnet_b0")
NAMES = [name for name in effnet.__all__ if name != "__version__"]
# The deep imports that stay (docs/api.md), by name
DEEP = {
    "Coefficients": "effnet.arch.scaling",
    "Loader": "effnet.data.loader",
    "Multipliers": "effnet.arch.scaling",
    "Predictor": "effnet.evaluation.predictor",
    "build": "effnet.models.build",
    "count": "effnet.arch.cost",
    "load": "effnet.models.weights",
    "scale": "effnet.arch.scaling",
    "verify": "effnet.data.shards.verification",
    "write_shards": "effnet.data.shards.write",
    "zoo": "effnet.arch",
}


def test_import_is_light_and_the_rest_comes_when_it_is_asked_for() -> None:
    code = (
        "import sys, effnet\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'pyarrow', 'mlflow', 'prefect'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "cost = effnet.count(effnet.scale(effnet.zoo.get('efficientnet_b0'), (1.2, 1.1, 1.15)))\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
        "print(effnet.__version__, cost.params > 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.stderr) == ([version("effnet"), "True"], "")


def test_names_are_those_of_the_deep_imports() -> None:
    assert set(NAMES) == set(DEEP)
    for name, home in DEEP.items():
        found = getattr(import_module(home), name)
        assert getattr(effnet, name) is found, name
    assert set(effnet.__all__) <= set(dir(effnet))
    with pytest.raises(AttributeError, match="module 'effnet' has no attribute 'biuld'"):
        effnet.biuld  # noqa: B018


def test_the_document_tells_every_name_and_no_other() -> None:
    text = (ROOT / "docs/api.md").read_text()
    rows = re.findall(r"^\| `(?:effnet\.)?(\w+)", text, re.MULTILINE)
    assert sorted(rows) == sorted(effnet.__all__)


def test_the_documents_python_runs(tmp_path: Path) -> None:
    """Block after block, as somebody who pastes them into one session, in an empty folder."""
    code = "\n".join(block.text for block in blocks("docs/api.md", "python"))
    for name in NAMES:
        assert re.search(rf"\b{name}\b", code), name
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]


MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "no classes": (lambda: effnet.build(B0, 0), "num_classes must be a whole number of at least 1 (got 0)"),
    "half a class": (lambda: effnet.build(B0, 2.5), "at least 1 (got 2.5)"),
    "no classes to count": (lambda: effnet.count(B0, 0), "num_classes must be"),
    "no classes to load": (lambda: effnet.load("none", B0, num_classes=0), "num_classes must be"),
    "built by name": (lambda: effnet.build("efficientnet_b0"), "(got 'efficientnet_b0')"),
    "counted by name": (lambda: effnet.count("efficientnet_b0"), "zoo.get('efficientnet_b0')"),
    "scaled by name": (lambda: effnet.scale("efficientnet_b0", (1, 1, 1)), "expected an Architecture"),
    "loaded by name": (lambda: effnet.load("none", "efficientnet_b0"), "expected an Architecture"),
    "two multipliers": (lambda: effnet.scale(B0, (1.2, 1.1)), "depth, width, resolution (got (1.2, 1.1))"),
    "one multiplier": (lambda: effnet.scale(B0, 2.0), "three numbers: depth, width, resolution (got 2.0)"),
    "text": (lambda: effnet.scale(B0, ("1", 1, 1)), "three numbers"),
    "minus": (lambda: effnet.scale(B0, (1, -1, 1)), "width multiplier must be a number above 0 (got -1)"),
    "no config": (lambda: effnet.write_shards("photos", "x"), "expected a DataConfig"),
    "no such split": (
        lambda: effnet.Loader("x", "test", batch_size=2, resolution=8, augment=Augment()),
        "one of train, minival, val (got 'test')",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str) -> None:
    call, told = MISTAKES[mistake]
    with pytest.raises(ConfigError) as error:
        call()
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_numpys_numbers_count_classes_too() -> None:
    assert effnet.count(B0, np.int64(10)) == effnet.count(B0, 10)  # type: ignore[arg-type]


def test_three_numbers_scale_like_multipliers() -> None:
    wanted = effnet.scale(B0, PAPER.at(1))
    for given in ((1.2, 1.1, 1.15), [1.2, 1.1, 1.15], effnet.Multipliers(1.2, 1.1, 1.15), PAPER):
        assert effnet.scale(B0, given).key() == wanted.key()  # type: ignore[arg-type]


def test_folders_may_be_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, baseline: Architecture) -> None:
    monkeypatch.chdir(tmp_path)
    manifest, _ = effnet.write_shards(DataConfig(source=DigitsSource(image_size=8)), "x", base=".")
    assert effnet.verify(f"x/{manifest.digest}") == []
    loader = effnet.Loader(f"x/{manifest.digest}", "val", batch_size=64, resolution=8, augment=Augment())
    assert next(loader.epoch(0)).images.shape == (64, 3, 8, 8)
    loader.close()
    save_file(effnet.build(baseline, 10, seed=0).state_dict(), "weights.safetensors")
    assert effnet.load("weights.safetensors", baseline)(torch.zeros(1, 3, 8, 8)).shape == (1, 10)
    with pytest.raises(DataError, match=r"none: no such file or directory"):
        effnet.load("none", baseline)
