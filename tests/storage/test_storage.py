"""One behaviour over a folder, over moto and over a real S3 server."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from effnet import outage
from effnet.errors import AwayError, ConfigError, DataError, EffnetError
from effnet.storage import Folder, open_folder, s3
from effnet.storage.s3 import PART_BYTES
from tests.rgw import Rgw


@pytest.fixture(params=["local", "moto", "radosgw"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return open_folder(tmp_path / "place")
    bucket = request.getfixturevalue("bucket" if request.param == "moto" else "real_bucket")
    return open_folder(f"s3://{bucket}/some/prefix")


def test_files_come_back_as_they_went(folder: Folder, tmp_path: Path) -> None:
    data = os.urandom(2 * PART_BYTES + 12345)
    (tmp_path / "file").write_bytes(data)
    folder.upload(tmp_path / "file", "a/large")
    folder.put("small", b"0123456789")
    folder.put("empty", b"")
    assert [(file.name, file.size) for file in folder.list()] == [("a/large", len(data)), ("empty", 0), ("small", 10)]
    assert [file.name for file in folder.list("a/")] == ["a/large"]
    assert folder.read("small") == b"0123456789"
    assert folder.read("small", 3, 4) == b"3456"
    assert folder.read("small", 3) == b"3456789"
    assert folder.read("small", 3, 0) == b""
    assert folder.read("empty") == b""
    for name, wanted in (("a/large", data), ("empty", b"")):
        folder.fetch(name, tmp_path / "back" / "file")
        assert (tmp_path / "back" / "file").read_bytes() == wanted
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["file"]
    folder.put("small", b"new")
    assert folder.read("small") == b"new"
    folder.delete(["small", "never there"])
    assert [file.name for file in folder.list()] == ["a/large", "empty"]


def test_only_one_of_many_creates_a_name(folder: Folder) -> None:
    for attempt in range(5):
        start = threading.Barrier(16)

        def create(number: int, name: str = f"name-{attempt}", start: threading.Barrier = start) -> bool:
            start.wait()
            return folder.create(name, b"%d" % number)

        with ThreadPoolExecutor(16) as pool:
            made = list(pool.map(create, range(16)))
        assert made.count(True) == 1
        assert folder.read(f"name-{attempt}") == b"%d" % made.index(True)


def test_what_is_not_there_is_told(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such"):
        folder.read("nothing")
    with pytest.raises(DataError, match="no such"):
        folder.fetch("nothing", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_local_file_that_vanishes_or_does_not_fit_is_told_at_once_and_not_the_servers_fault(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_note", lambda *_: pytest.fail("taken for the server's failure"))
    file = tmp_path / "file"
    with pytest.raises(DataError, match=f"^{file}: no such file"):
        folder.upload(file, "a")
    if not isinstance(folder, s3.S3Folder):
        return
    checked = s3._crc_file

    def vanish(path: Path) -> int:
        crc = checked(path)
        path.unlink()
        return crc

    file.write_bytes(b"checkpoint")
    with monkeypatch.context() as patch:
        patch.setattr(s3, "_crc_file", vanish)
        with pytest.raises(DataError, match=f"^{file}: no such file"):
            folder.upload(file, "a")
    folder.put("b", b"0123456789")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(s3.os, "pwrite", full)
    with pytest.raises(DataError, match=f"^{folder.url}/b: no space left"):
        folder.fetch("b", tmp_path / "back")


def test_a_server_without_conditions_is_noticed(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = s3.S3Folder(f"s3://{bucket}/p")
    assert folder.conditional
    put = s3.S3Folder._put
    monkeypatch.setattr(s3.S3Folder, "_put", lambda self, name, data, **_: put(self, name, data))
    other = s3.S3Folder(f"s3://{bucket}/q")
    assert not other.conditional
    assert other.create("x", b"1")
    assert not other.create("x", b"2")
    assert other.read("x") == b"1"
    assert [file.name for file in other.list()] == ["x"]  # the probe is gone


def test_location_without_a_bucket_is_told() -> None:
    with pytest.raises(ConfigError, match="no bucket in it"):
        open_folder("s3://")


def seconds_to_tell(call, told: str, kind: type[EffnetError] = ConfigError) -> float:
    start = time.monotonic()
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert told in message
    assert "\n" not in message
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in message
    return time.monotonic() - start


def test_wrong_rights_are_told_at_once(rgw: Rgw, real_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder(f"s3://{real_bucket}/p")
    folder.put("x", b"1")
    assert seconds_to_tell(lambda: open_folder("s3://no-such-bucket-here").list(), "there is no such bucket") < 5
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret[:-1] + ("a" if secret[-1] != "a" else "b"))
    s3.forget_client()
    assert seconds_to_tell(lambda: folder.read("x"), "the secret key is wrong") < 5
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NOBODY")
    s3.forget_client()
    assert seconds_to_tell(lambda: folder.read("x"), "does not know this access key") < 5
    for name, value in rgw.user(f"guest{os.getpid()}").items():
        monkeypatch.setenv(name, value)
    s3.forget_client()
    assert seconds_to_tell(lambda: folder.read("x"), "access denied") < 5
    assert seconds_to_tell(lambda: folder.put("x", b"2"), "access denied") < 5
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3.forget_client()
    assert seconds_to_tell(lambda: folder.read("x"), "does not answer", AwayError) < 15


def test_reader_of_a_bucket_policy_cannot_write(rgw: Rgw, real_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder(f"s3://{real_bucket}/p")
    folder.put("x", b"1")
    name = f"reader{os.getpid()}"
    reader = rgw.user(name)
    resources = [f"arn:aws:s3:::{real_bucket}", f"arn:aws:s3:::{real_bucket}/*"]
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam:::user/{name}"},
        "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": resources,
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    boto3.session.Session().client("s3", endpoint_url=rgw.url).put_bucket_policy(Bucket=real_bucket, Policy=policy)
    for key, value in reader.items():
        monkeypatch.setenv(key, value)
    s3.forget_client()
    assert folder.read("x") == b"1"
    assert [file.name for file in folder.list()] == ["x"]
    assert seconds_to_tell(lambda: folder.put("x", b"2"), "access denied") < 5
    assert seconds_to_tell(lambda: folder.delete(["x"]), "access denied") < 5


def test_killed_server_leaves_whole_objects_or_none(rgw: Rgw, real_bucket: str, tmp_path: Path) -> None:
    folder = open_folder(f"s3://{real_bucket}/p")
    data = os.urandom(3 * PART_BYTES)
    (tmp_path / "file").write_bytes(data)

    def crash(delay: float) -> None:
        time.sleep(delay)
        rgw.kill_gateway()
        time.sleep(0.2)
        rgw.start_gateway()

    for number, delay in enumerate((0.05, 0.15, 0.4)):
        crashing = threading.Thread(target=crash, args=(delay,))
        crashing.start()
        try:
            folder.upload(tmp_path / "file", f"file{number}")
            folder.fetch(f"file{number}", tmp_path / "back")
            assert (tmp_path / "back").read_bytes() == data
        except AwayError:
            pass  # told, then: nothing half is to be seen
        finally:
            crashing.join()
        assert {file.size for file in folder.list()} <= {len(data)}
        folder.upload(tmp_path / "file", f"file{number}")
        folder.fetch(f"file{number}", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == data


def test_listing_a_folder_passes_over_what_vanishes(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    folder.put("a/1", b"")
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            folder.put("a/b/2", b"")
            (tmp_path / "a" / "b" / "2").unlink(missing_ok=True)
            (tmp_path / "a" / "b").rmdir()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(300):
            assert "a/1" in [file.name for file in folder.list()]
    finally:
        stop.set()
        thread.join()


def test_a_file_of_many_parts_waits_once_for_a_server_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv(outage.SETTING, "1")
    monkeypatch.setattr(s3, "PART_BYTES", 1)
    s3.forget_client()
    head = {"ContentLength": 12 * s3.PARALLEL, "ETag": "any"}
    monkeypatch.setattr(s3.S3Folder, "_head", lambda *_: head)  # the server goes when the file's size is known
    start = time.monotonic()
    with pytest.raises(AwayError, match="away for 1 s"):
        open_folder("s3://bucket", known=True).fetch("large", tmp_path / "large")
    assert time.monotonic() - start < 8  # each round of parts would wait anew
    assert list(tmp_path.iterdir()) == []
