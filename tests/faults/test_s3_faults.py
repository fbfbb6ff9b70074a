"""Objects through a misbehaving network: nothing lost, nothing changed, nothing half to be seen, bounded time."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from effnet.config import DataConfig, DigitsSource, PoolCompute
from effnet.data.shards.verification import verify
from effnet.data.shards.write import write_shards
from effnet.errors import EffnetError
from effnet.runs import RunFolder, RunSpec, read_journal
from effnet.storage import open_folder, s3
from effnet.store import Store
from tests.faults.counts import show, wanted
from tests.faults.proxy import FaultProxy
from tests.operations.pools import Workers, wait_until
from tests.operations.test_pool import POOL, Watched, aws, longer, spec, train, trained_here, weights
from tests.rgw import Rgw
from tests.tiny import store_beside

__all__ = ["spec"]

REQUESTS = wanted(30, 600)  # spoiled ones, at least


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("server", ["bucket", "real_bucket"])
def test_objects_arrive_whole(
    server: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = request.getfixturevalue(server)
    monkeypatch.setattr(s3, "READ_SECONDS", 2)
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)
    clean = os.environ["AWS_ENDPOINT_URL"]
    proxy = FaultProxy(clean, seed=7, share=0.2)
    outcomes: Counter[str] = Counter()
    pick = random.Random(3)
    try:
        number = 0
        while sum(proxy.fired.values()) < REQUESTS:
            number += 1
            data = pick.randbytes(pick.choice((0, 100, 200_000, 11 << 20)))
            (tmp_path / "file").write_bytes(data)
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            s3.forget_client()
            folder, start = open_folder(f"s3://{bucket}/p"), time.monotonic()
            try:
                if number % 2:
                    folder.upload(tmp_path / "file", f"x{number}")
                else:
                    folder.put(f"x{number}", data)
                folder.fetch(f"x{number}", tmp_path / "back")
                assert (tmp_path / "back").read_bytes() == data
                assert folder.read(f"x{number}") == data
                outcomes["whole"] += 1
            except EffnetError as error:
                assert "\n" not in str(error)
                outcomes["told"] += 1
            assert time.monotonic() - start < 120
            assert sorted(path.name for path in tmp_path.iterdir()) in (["back", "file"], ["file"])
            monkeypatch.setenv("AWS_ENDPOINT_URL", clean)
            s3.forget_client()
            sizes = {file.name: file.size for file in open_folder(f"s3://{bucket}/p").list()}
            assert sizes.get(f"x{number}", len(data)) == len(data)
    finally:
        proxy.stop()
    show(f"S3 requests spoiled ({server})", proxy.fired, outcomes)
    assert outcomes["told"] <= 0.02 * number  # eight tries at one in five: hardly ever


@contextmanager
def crashing(rgw: Rgw, fired: Counter[str], name: str, pause: Callable[[], float]) -> Iterator[None]:
    """Kill the S3 server again and again while the block runs, each time for some seconds; it is back afterwards."""
    over = threading.Event()
    source = random.Random(name)

    def crash() -> None:
        while not over.wait(pause()):
            rgw.kill_gateway()
            fired[name] += 1
            over.wait(source.uniform(0.2, 6))
            rgw.start_gateway()

    thread = threading.Thread(target=crash)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_dataset_arrives_whatever_becomes_of_the_server(rgw: Rgw, real_bucket: str, tmp_path: Path) -> None:
    """X2, while images are sharded."""
    data = DataConfig(source=DigitsSource(image_size=64), shard_samples=60)
    alone, _ = write_shards(data, tmp_path / "alone")
    fired: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    source = random.Random(1)
    number = 0
    while sum(fired.values()) < wanted(3, 25):
        number += 1
        place = f"s3://{real_bucket}/set{number}"
        with crashing(rgw, fired, "killed while sharding", lambda: source.uniform(0.1, 2)):
            for _ in range(20):
                try:
                    manifest, _ = write_shards(data, tmp_path / str(number), to=place)
                    break
                except EffnetError as error:
                    assert "\n" not in str(error)
                    outcomes["told, and gone on with"] += 1
        assert manifest == alone
        assert verify(place) == []
        outcomes["the same dataset"] += 1
    show("S3 server killed", fired, outcomes)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_training_ends_the_same_whatever_becomes_of_the_server(
    rgw: Rgw,
    real_bucket: str,
    deployed: str,
    workers: Workers,
    spec: RunSpec,
    dataset_store: Store,
    tmp_path: Path,
) -> None:
    """X2, while a job of a work pool trains."""
    workers.environment = aws()
    workers.start(POOL, "one")
    fired: Counter[str] = Counter()
    source = random.Random(2)
    whole = longer(spec, 30, seed=20)
    wanted_weights = trained_here(whole, dataset_store, tmp_path / "here")
    number = 0
    while sum(fired.values()) < wanted(1, 25):
        number += 1
        own = store_beside(dataset_store, tmp_path / f"store{number}")
        watched = Watched(deployed, own, PoolCompute(work_pool=POOL, exchange=f"s3://{real_bucket}/x{number}"))
        (order,) = train(own, whole)
        folder = RunFolder(own.runs / order.runs[0])
        thread = threading.Thread(target=watched.run, args=(order,))
        thread.start()
        wait_until(folder.metrics_path.exists, 120)
        with crashing(rgw, fired, "killed while training", lambda: source.uniform(2, 6)):
            while thread.is_alive():
                thread.join(1)
        assert watched.done == ["t0"], watched.warned
        assert weights(own, order) == wanted_weights
        assert [line["epoch"] for line in read_journal(folder.metrics_path)[0]] == list(range(1, 31))
    show("S3 server killed under jobs", fired, {"trainings ended the same to the bit": number})
