"""Datasets on S3: published while they are written, mirrored, verified, trained from; sources on S3."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from effnet.config import Augment, DataConfig, DatasetSource, FolderSource
from effnet.data.loader import Loader
from effnet.data.shards.manifest import MANIFEST, Manifest
from effnet.data.shards.verification import verify
from effnet.data.shards.write import write_shards
from effnet.errors import DataError
from effnet.storage import open_folder
from tests.data.photographs import encode, photograph


@pytest.fixture(params=["local", "moto", "radosgw"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "shared")
    return f"s3://{request.getfixturevalue('bucket' if request.param == 'moto' else 'real_bucket')}/sets/photos"


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    for number in range(60):
        path = tmp_path / "images" / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(photograph(24).rotate(number * 6), quality=85))
    return DataConfig(
        source=FolderSource(kind="folder", train=str(tmp_path / "images")), minival=0.1, val=0.2, shard_samples=6
    )


def mirrored(place: str, datasets: Path, cache_bytes: int = 1 << 30) -> Manifest:
    source = DatasetSource(kind="dataset", location=place, cache_bytes=cache_bytes)
    return write_shards(DataConfig(source=source), datasets)[0]


def epoch(folder: Path, **options: int) -> tuple[list[np.ndarray], torch.Tensor]:
    loader = Loader(folder, "train", batch_size=6, resolution=16, augment=Augment(), train=True, **options)
    try:
        batches = list(loader.epoch(0))
    finally:
        loader.close()
    return [batch.samples for batch in batches], torch.cat([batch.images for batch in batches])


def test_published_mirrored_and_read_as_if_it_lay_here(place: str, config: DataConfig, tmp_path: Path) -> None:
    manifest, _ = write_shards(config, tmp_path / "here", to=place)
    here = tmp_path / "here" / manifest.digest
    names = [file.name for file in open_folder(place).list()]
    assert names == sorted(path.name for path in here.iterdir())
    assert verify(place) == []
    assert mirrored(place, tmp_path / "there") == manifest
    there = tmp_path / "there" / manifest.digest
    assert not list(there.glob("*.tar"))
    for options in ({}, {"shuffle_shards": 2, "threads": 3}):
        samples, images = epoch(here, **options)
        far_samples, far_images = epoch(there, **options)
        assert all(np.array_equal(one, other) for one, other in zip(samples, far_samples, strict=True))
        assert torch.equal(images, far_images)
    shards = -(-manifest.samples["train"] // config.shard_samples)  # rounded up: the last one may be short
    assert len(list(there.glob("train-*.tar"))) == shards


def test_publishing_again_uploads_nothing_and_another_dataset_is_refused(
    place: str, config: DataConfig, tmp_path: Path
) -> None:
    write_shards(config, tmp_path / "one", to=place)
    before = open_folder(place).list()
    write_shards(config, tmp_path / "two", to=place)
    assert [file.name for file in open_folder(place).list()] == [file.name for file in before]
    with pytest.raises(DataError, match="holds another dataset"):
        write_shards(config.model_copy(update={"seed": 5}), tmp_path / "one", to=place)
    assert verify(place) == []  # what is refused does no harm
    open_folder(place).delete(["train-00000.tar"])
    write_shards(config, tmp_path / "two", to=place)
    assert verify(place) == []


def test_interrupted_publishing_goes_on(place: str, config: DataConfig, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(config, tmp_path / "one", stop, to=place)
    there = [file.name for file in open_folder(place).list()]
    assert MANIFEST not in there  # no manifest: not a dataset
    done = [name for name in there if name.startswith(".")]
    manifest, _ = write_shards(config, tmp_path / "one", to=place)
    assert verify(place) == []
    assert done or place.startswith("/")
    assert not [file.name for file in open_folder(place).list() if file.name.startswith(".")]
    assert len(open_folder(place).list()) == 2 * len(manifest.shards) + 2


def test_a_small_cache_makes_room_and_loses_nothing(place: str, config: DataConfig, tmp_path: Path) -> None:
    manifest, _ = write_shards(config, tmp_path / "here", to=place)
    size = max(shard.bytes for shard in manifest.shards)
    mirrored(place, tmp_path / "there", max(1 << 20, 3 * size))
    folder = tmp_path / "there" / manifest.digest
    origin = folder / "origin.json"
    origin.write_text(origin.read_text().replace(str(max(1 << 20, 3 * size)), str(3 * size)))
    (folder / ".tmp-train-00000.tar-0badc0de").write_bytes(bytes(size))  # of a process that was killed
    samples, images = epoch(folder, shuffle_shards=1, threads=2)
    wanted_samples, wanted_images = epoch(tmp_path / "here" / manifest.digest, shuffle_shards=1)
    assert all(np.array_equal(one, other) for one, other in zip(samples, wanted_samples, strict=True))
    assert torch.equal(images, wanted_images)
    assert sum(path.stat().st_size for path in folder.glob("*.tar")) <= 3 * size
    assert not list(folder.glob(".tmp-*"))


def test_wrong_bytes_elsewhere_are_not_trained_on(place: str, config: DataConfig, tmp_path: Path) -> None:
    manifest, _ = write_shards(config, tmp_path / "here", to=place)
    mirrored(place, tmp_path / "there")
    folder, name = open_folder(place), manifest.shards[0].name
    data = bytearray(folder.read(name))
    data[4 * 512] ^= 1  # in the first image: behind its label, and a header for each
    folder.put(name, bytes(data))
    with pytest.raises(DataError, match=rf"{name}: does not match its checksum in the manifest"):
        epoch(tmp_path / "there" / manifest.digest)
    problems = verify(place)
    assert len(problems) == 1
    assert f"/{name}: byte " in problems[0]
    folder.delete([name])
    assert any("no such" in problem or "missing" in problem for problem in verify(place))


def test_images_on_s3_are_a_source(bucket: str, config: DataConfig, tmp_path: Path) -> None:
    folder = open_folder(f"s3://{bucket}/raw")
    images = tmp_path / "images"
    for path in images.rglob("*.jpg"):
        folder.upload(path, f"images/{path.relative_to(images)}")
    local, _ = write_shards(config, tmp_path / "one")
    remote = config.model_copy(update={"source": FolderSource(kind="folder", train=f"s3://{bucket}/raw/images")})
    assert write_shards(remote, tmp_path / "two")[0].digest == local.digest
    assert write_shards(remote, tmp_path / "two")[1]  # found again, by the objects' tags
    shutil.rmtree(tmp_path / "two" / local.digest)
    assert not write_shards(remote, tmp_path / "two")[1]
