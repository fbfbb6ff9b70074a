"""The loader: an order that is a pure function, and damage that is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effnet.config import Augment
from effnet.data.images.decode import center_box, resize_into
from effnet.data.loader import Loader
from effnet.data.pixel_cache import DecodedCache
from effnet.data.shards.index import Index
from effnet.data.shards.manifest import Manifest
from effnet.errors import DataError
from effnet.store import Store
from tests.data.photographs import photograph
from tests.tiny import TRAIN, VAL

AUGMENT = Augment(crop_area=(0.5, 1.0), flip=True, crop_padding=0)


def make(folder: Path, split: str = "train", **options: object) -> Loader:
    settings = {"batch_size": 100, "resolution": 8, "augment": AUGMENT, "train": split == "train"} | options
    return Loader(folder, split, **settings)  # type: ignore[arg-type]


@pytest.fixture
def folder(dataset_store: Store, manifest: Manifest) -> Path:
    return dataset_store.datasets / manifest.digest


def test_each_epoch_has_every_sample_at_most_once_in_another_order(folder: Path) -> None:
    loader = make(folder)
    first, second = (np.concatenate([batch.samples for batch in loader.epoch(epoch)]) for epoch in (0, 1))
    assert len(first) == len(set(first)) == 1000  # 1,062 images in whole batches of 100
    assert not np.array_equal(first, second)


def test_start_in_the_middle_gives_the_same_batches(folder: Path) -> None:
    whole = list(make(folder).epoch(2))
    rest = list(make(folder).epoch(2, start_step=7))
    assert len(rest) == 3
    for one, other in zip(whole[7:], rest, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_ranks_share_each_step_and_change_no_pixel(folder: Path) -> None:
    alone = list(make(folder).epoch(0))
    ranks = [list(make(folder, rank=rank, world=3).epoch(0)) for rank in range(3)]
    for step, batch in enumerate(alone):
        for rank in range(3):
            share = ranks[rank][step]
            assert np.array_equal(share.samples, batch.samples[rank::3])
            assert torch.equal(share.images, batch.images[rank::3])


def test_evaluation_sees_every_sample_once_in_order(folder: Path) -> None:
    samples = np.concatenate([batch.samples for batch in make(folder, "val").epoch(0)])
    assert np.array_equal(samples, np.arange(VAL))


def test_evaluation_without_padding_at_full_size_is_the_image_itself(folder: Path) -> None:
    batch = next(make(folder, "val").epoch(0))
    assert batch.images.shape == (100, 3, 8, 8)
    assert batch.images.dtype == torch.uint8
    assert batch.images[:, 0].equal(batch.images[:, 2])  # grey
    assert int(batch.images.max()) == 255


def test_seed_decides_order_and_augmentation(folder: Path) -> None:
    one, same, other = (next(make(folder, seed=seed).epoch(0)) for seed in (1, 1, 2))
    assert torch.equal(one.images, same.images)
    assert not np.array_equal(one.samples, other.samples)


def test_flipped_bit_in_a_shard_is_named_and_not_trained_on(tmp_path: Path, folder: Path) -> None:
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    loader = make(copy)
    shard = copy / loader.index.shard_names[loader.index.shards[5]]
    data = bytearray(shard.read_bytes())
    data[int(loader.index.offsets[5]) + 20] ^= 1
    shard.write_bytes(data)
    with pytest.raises(
        DataError, match=rf"{shard.name}: image '{loader.index.keys[5].as_py()}': does not match its checksum"
    ):
        for _ in loader.epoch(0):
            pass


def test_missing_shard_and_index_are_named(tmp_path: Path, folder: Path) -> None:
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    (copy / "minival-00000.tar").unlink()
    with pytest.raises(DataError, match=r"minival-00000\.tar: no such file"):
        next(make(copy, "minival").epoch(0))
    (copy / "index.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(DataError, match="not a readable index"):
        make(copy)


def test_batch_larger_than_the_split_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"lower recipe\.batch_size"):
        make(folder, batch_size=2000)


def test_threads_and_cache_change_no_pixel(tmp_path: Path, folder: Path) -> None:
    wanted = list(make(folder).epoch(1))
    cached = make(folder, threads=3, cache=tmp_path / "cache")
    for _ in range(2):  # filled by the first, used by the second
        for one, other in zip(wanted, cached.epoch(1), strict=True):
            assert torch.equal(one.images, other.images)
    (file,) = (tmp_path / "cache").iterdir()
    data = np.memmap(file, np.uint8, "r+")
    data[TRAIN:] = 0  # the pixels, behind one mark per image
    black = next(make(folder, cache=tmp_path / "cache").epoch(1))
    assert int(black.images.max()) == 0  # so it was the cache that answered


def test_cache_that_is_too_large_or_stale_is_not_used(tmp_path: Path, folder: Path) -> None:
    index = Index.read(folder / "index.parquet", "train")
    assert DecodedCache.open(tmp_path, "x-train", index, max_bytes=1000) is None
    stale = tmp_path / "x-train-00000000.pixels"
    stale.write_bytes(b"of another boot")
    assert DecodedCache.open(tmp_path, "x-train", index) is not None
    assert not stale.exists()


def test_shuffled_by_windows_of_shards(folder: Path) -> None:
    loader = make(folder, batch_size=10, shuffle_shards=1)
    order = loader.order(0)[:]
    assert sorted(order.tolist()) == list(range(TRAIN))
    shards = loader.index.shards[order]
    assert len(set(shards[: (shards == shards[0]).sum()].tolist())) == 1  # one shard after the other
    assert not np.array_equal(order, loader.order(1)[:])
    assert not np.array_equal(order[: len(order) // 3], np.sort(order[: len(order) // 3]))  # mixed inside


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("side", [40, 24, 90])
def test_resizing_is_bicubic_as_pillows(side: int, flip: bool) -> None:
    image = photograph(60)
    pixels = np.asarray(image)
    out = torch.empty(side, side, 3, dtype=torch.uint8)
    resize_into(out, pixels[3:57, 5:71].copy(), flip=flip)
    wanted = np.asarray(image.crop((5, 3, 71, 57)).resize((side, side), Image.Resampling.BICUBIC))
    wanted = wanted[:, ::-1] if flip else wanted
    assert np.abs(out.numpy().astype(int) - wanted).max() <= 1


def test_inference_mode_reads_the_same(folder: Path) -> None:
    with torch.inference_mode():
        inside = list(make(folder, "val").epoch(0))
    for one, other in zip(inside, make(folder, "val").epoch(0), strict=True):
        assert torch.equal(one.images, other.images)


def test_the_central_crop_leaves_a_seventh_away_below_224_pixels() -> None:
    assert center_box(256, 256, 224, None).width == 224  # as the official code at B0
    assert center_box(632, 700, 600, None).width == 600  # and at B7
    assert center_box(37, 37, 32, None).width == 32  # 32 pixels of padding would leave 18 of 37
    assert center_box(640, 640, 320, 32) == center_box(640, 640, 320, None)
    assert Augment().crop_padding is None
