"""What the doctor says of the disk that a family wants."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest

from effnet.arch.scaling import PAPER
from effnet.config import load_baseline, load_config
from effnet.data.shards.write import write_shards
from effnet.family import plan_members
from tasks.servers import doctor
from tasks.servers.doctor import examine
from tests.tiny import CONFIG, write_tiny

Usage = namedtuple("Usage", "total used free")
IMAGENET = "{kind: imagenet, train: a.tar, val: b.tar, devkit: c.tar.gz}"


def wanted(config: Path, store: Path, monkeypatch: pytest.MonkeyPatch, free: float) -> doctor.Finding:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: Usage(1, 1, int(free)))
    return next(found for found in examine(str(store), config=config) if found.check == "disk wanted")


def test_a_disk_that_is_too_small_for_a_family_is_told_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_tiny(tmp_path, CONFIG.replace("{kind: digits, image_size: 8}", IMAGENET))
    found = wanted(config, tmp_path / "store", monkeypatch, 100e9)
    assert found.level == "warning"
    assert "dataset 155 GB" in found.found
    assert found.advice.startswith("make room for 54.7 GB more")
    assert wanted(config, tmp_path / "store", monkeypatch, 155e9).level == "ok"


def test_a_dataset_that_is_there_is_wanted_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny(tmp_path)
    config = load_config(path)
    before = wanted(path, tmp_path / "store", monkeypatch, 1e9).found
    assert "the dataset's size is not known before it is written" in before
    write_shards(config.data, tmp_path / "store" / "datasets")
    found = wanted(path, tmp_path / "store", monkeypatch, 1e9)
    members = plan_members(load_baseline(config, tmp_path), config, PAPER, 10)
    bytes_ = sum(member.params for member in members) * (3 * 16 + 4)
    assert found.level == "ok"
    assert found.found == f"checkpoints {doctor.gigabytes(bytes_)}; 1.00 GB free"
    assert wanted(path, tmp_path / "store", monkeypatch, bytes_ - 1).level == "warning"


def test_fetched_shards_are_wanted_where_trainings_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = "compute: {work_pool: gpus, exchange: /mnt/exchange, cache_gb: 40}\n"
    path = write_tiny(tmp_path, CONFIG.replace("{kind: digits, image_size: 8}", IMAGENET) + pool)
    found = wanted(path, tmp_path / "store", monkeypatch, 156e9)
    assert found.level == "ok"
    assert "; each machine that trains wants 40.0 GB for fetched shards; 156 GB free" in found.found
