"""Checkpoints: whole or not there; broken ones are named and passed over; no code runs from them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from effnet.errors import DataError
from effnet.store import sha256_file
from effnet.train import checkpoint

WEIGHTS = {"weight": torch.arange(6.0).reshape(2, 3)}


def save(folder: Path, step: int) -> Path:
    return checkpoint.save(folder, step, WEIGHTS, {"step": step, "tensor": torch.ones(2)})


def test_round_trip(tmp_path: Path) -> None:
    weights, state = checkpoint.load(save(tmp_path, 7))
    assert torch.equal(weights["weight"], WEIGHTS["weight"])
    assert state["step"] == 7


@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt", "MANIFEST.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_broken_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, name: str, damage: str) -> None:
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    data = bytearray((bad / name).read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 0x10
        (bad / name).write_bytes(data)
    elif damage == "cut":
        (bad / name).write_bytes(data[: len(data) // 2])
    else:
        (bad / name).unlink()
    told: list[str] = []
    assert checkpoint.newest(tmp_path, told.append) == good
    assert len(told) == 1
    assert str(bad) in told[0]
    with pytest.raises(DataError, match="not used"):
        checkpoint.load(bad)


def test_unfinished_folder_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".tmp-step-9-abc").mkdir()
    assert checkpoint.newest(tmp_path, print) is None


def test_two_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step)
    checkpoint.prune(tmp_path, best_step=2)
    assert checkpoint.steps(tmp_path) == [5, 4, 2]


class Touch:
    """What an attacker would put into a pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_forged_checkpoint_runs_no_code(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    (folder / "state.pt").write_bytes(pickle.dumps(Touch(tmp_path / "pwned")))
    sums = {name: sha256_file(folder / name) for name in ("weights.safetensors", "state.pt")}
    (folder / "MANIFEST.json").write_text(json.dumps(sums))
    with pytest.raises(DataError, match="not a checkpoint of this library"):
        checkpoint.load(folder)
    assert not (tmp_path / "pwned").exists()


def test_a_checkpoint_that_is_written_anew_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    old = save(tmp_path, 33)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        checkpoint.save(tmp_path, 33, WEIGHTS, {"broken": lambda: None}, anew=True)
    assert checkpoint.problem(old) is None
    checkpoint.save(tmp_path, 33, WEIGHTS, {"step": 34}, anew=True)
    assert checkpoint.load(old)[1]["step"] == 34
    assert [path.name for path in tmp_path.iterdir()] == ["step-33"]
