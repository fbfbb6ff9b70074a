"""Sources that are not what they say: one line each, at once, and no more memory than what is there needs."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from effnet.config import DataConfig
from effnet.data.sources import open_source
from effnet.errors import EffnetError
from tests.data.photographs import encode, photograph

PATTERNS = {
    "more names than anybody has": ("x-{000000000..999999999}.tar", "its braces name more than"),
    "a range below zero": ("x-{-999999999..999999999}.tar", "its braces name more than"),
    "many alternatives": ("x-" + "{a,b}" * 40 + ".tar", "no such file|its braces name more than"),
    "a number of 5,000 digits": (f"x-{{0..{'9' * 5000}}}.tar", "its braces name more than"),
    "a brace that does not close": ("x-{1..3.tar", "its braces do not close"),
    "a name of 5,000 letters": ("t" * 5000, "file name too long|no such file"),
    "a zero byte": ("t\0x", "a zero byte"),
    "a pipe": ("pipe", "a pipe"),
    "a pipe by braces": ("pip{e,e}", "a pipe"),
    "a pipe by a star": ("pip*", "a pipe"),
    "a device": ("/dev/zero", "a device"),
}


def open_(source: dict[str, Any], folder: Path) -> None:
    config = DataConfig.parse({"source": source}, "config")
    open_source(config.source, folder, folder / "scratch").entries()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
@pytest.mark.parametrize("what", PATTERNS)
def test_patterns_that_name_no_files(kind: str, what: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    pattern, told = PATTERNS[what]
    with pytest.raises(EffnetError, match=f"(?i){told}") as caught:
        open_({"kind": kind, "train": pattern}, tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_names_that_are_not_utf8(kind: str, tmp_path: Path) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/t\xff.tar")).write_bytes(b"")
    with pytest.raises(EffnetError, match="its name is not UTF-8; rename it"):
        open_({"kind": kind, "train": "*.tar"}, tmp_path)


def test_a_folder_among_shards(tmp_path: Path) -> None:
    (tmp_path / "t.tar").mkdir()
    with pytest.raises(EffnetError, match="a folder, a pipe or a device, where a file is expected"):
        open_({"kind": "webdataset", "train": "t*"}, tmp_path)


@pytest.mark.timeout(60)
def test_folders_that_are_none_or_have_no_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for train in ("pipe", "t" * 5000):
        with pytest.raises(EffnetError, match=r"not a folder|too long"):
            open_({"kind": "folder", "train": train}, tmp_path)
    deep = tmp_path / "photos/cat"
    deep.mkdir(parents=True)
    descriptor = os.open(deep, os.O_RDONLY)
    for _ in range(150):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    with pytest.raises(EffnetError, match="more than 100 nested folders"):
        open_({"kind": "folder", "train": "photos"}, tmp_path)


def test_metadata_without_end(tmp_path: Path) -> None:
    table = pa.table({"image": [encode(photograph(8))], "label": [0]})
    table = table.replace_schema_metadata({b"huggingface": b"[" * 100_000})
    pq.write_table(table, tmp_path / "t.parquet")
    open_({"kind": "parquet", "train": "t.parquet"}, tmp_path)  # it only lacks the classes' names


def idx(magic: int, *shape: int, body: bytes) -> bytes:
    return struct.pack(f">{len(shape) + 1}I", magic, *shape) + body


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "broken inside": (
        lambda: gzip.compress(os.urandom(10_000))[:200] + b"\xff" * 5000,
        "broken or cut short|not an IDX",
    ),
    "thousands of times its size": (
        lambda: gzip.compress(idx(0x0803, 1, 2, 2, body=bytes(30_000_000))),
        "more bytes of data, but its header says 1 x 2 x 2",
    ),
    "no images": (lambda: gzip.compress(idx(0x0803, 0, 8, 8, body=b"")), "no images in it|labels"),
    "images without a side": (lambda: gzip.compress(idx(0x0803, 1, 0, 8, body=b"")), "images without pixels"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", BROKEN)
def test_idx_files_that_are_broken_or_packed_without_end(what: str, tmp_path: Path) -> None:
    make, told = BROKEN[what]
    for prefix in ("train", "t10k"):
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(make())
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(0x0801, 1, body=b"\0")))
    with pytest.raises(EffnetError, match=told):
        open_({"kind": "idx", "folder": "."}, tmp_path)


@pytest.mark.timeout(60)
def test_a_development_kit_that_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "t.tar").write_bytes(b"x" * 2048)
    source = {"kind": "imagenet", "train": "t.tar", "val": "t.tar", "check_md5": False}
    for devkit, told in (("pipe", "where a file is expected"), ("t.tar", "not the development kit")):
        with pytest.raises(EffnetError, match=told) as caught:
            open_({**source, "devkit": devkit}, tmp_path)
        assert len(str(caught.value).splitlines()) == 1
