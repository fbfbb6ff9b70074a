"""Shards: the same bytes every time, whole or not there, and plain WebDataset."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from PIL import Image

from effnet.config import DataConfig, DigitsSource, FamilyConfig, FolderSource
from effnet.data.shards import write as shards
from effnet.data.shards.manifest import Manifest, load_manifest
from effnet.data.shards.verification import verify
from effnet.data.shards.write import source_key, write_shards
from effnet.data.sources import open_source
from effnet.errors import BusyError, DataError
from effnet.store import Store, hold
from tests.tiny import MINIVAL, TRAIN, VAL


def key(config: DataConfig) -> str:
    return source_key(config, open_source(config.source, Path(), Path()))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_image_is_in_exactly_one_split(dataset_store: Store, manifest: Manifest) -> None:
    table = pq.read_table(dataset_store.datasets / manifest.digest / "index.parquet").to_pylist()
    keys = [row["key"] for row in table]
    assert len(keys) == len(set(keys)) == manifest.num_samples == 1797
    for split in ("train", "minival", "val"):
        rows = [row for row in table if row["split"] == split]
        assert len(rows) == manifest.samples[split]
        assert {row["label"] for row in rows} == set(range(10))  # each class gives its share
    assert manifest.samples == {"train": TRAIN, "minival": MINIVAL, "val": VAL}


def test_webdataset_reads_the_shards_and_finds_the_same_samples(dataset_store: Store, manifest: Manifest) -> None:
    folder = dataset_store.datasets / manifest.digest
    table = {row["key"]: row for row in pq.read_table(folder / "index.parquet").to_pylist()}
    urls = [str(folder / shard.name) for shard in manifest.shards]
    seen = 0
    for sample in wds.WebDataset(urls, shardshuffle=False):
        row = table[sample["__key__"]]
        assert int(sample["cls"]) == row["label"]
        assert Image.open(io.BytesIO(sample["png"])).size == (row["width"], row["height"]) == (8, 8)
        seen += 1
    assert seen == 1797


def test_index_points_at_the_images_bytes(dataset_store: Store, manifest: Manifest) -> None:
    folder = dataset_store.datasets / manifest.digest
    row = pq.read_table(folder / "index.parquet").to_pylist()[1000]
    with (folder / row["shard"]).open("rb") as file:
        file.seek(row["offset"])
        data = file.read(row["length"])
    with tarfile.open(folder / row["shard"]) as tar:
        member = tar.extractfile(f"{row['key']}.png")
        assert member is not None
        assert member.read() == data


def test_the_images_are_scikit_learns(dataset_store: Store, manifest: Manifest) -> None:
    from sklearn.datasets import load_digits

    folder = dataset_store.datasets / manifest.digest
    row = next(row for row in pq.read_table(folder / "index.parquet").to_pylist() if row["key"] == "digit-0042")
    data = (folder / row["shard"]).read_bytes()[row["offset"] : row["offset"] + row["length"]]
    digits = load_digits()
    assert row["label"] == digits.target[42]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.round(digits.images[42] * 255 / 16))


def test_same_settings_give_the_same_bytes(
    tmp_path: Path, config: FamilyConfig, dataset_store: Store, manifest: Manifest
) -> None:
    again, reused = write_shards(config.data, tmp_path)
    assert not reused
    assert contents(tmp_path / again.digest) == contents(dataset_store.datasets / manifest.digest)


def test_other_settings_give_another_digest(config: FamilyConfig) -> None:
    changed = [
        {"seed": 1},
        {"val": 0.3},
        {"shard_samples": 100},
        {"source": DigitsSource(image_size=9)},
    ]
    assert len({key(config.data.model_copy(update=change)) for change in [{}, *changed]}) == 5


def test_interrupted_write_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, config: FamilyConfig, dataset_store: Store, manifest: Manifest
) -> None:
    calls = []

    def stop_at_third(done: int, _total: int) -> None:
        calls.append(done)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(config.data, tmp_path, stop_at_third, workers=1)
    assert load_manifest(tmp_path / manifest.digest) is None

    partial = tmp_path / f".tmp-{key(config.data)}"
    first, second = manifest.shards[:2]
    stamp = (partial / first.name).stat().st_mtime_ns
    (partial / second.name).write_bytes(b"torn")  # as a crash without a flush may leave it
    write_shards(config.data, tmp_path)
    assert contents(tmp_path / manifest.digest) == contents(dataset_store.datasets / manifest.digest)
    assert (tmp_path / manifest.digest / first.name).stat().st_mtime_ns == stamp  # not written again


def test_second_writer_is_told(tmp_path: Path, config: FamilyConfig) -> None:
    with (
        hold(tmp_path / ".sources" / f"{key(config.data)}.lock", "x"),
        pytest.raises(BusyError, match="another process"),
    ):
        write_shards(config.data, tmp_path)


@pytest.fixture
def copy(tmp_path: Path, dataset_store: Store, manifest: Manifest) -> Path:
    shutil.copytree(dataset_store.datasets / manifest.digest, tmp_path / manifest.digest)
    return tmp_path / manifest.digest


def test_verify_names_every_damage(copy: Path) -> None:
    assert verify(copy) == []
    flip(copy / "train-00000.tar", 700)
    os.unlink(copy / "val-00000.tar")
    (copy / "stranger").write_bytes(b"")
    problems = verify(copy)
    assert len(problems) == 3
    assert any("train-00000.tar: does not match its checksum" in line for line in problems)
    assert any("val-00000.tar: missing" in line for line in problems)
    assert any("stranger: not part of the dataset" in line for line in problems)


def test_broken_manifest_is_told(copy: Path) -> None:
    data = json.loads((copy / "manifest.json").read_bytes())
    data["samples"] = "many"
    (copy / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"manifest\.json: samples: input should be"):
        load_manifest(copy)


def test_too_few_images_for_the_splits_are_told(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / "images" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), number).save(path)
    config = DataConfig(source=FolderSource(kind="folder", train=str(tmp_path / "images")))
    told = r"minival split is empty: a class needs 3 different images .* and the largest, 'class0', has 2"
    with pytest.raises(DataError, match=told):
        write_shards(config, tmp_path / "d")
    assert not list(tmp_path.glob("d/*/manifest.json"))


def test_the_smallest_share_still_takes_an_image_of_each_class(tmp_path: Path) -> None:
    config = DataConfig(source=DigitsSource(image_size=8), minival=0.001, val=0.001)
    manifest, _ = write_shards(config, tmp_path)
    rows = pq.read_table(tmp_path / manifest.digest / "index.parquet").to_pylist()
    assert {(row["split"], row["label"]) for row in rows} == {
        (split, label) for split in ("train", "minival", "val") for label in range(10)
    }


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_the_same_content_by_another_version_of_the_index_stays_sound(
    tmp_path: Path, config: FamilyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, _ = write_shards(config.data, tmp_path)
    shutil.rmtree(tmp_path / ".sources")  # as after the source was touched: it is written anew
    real = pq.write_table
    monkeypatch.setattr(pq, "write_table", lambda *args, **options: real(*args, **options | {"compression": "gzip"}))
    again, _ = write_shards(config.data, tmp_path)
    assert again.digest == manifest.digest
    assert again.index_sha256 != manifest.index_sha256
    assert verify(tmp_path / again.digest) == []


def test_who_waited_for_another_writer_still_copies_the_dataset(
    tmp_path: Path, config: FamilyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, _ = write_shards(config.data, tmp_path / "here")
    first = iter([None])  # not there at the first look, and then, at the lock, it is
    monkeypatch.setattr(shards, "_found", lambda *_: next(first, manifest))
    assert write_shards(config.data, tmp_path / "here", to=str(tmp_path / "there")) == (manifest, True)
    assert verify(tmp_path / "there") == []
