"""Damaged shards, hostile archives, bad images, full disks: each is told, none gets by."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from effnet.config import Augment, DataConfig, FolderSource, ImagePolicy
from effnet.data.images.intake import BadImage, prepare
from effnet.data.loader import Loader
from effnet.data.shards import write as shards
from effnet.data.shards.verification import verify
from effnet.data.shards.write import write_shards
from effnet.data.tar import writer as tar
from effnet.data.tar.reader import walk
from effnet.errors import DataError
from tests.data.photographs import KEPT, REENCODED, encode, odd_images, photograph
from tests.faults.counts import show, wanted
from tests.tiny import CONFIG, clean_environment, run_effnet, write_tiny


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = tmp_path_factory.mktemp("images")
    for number in range(40):
        path = folder / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(photograph(16).rotate(number * 9), quality=70))
    return DataConfig(source=FolderSource(kind="folder", train=str(folder)), minival=0.1, val=0.1, shard_samples=40)


@pytest.fixture(scope="module")
def dataset(config: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    datasets = tmp_path_factory.mktemp("datasets")
    return datasets / write_shards(config, datasets)[0].digest


def damages(data: bytes, pick: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield one shard spoiled in every way, at random places."""
    at, other = pick.randrange(len(data)), pick.randrange(len(data) // 512) * 512
    yield "flipped bit", data[:at] + bytes([data[at] ^ 1 << pick.randrange(8)]) + data[at + 1 :]
    yield "cut", data[:at]
    yield "cut at a block", data[:other]
    yield "block of zeros", data[:other] + bytes(512) + data[other + 512 :]
    yield "block missing", data[:other] + data[other + 512 :]
    yield "block twice", data[: other + 512] + data[other:]
    yield "bytes appended", data + pick.randbytes(pick.randrange(1, 2000))
    swap = pick.randrange(len(data) // 512) * 512
    low, high = sorted((other, swap))
    yield (
        "blocks swapped",
        data[:low] + data[high : high + 512] + data[low + 512 : high] + data[low : low + 512] + data[high + 512 :],
    )


def test_no_damaged_shard_gets_by(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / dataset.name
    shutil.copytree(dataset, copy)
    shard = copy / "train-00000.tar"
    sound, pick = shard.read_bytes(), random.Random(0)
    reader = Loader(dataset, "train", batch_size=32, resolution=16, augment=Augment(), train=True)
    (clean,) = list(reader.epoch(0))
    fired: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    while sum(fired.values()) < wanted(300, 5000):
        for kind, data in damages(sound, pick):
            if data == sound:
                continue
            fired[kind] += 1
            shard.write_bytes(data)
            problems = verify(copy)
            assert problems, kind
            assert all("train-00000.tar" in line and "\n" not in line for line in problems)
            outcomes["verify told"] += 1
            loader = Loader(copy, "train", batch_size=32, resolution=16, augment=Augment(), train=True)
            try:
                (batch,) = list(loader.epoch(0))
                assert (batch.images == clean.images).all(), kind  # the damage is outside of the images
                outcomes["training read sound images"] += 1
            except DataError:
                outcomes["training stopped"] += 1
            finally:
                loader.close()
    show("damaged shards", fired, outcomes)


def hostile(pick: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield archives that want to be extracted somewhere else, or to be taken for something that they are not."""
    deep = "../" * pick.randrange(1, 9) + "evil"
    for name in (deep, "a/" + deep, "/" + deep.replace("../", "x/"), f"a\n{pick.random()}", "a\x7fb", "a/../" + deep):
        yield "name", archive(name)
        yield "PAX name", archive("a", pax={"path": name})
    for kind in (
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        b"S",
        b"K",
        b"Z",
    ):
        yield "no file", archive("a", kind=kind, link=deep)
    for size in (2**33, 2**63, -1, pick.randrange(10**6, 10**12)):
        yield "PAX size", archive("a", pax={"size": str(size)})
    yield "sparse", archive("a", pax={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
    yield "PAX header of megabytes", archive("a", pax={"comment": "x" * (2 << 20)})
    yield "twice", archive("a", "b", "a")
    plain = archive("a", "b")
    at = pick.randrange(512)
    yield "damaged header", plain[:at] + bytes([plain[at] ^ 1 << pick.randrange(8)]) + plain[at + 1 :]
    yield "cut", plain[: pick.randrange(len(plain) - 10240 + 2048)]
    yield "compressed", b"\x1f\x8b\x08" + pick.randbytes(2000)
    yield "noise", pick.randbytes(pick.randrange(1, 5000))


def archive(*names: str, kind: bytes = tarfile.REGTYPE, link: str = "", pax: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as out:
        for name in names:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size, info.pax_headers = kind, link, 100, pax or {}
            out.addfile(info, io.BytesIO(bytes(100)))
    return buffer.getvalue()


def test_no_hostile_archive_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.parent.rglob("*"))
    fired: Counter[str] = Counter()
    pick = random.Random(0)
    while sum(fired.values()) < wanted(60, 600):
        for kind, data in hostile(pick):
            fired[kind] += 1
            try:
                found = list(walk(lambda offset, length, data=data: data[offset : offset + length], "here"))
                pytest.fail(f"{kind}: {found}")
            except DataError as error:
                assert str(error).startswith("here: byte "), kind
                assert "\n" not in str(error), kind
    assert sorted(tmp_path.parent.rglob("*")) == before
    show("hostile archives", fired, {"refused": sum(fired.values())})


def test_every_odd_image_is_treated_by_the_policy() -> None:
    fired: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    seed = 100
    while sum(fired.values()) < wanted(72, 600):
        seed += 1
        for kind, data, verdict in odd_images(np.random.default_rng(seed)):
            fired[kind] += 1
            try:
                actions = prepare(data, ImagePolicy(decode=True)).actions
                assert verdict == (KEPT if actions == ("kept",) else REENCODED), kind
            except BadImage as error:
                assert verdict == "refused", f"{kind}: {error}"
            outcomes[verdict] += 1
    show("odd images", fired, outcomes)


@pytest.mark.slow
def test_a_full_disk_at_any_write_leaves_nothing_half(config: DataConfig, tmp_path: Path) -> None:
    """The k-th write to the disk fails, for every k; then there is space again, and the same dataset comes of it."""
    calls = {
        "writev": (tar.os, "writev"),
        "fsync": (shards.os, "fsync"),
        "replace": (os, "replace"),
        "rename": (os, "rename"),
    }
    config = config.model_copy(update={"shard_samples": 8})
    sound = write_shards(config, tmp_path / "sound")[0]
    fired: Counter[str] = Counter()
    for name, (module, function) in calls.items():
        k = 0
        while True:
            k += 1
            left = [k]
            real = getattr(module, function)

            def full(*arguments: object, left: list[int] = left, real=real, **options: object) -> object:
                left[0] -= 1
                if left[0] == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(*arguments, **options)

            datasets = tmp_path / f"{name}-{k}"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, function, full)
                try:
                    write_shards(config, datasets, workers=1)
                except DataError as error:
                    assert "no space left on device" in str(error)
            if left[0] > 0:
                break  # there is no k-th call
            fired[name] += 1
            for folder in datasets.glob("[!.]*/"):  # what can be seen is whole
                assert not (folder / "manifest.json").exists() or verify(folder) == []
            manifest, _ = write_shards(config, datasets, workers=1)
            assert manifest.digest == sound.digest
            assert verify(datasets / manifest.digest) == []
            shutil.rmtree(datasets)
    assert min(fired.values()) > 0
    show("writes that failed", fired, {"named, and gone on to the same dataset": sum(fired.values())})


def test_killed_writer_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """kill -9 of `effnet shard`, several times in one dataset."""
    config = CONFIG.replace("shard_samples: 400", "shard_samples: 16")
    assert config != CONFIG
    path = write_tiny(tmp_path, config)
    fired: Counter[str] = Counter()
    parts = 0
    for _ in range(wanted(3, 12)):
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "shard", path], cwd=tmp_path, env=clean_environment()
        )
        goal = parts + 10
        while process.poll() is None and parts < goal:
            parts = len(list((tmp_path / "store" / "datasets").glob(".tmp-*/*.part.json")))
        assert process.poll() is None, "it was done before it could be killed"
        process.kill()
        process.wait()
        fired["kill -9"] += 1
        assert not list((tmp_path / "store" / "datasets").glob("*/manifest.json"))
    done = run_effnet("shard", path, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = Path(json.loads(done.stdout)["folder"])
    whole = run_effnet("shard", path, "--store", "other", "--json", cwd=tmp_path)
    other = Path(json.loads(whole.stdout)["folder"])
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {p.name: p.read_bytes() for p in other.iterdir()}
    show("killed writers", fired, {"same bytes in the end": 1})
