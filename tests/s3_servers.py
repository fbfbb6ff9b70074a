"""S3 servers for tests: moto in this process for the many small cases, radosgw for the ones that need a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import rgw as rgw_server
from tests.rgw import Rgw

MOTO = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket on moto, and the environment that leads there."""
    yield from use(MOTO | {"AWS_ENDPOINT_URL": moto_url}, monkeypatch)


@pytest.fixture(scope="session")
def rgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rgw]:
    if reason := rgw_server.unpack():
        pytest.skip(f"NO REAL S3 SERVER: {reason}")
    server = Rgw(tmp_path_factory.mktemp("rgw"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def owner(rgw: Rgw) -> dict[str, str]:
    return rgw.user("owner")


@pytest.fixture
def real_bucket(owner: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket on radosgw, and the environment that leads there."""
    yield from use(owner, monkeypatch)


def use(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import boto3

    from effnet.storage import s3

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3.forget_client()
    client = boto3.session.Session().client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"])
    name = f"bucket-{Path('/proc/sys/kernel/random/uuid').read_text().strip()[:12]}"
    client.create_bucket(Bucket=name)
    yield name
    s3.forget_client()
