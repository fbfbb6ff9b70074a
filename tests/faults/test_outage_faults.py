"""S3 away for a while, in every way in which a link can be cut: waited for, told once, the same bytes afterwards."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from effnet import outage
from effnet.config import DataConfig, DatasetSource, DigitsSource
from effnet.data.shards.manifest import Manifest
from effnet.data.shards.verification import verify
from effnet.data.shards.write import write_shards
from effnet.errors import AwayError
from effnet.exchange import Exchange
from effnet.runs import RunFolder, RunSpec
from effnet.storage import open_folder, s3
from effnet.store import Store, sha256_file
from tasks.compute import outage as patience
from tasks.compute.outage import Patience
from tests.faults.counts import FULL, show, wanted
from tests.faults.proxy import Link
from tests.tiny import child_of, clean_environment

# A minute and ten minutes, in tenths, as all other times here are; at the small count hardly anything.
SHORT, LONG = (6.0, 60.0) if FULL else (2.0, 2.0)
DATA = DataConfig(source=DigitsSource(image_size=32), shard_samples=100)


@pytest.fixture
def link(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    """A line to the S3 server that can be cut; silence is noticed after a second, and told at once."""
    assert bucket
    link = Link(os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", link.url)
    for name in ("CONNECT_SECONDS", "READ_SECONDS", "BRIEF_SECONDS"):
        monkeypatch.setattr(s3, name, 1)
    monkeypatch.setattr(outage, "TELL_SECONDS", 0.5)
    monkeypatch.setattr(patience, "POLL_SECONDS", 0.1)
    s3.forget_client()
    yield link
    link.stop()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said of the S3 server."""
    lines: list[str] = []
    monkeypatch.setattr(s3, "_outage", outage.Outage("S3 server", lines.append))
    return lines


@contextmanager
def cut(link: Link, way: str, seconds: float, after: float = 0.0) -> Iterator[None]:
    """Have the link cut for a while, from some moment on in which the block runs."""

    def act() -> None:
        time.sleep(after)
        link.cut(way)
        time.sleep(seconds)
        link.mend()

    thread = threading.Thread(target=act)
    thread.start()
    if not after:
        time.sleep(0.05)
    try:
        yield
    finally:
        thread.join()


@pytest.mark.slow
@pytest.mark.timeout(5000 if FULL else 400)
def test_the_same_bytes_whatever_becomes_of_the_link(
    bucket: str, link: Link, told: list[str], tmp_path: Path, run_folder: RunFolder, store: Store
) -> None:
    """While images are sharded, while shards are fetched, and while the exchange sends: n of n."""
    alone, _ = write_shards(DATA, tmp_path / "alone")
    open_folder(f"s3://{bucket}").list()  # who never heard from a server does not wait: the address may be wrong
    shard = alone.shards[0].name
    wants = sha256_file(tmp_path / "alone" / alone.digest / shard)
    checkpoint = run_folder.checkpoints / "step-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "MANIFEST.json").write_text("{}")
    (checkpoint / "state.pt").write_bytes(os.urandom(3 << 20))
    fired: Counter[str] = Counter()
    source = random.Random(4)
    for number in range(wanted(4, 30)):
        way, seconds = Link.WAYS[number % 4], LONG if number % 10 == 9 else SHORT
        place = f"s3://{bucket}/{number}"
        told.clear()

        lost = link.lost
        with cut(link, way, seconds, after=source.uniform(0.05, 0.4)):
            manifest, _ = write_shards(DATA, tmp_path / "alone", to=place)
        assert manifest == alone
        assert verify(place) == []
        fired[f"{way}, while sharding"] += link.lost > lost

        lost = link.lost
        folder = open_folder(place, known=True)
        with cut(link, way, seconds):
            folder.fetch(shard, tmp_path / "shard")
        assert sha256_file(tmp_path / "shard") == wants
        fired[f"{way}, while fetching"] += link.lost > lost

        lost = link.lost
        lines: list[str] = []
        with cut(link, way, seconds):
            Patience("exchange", lines.append)(lambda: Exchange(place, store).push(run_folder))  # noqa: B023
        sent = open_folder(f"{place}/checkpoints/{run_folder.key}").read("step-1/state.pt")
        assert sent == (checkpoint / "state.pt").read_bytes()
        fired[f"{way}, while sending"] += link.lost > lost

        said = [line.split(" for ")[0].split(" after ")[0] for line in lines]
        assert said in ([], ["exchange: away", "exchange: back"]), lines  # none of one that was over before
        assert [line.split(" for ")[0].split(" after ")[0] for line in told[-2:]] == [
            "S3 server: away",
            "S3 server: back",
        ], told
    show("S3 links cut", fired, {"the same bytes": number + 1})


def test_who_waited_in_vain_says_start_me_again(
    bucket: str, link: Link, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that there is no dataset, or that the configuration is bad."""
    write_shards(DATA, tmp_path / "here", to=f"s3://{bucket}/set")
    monkeypatch.setenv(outage.SETTING, "2")
    link.cut("silent")
    elsewhere = DataConfig(source=DatasetSource(kind="dataset", location=f"s3://{bucket}/set"))
    started = time.monotonic()
    with pytest.raises(
        AwayError, match=r"set/manifest\.json: the S3 server is away for 2 s .*; start it again"
    ) as caught:
        write_shards(elsewhere, tmp_path / "there")
    assert caught.value.exit_code == 75
    assert 2 < time.monotonic() - started < 20
    assert len(told) == 1
    with pytest.raises(AwayError):
        verify(f"s3://{bucket}/set")


def test_who_has_other_things_to_do_does_not_wait(bucket: str, link: Link) -> None:
    lines: list[str] = []
    patient = Patience("exchange", lines.append)
    folder = open_folder(f"s3://{bucket}/x")
    patient(lambda: folder.put("a", b"1"))
    link.cut("down")
    started = time.monotonic()
    for _ in range(50):
        patient.once(lambda: folder.put("a", b"2"))
    assert time.monotonic() - started < 15  # of these only the first one tried
    assert len(lines) == 1


def test_setting_that_is_no_number_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from effnet.errors import ConfigError

    monkeypatch.setenv(outage.SETTING, "an hour")
    with pytest.raises(ConfigError, match="EFFNET_OUTAGE_SECONDS=an hour: write a number of seconds"):
        outage.outage_seconds()


def mirrored(bucket: str, spec: RunSpec, manifest: Manifest, dataset_store: Store, root: Path) -> RunFolder:
    """Return a run in a store of its own, whose dataset lies on S3."""
    from effnet.data.shards.write import publish_dataset

    publish_dataset(dataset_store.datasets / manifest.digest, manifest, f"s3://{bucket}/tiny")
    store = Store(root)
    write_shards(DataConfig(source=DatasetSource(kind="dataset", location=f"s3://{bucket}/tiny")), store.datasets)
    return RunFolder.create(store, spec)


@pytest.mark.slow
def test_training_in_an_outage_goes_on_to_the_bit_and_stops_when_asked(
    bucket: str, link: Link, run_folder: RunFolder, manifest: Manifest, dataset_store: Store, tmp_path: Path
) -> None:
    spec = run_folder.spec()
    spec = spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"epochs": 1})})
    here, there = (
        RunFolder.create(run_folder.store, spec),
        mirrored(bucket, spec, manifest, dataset_store, tmp_path / "m"),
    )
    environment = clean_environment() | {"OMP_NUM_THREADS": "1"}

    def start(folder: RunFolder) -> subprocess.Popen[str]:
        return subprocess.Popen(child_of(folder), env=environment, stderr=subprocess.PIPE, text=True)

    link.cut("refused")
    process = start(there)
    assert process.stderr
    assert any(line.startswith("warning: S3 server: away for") for line in process.stderr)  # reads until it comes
    started = time.monotonic()
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert time.monotonic() - started < 15
    assert process.returncode == 75
    assert told.strip().endswith("stopped at step 0, while it waited for data; nothing is lost")

    process = start(there)
    assert process.stderr
    assert any(line.startswith("warning: S3 server: away for") for line in process.stderr)  # reads until it comes
    link.mend()
    _, told = process.communicate(timeout=200)
    assert process.returncode == 0, told
    assert "warning: S3 server: back after" in told
    assert start(here).wait(200) == 0
    assert sha256_file(there.weights_path) == sha256_file(here.weights_path)
