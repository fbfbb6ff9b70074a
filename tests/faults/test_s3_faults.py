"""Objects through a misbehaving network: nothing lost, nothing changed, nothing half to be seen, bounded time."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from effnet.errors import EffnetError
from effnet.storage import open_folder, s3
from tests.faults.counts import show, wanted
from tests.faults.proxy import FaultProxy

REQUESTS = wanted(30, 600)  # spoiled ones, at least


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
