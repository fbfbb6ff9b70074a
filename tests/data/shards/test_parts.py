"""Datasets that several machines write: the same bytes as one writes, wherever they come together."""

from __future__ import annotations

from pathlib import Path

import pytest

from effnet.config import DataConfig
from effnet.data.images import intake as policy
from effnet.data.shards import parts as parts_module
from effnet.data.shards.manifest import load_manifest
from effnet.data.shards.part import Part
from effnet.data.shards.parts import gather, is_written, split_work, write_part
from effnet.data.shards.verification import verify
from effnet.data.shards.write import write_shards
from effnet.errors import ConfigError, DataError
from effnet.storage import open_folder
from tests.data.photographs import encode, photograph
from tests.storage.test_remote import config, place

__all__ = ["config", "place"]


def part(data: DataConfig, number: int, to: str | None = None) -> Part:
    return split_work(data, Path("nowhere"), Path(), 3, to)[number]


def all_written(data: DataConfig, datasets: Path) -> bool:
    return not split_work(data, datasets, Path(), 3, None)


def files(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob(pattern)}


def test_parts_in_a_shared_store_are_what_one_machine_writes(config: DataConfig, tmp_path: Path) -> None:
    alone, _ = write_shards(config, tmp_path / "alone")
    datasets = tmp_path / "shared"
    assert not all_written(config, datasets)
    assert not is_written(part(config, 0), datasets)
    assert sum(write_part(part(config, number), datasets) for number in range(3)) == len(alone.shards)
    assert all(is_written(part(config, number), datasets) for number in range(3))
    written = {path: path.stat().st_mtime_ns for path in datasets.glob(".tmp-*/*.tar")}
    assert len(written) == len(alone.shards)
    manifest, _ = write_shards(config, datasets)
    folder = datasets / manifest.digest
    assert files(folder) == files(tmp_path / "alone" / alone.digest)
    assert sorted(written.values()) == sorted(path.stat().st_mtime_ns for path in folder.glob("*.tar"))  # not again
    assert all_written(config, datasets)


def test_parts_of_machines_that_share_nothing_come_together_at_a_place(
    config: DataConfig, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, _ = write_shards(config, tmp_path / "alone")
    for number in (0, 1):
        write_part(part(config, number, place), tmp_path / f"machine{number}")
    with pytest.raises((ConfigError, DataError), match=r"part\.json"):  # a shard that nobody has written
        gather(config, tmp_path / "flow", Path(), place, 1 << 30)
    write_part(part(config, 2, place), tmp_path / "machine2")
    assert not list(tmp_path.glob("machine*/.tmp-*/*.tar"))  # no disk is taken by what was sent

    def no_writing(*_: object) -> None:
        raise AssertionError("a shard was written twice")

    with monkeypatch.context() as patch:
        patch.setattr(parts_module, "write_or_find", no_writing)
        write_part(part(config, 1, place), tmp_path / "another")  # what is at the place is not written again
    manifest = gather(config, tmp_path / "flow", Path(), place, 1 << 30)
    assert manifest == alone
    assert all_written(config, tmp_path / "flow")
    (location,) = {file.name.split("/")[1] for file in open_folder(place).list("parts/")}
    assert verify(f"{place}/parts/{location}") == []
    assert load_manifest(tmp_path / "flow" / manifest.digest) == alone
    assert gather(config, tmp_path / "again", Path(), place, 1 << 30) == alone


def test_bad_images_of_all_parts_are_counted(config: DataConfig, place: str, tmp_path: Path) -> None:
    for name in ("0.jpg", "1.jpg"):
        next((tmp_path / "images").rglob(name)).write_bytes(b"no image")
    for number in range(3):
        write_part(part(config, number, place), tmp_path / f"machine{number}")
    with pytest.raises(DataError, match=r"2 bad files of 60, data.images.max_bad allows 0"):
        gather(config, tmp_path / "flow", Path(), place, 1 << 30)


def test_what_machines_lacked_a_reader_for_is_written_anew(
    config: DataConfig, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    next((tmp_path / "images").rglob("0.jpg")).write_bytes(encode(photograph(40), "heif"))
    with monkeypatch.context() as lacking:
        lacking.setattr(policy, "_heif_opener", lambda: False)
        for number in range(3):
            write_part(part(config, number, place), tmp_path / "machine")
        with pytest.raises(DataError, match="HEIC needs an extra"):
            gather(config, tmp_path / "flow", Path(), place, 1 << 30)
    for number in range(3):
        again = part(config, number, place)
        assert not is_written(again, tmp_path)
        write_part(again, tmp_path / "machine")
    assert gather(config, tmp_path / "flow", Path(), place, 1 << 30).num_samples == 60


def test_images_that_changed_meanwhile_are_told(config: DataConfig, place: str, tmp_path: Path) -> None:
    before = part(config, 0, place)
    next((tmp_path / "images").rglob("0.jpg")).unlink()
    assert part(config, 0, place) != before  # so another job is ordered, not the one that was done
    with pytest.raises(DataError, match="the images have changed since the work was split"):
        write_part(before, tmp_path / "machine")
