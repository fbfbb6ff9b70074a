"""More shards than a process may have files open: a few stay open, and no read meets another file's bytes."""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from effnet.config import Augment, DataConfig, DigitsSource
from effnet.data.loader import Loader
from effnet.data.shards.write import write_shards
from effnet.data.sources import files
from effnet.data.sources.files import Files
from effnet.errors import MachineError


@contextmanager
def at_most_open(number: int) -> Iterator[None]:
    """Let this process open files up to descriptor `number`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def lowest_free() -> int:
    """Return the descriptor that the next file gets; some above it may be in use."""
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor


@pytest.fixture
def many(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number:03}" for number in range(200)]
    for number, path in enumerate(paths):
        path.write_bytes(number.to_bytes(2, "big") * 500)
    return paths


def test_a_dataset_of_more_shards_than_files_may_be_open_is_read(tmp_path: Path) -> None:
    config = DataConfig(source=DigitsSource(image_size=8), shard_samples=6)
    manifest, _ = write_shards(config, tmp_path)
    shards = len([shard for shard in manifest.shards if shard.split == "train"])
    loader = Loader(
        tmp_path / manifest.digest, "train", batch_size=100, resolution=8, augment=Augment(), train=True, threads=3
    )
    with at_most_open(lowest_free() + 100):
        assert shards > 200
        read = sum(len(batch.samples) for batch in loader.epoch(0))
    loader.close()
    assert read == manifest.samples["train"] // 100 * 100


def test_few_stay_open_and_each_thread_reads_its_own_file(many: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_OPEN", 3)
    opened = Files(many)
    before = len(os.listdir("/proc/self/fd"))

    def read(seed: int) -> bool:
        draw = random.Random(seed)
        numbers = [draw.randrange(len(many)) for _ in range(1500)]
        return all(
            opened.read(number, 2 * draw.randrange(400), 100) == number.to_bytes(2, "big") * 50 for number in numbers
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))
    assert len(os.listdir("/proc/self/fd")) - before <= 3
    opened.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_was_read_last_stays_open(many: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_OPEN", 2)
    opened = Files(many)
    for number in (0, 1, 0, 2):
        opened.read(number, 0, 2)
    for number in (0, 2):
        many[number].unlink()
        assert opened.read(number, 0, 2) == number.to_bytes(2, "big")
    opened.close()


def test_files_that_others_opened_make_this_list_close_its_own(many: list[Path]) -> None:
    opened = Files(many)
    for number in range(20):
        opened.read(number, 0, 2)
    with at_most_open(lowest_free()):
        assert opened.read(100, 0, 2) == (100).to_bytes(2, "big")
    opened.close()


def test_too_many_open_files_are_never_told_as_broken_data(many: list[Path], tmp_path: Path) -> None:
    opened = Files(many)
    from effnet.data.shards.index import read_table
    from effnet.storage.local import LocalFolder

    (tmp_path / "index.parquet").write_bytes(b"")
    with at_most_open(3):
        for read in (
            lambda: opened.read(0, 0, 2),
            lambda: LocalFolder(tmp_path).read("000"),
            lambda: read_table(tmp_path / "index.parquet"),
        ):
            with pytest.raises(MachineError, match=r"too many files are open at once; .* may open 3 \(ulimit -n\)"):
                read()
