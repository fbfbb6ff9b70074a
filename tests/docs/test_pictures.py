"""README's sample output and all pictures are of one and the same run of the demo."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from docs.pictures import BUILD, HELD_OUT, IMAGES, README, SAMPLE, sample
from effnet.family import FamilyResult
from tasks.terminal.screen import duration, short
from tests.docs.printed import ROOT
from tests.docs.promises import documents

SHOWN = re.findall(r"docs/images/(\w+\.png)", README.read_text())


@pytest.fixture(scope="module")
def result() -> FamilyResult:
    return FamilyResult.model_validate_json((IMAGES / "demo.json").read_text())


@pytest.fixture(scope="module")
def printed() -> str:
    (found,) = SAMPLE.findall(README.read_text())
    return str(found)


def test_the_samples_table_has_the_runs_figures(result: FamilyResult, printed: str) -> None:
    rows = [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines() if re.match(r" B\d  ", line)]
    assert rows == [
        [
            *(each.name, f"{each.phi:g}", str(each.resolution), short(each.params), short(each.macs)),
            *(f"{each.top1:.1%}", f"{each.top5:.1%}", f"{each.latency_ms:.1f} ms", duration(each.seconds)),
        ]
        for each in result.members
    ]


def test_the_samples_lines_have_the_runs_figures(result: FamilyResult, printed: str) -> None:
    assert f"dataset {result.dataset}: " in printed
    assert f"val {result.val_samples:,} images" in printed
    assert f"evaluated on {result.val_samples:,} held-out images" in printed
    alpha, beta, gamma = (result.coefficients[name] for name in ("alpha", "beta", "gamma"))
    assert f"coefficients α {alpha:g}, β {beta:g}, γ {gamma:g} chosen" in printed
    (told,) = HELD_OUT.findall(README.read_text())
    assert told == f"{result.val_samples:,}"


@pytest.mark.parametrize("name", SHOWN)
def test_pictures_are_of_that_run(result: FamilyResult, name: str) -> None:
    assert Image.open(IMAGES / name).text[BUILD] == result.key  # type: ignore[attr-defined]


def test_every_picture_is_shown_somewhere() -> None:
    text = "".join((ROOT / document).read_text() for document in documents())
    assert [path.name for path in IMAGES.glob("*.png") if f"images/{path.name}" not in text] == []


def test_most_trainings_are_left_out_of_the_sample() -> None:
    lines = [
        " 0:01  dataset 12",
        " 0:02  B0: 1",
        " 0:03  B1 seed 1: 2",
        " 0:31  train members: 20% 1:00",
        " 0:04  B6: 3",
    ]
    assert sample(lines, ["  φ"]) == " 0:01  dataset 12\n ...\n 0:04  B6: 3\n\n  φ\n"


def test_size_pays_in_the_demo(result: FamilyResult, printed: str) -> None:
    assert result.growth is not None
    assert result.answer is not None
    assert result.growth.pays
    assert all(len(member.seeds) == 2 for member in result.members)
    assert f"{result.growth.told}." in printed
    assert f"Use {result.answer.member}: {result.answer.because}." in printed
