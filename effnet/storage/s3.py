"""A prefix of an S3 bucket, through boto3. Credentials, region and endpoint come from boto3's usual places.

boto3 retries once what fails before an answer, but does not resume a body that breaks off or stalls in the middle. So
reads here are ranges, retried on the same version of the object. A server that is away is waited for (effnet.outage).
Every object goes up with a checksum that the server verifies, and carries its own (CRC32), which is verified when it is
read whole.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import random
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from effnet.errors import AwayError, ConfigError, DataError
from effnet.files import reason
from effnet.machine import raise_if_broken
from effnet.outage import Outage, duration, outage_seconds, waits
from effnet.process import stopping, warn
from effnet.storage import File
from effnet.store import new_file

PART_BYTES = 16 << 20  # of one request
PARALLEL = 8  # requests at a time for one file
ATTEMPTS = 8  # of one request whose answers are not what was asked for
BRIEF_SECONDS = 10.0  # even an impatient caller waits this long for a server that is away
UNKNOWN_SECONDS = 0.1  # anyone waits only this long for one that never answered: the address may be wrong
CONNECT_SECONDS, READ_SECONDS = 5, 10  # a connection that is silent for this long is cut
_CRC = "effnet-crc32"  # the object's own checksum, in its metadata

_T = TypeVar("_T")

_ADVICE = {
    "NoSuchBucket": "there is no such bucket",
    "AccessDenied": "access denied; the credentials lack this right",
    "InvalidAccessKeyId": "the server does not know this access key; check the credentials",
    "SignatureDoesNotMatch": "the secret key is wrong; check the credentials",
    "ExpiredToken": "the credentials have expired; get new ones",
    "403": "access denied; the credentials are wrong or lack this right",
    "301": "the bucket is in another region; set AWS_REGION",
    "PermanentRedirect": "the bucket is in another region; set AWS_REGION",
}
_MISSING = ("NoSuchKey", "404", "NotFound")
_TAKEN = ("PreconditionFailed", "412")
_CHANGED = "ConditionalRequestConflict"
_LOCAL = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ESTALE, errno.ENAMETOOLONG),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE),
}


_BUCKET = re.compile(r"[A-Za-z0-9._-]{3,255}|arn:[A-Za-z0-9:/_-]+")


class S3Folder:
    """See effnet.storage.Folder."""

    def __init__(self, url: str, known: bool = False) -> None:
        self._known = known
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket:
            raise ConfigError(f"{url}: no bucket in it; write s3://bucket/prefix")
        if not _BUCKET.fullmatch(bucket):  # not repeated: it may be a key and its secret
            raise ConfigError("s3://…: no name of a bucket; write s3://bucket/prefix; keys belong into AWS's variables")
        self._bucket, self._prefix = bucket, prefix.strip("/") + "/" if prefix.strip("/") else ""

    @property
    def url(self) -> str:
        """Return s3://bucket/prefix."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def list(self, prefix: str = "") -> list[File]:
        """Return the objects whose names begin with `prefix`."""

        def run() -> list[File]:
            pages = (
                _client().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix + prefix)
            )
            return sorted(
                File(row["Key"][len(self._prefix) :], row["Size"], row["ETag"].strip('"'))
                for page in pages
                for row in _whole(page, "Name").get("Contents", ())
            )

        return self._patient(run, self.url)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return an object's bytes; whole objects are checked against the checksum they were uploaded with."""
        if length == 0:
            return b""
        ends = "" if length is None else offset + length - 1
        asked = {} if length is None and not offset else {"Range": f"bytes={offset}-{ends}"}

        def run() -> bytes:
            answer = _client().get_object(Bucket=self._bucket, Key=self._prefix + name, **asked)
            _whole(answer, "ContentRange" if asked else "ETag")
            data: bytes = answer["Body"].read()
            if len(data) != answer["ContentLength"] or (length is not None and len(data) != length):
                raise _BrokenBodyError(f"received {len(data)} bytes")
            if not asked:
                _check_crc(zlib.crc32(data), answer["Metadata"])
            return data

        return self._patient(run, f"{self.url}/{name}")

    def put(self, name: str, data: bytes) -> None:
        """Write an object in one request."""
        self._patient(functools.partial(self._put, name, data), f"{self.url}/{name}")

    def create(self, name: str, data: bytes) -> bool:
        """Write an object if the name is free. Servers that ignore the condition are asked first, which is not safe.

        (Two writers may then both be told that they made it; `conditional` says which kind a server is.)
        """
        if not self.conditional and self._exists(name):
            return False
        answer = self._patient(functools.partial(self._put, name, data, IfNoneMatch="*"), f"{self.url}/{name}")
        return answer is not _REFUSED

    @functools.cached_property
    def conditional(self) -> bool:
        """Say whether the server honours If-None-Match, by writing one name twice."""
        name = f".probe-{random.getrandbits(64):016x}"  # a name that nobody else has
        try:
            self._patient(functools.partial(self._put, name, b""), self.url)
            return self._patient(lambda: self._put(name, b"", IfNoneMatch="*"), self.url) is _REFUSED
        finally:
            self.delete([name])

    def upload(self, path: Path, name: str) -> None:
        """Copy a local file here, in parallel parts, each with a checksum; only the whole object is ever seen."""
        from boto3.exceptions import S3UploadFailedError
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(
            multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=PARALLEL
        )

        def run() -> None:
            crc = _crc_file(path)
            try:
                _client().upload_file(
                    str(path),
                    self._bucket,
                    self._prefix + name,
                    ExtraArgs={"Metadata": {_CRC: f"{crc:08x}"}},
                    Config=config,
                )
            except S3UploadFailedError as error:
                raise error.__context__ or error from error
            head = self._head(name)
            if head["ContentLength"] != path.stat().st_size or head["Metadata"].get(_CRC) != f"{crc:08x}":
                raise _BrokenBodyError("what was stored is not what was sent")

        self._patient(run, f"{self.url}/{name}")

    def fetch(self, name: str, target: Path) -> None:
        """Copy an object to a local path: parallel ranges of one version, checked, then renamed."""
        where = f"{self.url}/{name}"
        for attempt in range(ATTEMPTS):
            try:
                with new_file(target) as temporary:
                    head = self._patient(lambda: self._head(name), where)
                    self._fetch_parts(name, head, temporary, where)
                    _check_crc(_crc_file(temporary), head["Metadata"])
                return
            except _BrokenBodyError as error:  # flipped on the way, or replaced by a new version
                if attempt == ATTEMPTS - 1:
                    raise DataError(f"{where}: did not arrive intact in {ATTEMPTS} attempts ({error})") from error
                _pause(attempt)

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects, one request each: not every server has the batched one."""
        for name in names:
            run = functools.partial(_delete, self._bucket, self._prefix + name)
            self._patient(run, self.url)

    def _patient(self, run: Callable[[], _T], where: str) -> _T:
        return _patient(run, where, known=self._known, patient=waits())

    def _put(self, name: str, data: bytes, **conditions: str) -> Any:
        from botocore.exceptions import ClientError

        try:
            answer = _client().put_object(
                Bucket=self._bucket,
                Key=self._prefix + name,
                Body=data,
                Metadata={_CRC: f"{zlib.crc32(data):08x}"},
                **conditions,
            )
            return _whole(answer, "ETag")
        except ClientError as error:
            if conditions and _code(error) in _TAKEN:
                return _REFUSED
            raise

    def _head(self, name: str) -> dict[str, Any]:
        answer = _client().head_object(Bucket=self._bucket, Key=self._prefix + name)
        return _whole(_whole(answer, "ETag"), "ContentLength")

    def _exists(self, name: str) -> bool:
        return any(file.name == name for file in self.list(name))

    def _fetch_parts(self, name: str, head: dict[str, Any], temporary: Path, where: str) -> None:
        size = head["ContentLength"]
        given_up = threading.Event()
        with temporary.open("wb") as file:
            file.truncate(size)

            def part(start: int) -> None:
                if given_up.is_set():  # a part that began now would wait for the server all over again
                    return
                length = min(PART_BYTES, size - start)

                def run() -> None:
                    answer = _client().get_object(
                        Bucket=self._bucket,
                        Key=self._prefix + name,
                        Range=f"bytes={start}-{start + length - 1}",
                        IfMatch=head["ETag"],
                    )
                    data = _whole(answer, "ContentRange")["Body"].read()
                    if len(data) != length:
                        raise _BrokenBodyError(f"received {len(data)} of {length} bytes")
                    os.pwrite(file.fileno(), data, start)

                try:
                    self._patient(run, where)
                except BaseException:
                    given_up.set()
                    raise

            with ThreadPoolExecutor(PARALLEL) as pool:
                parts = [
                    pool.submit(copy_context().run, part, start)  # the context says whether to wait
                    for start in range(0, size, PART_BYTES)
                ]
                for done in parts:
                    done.result()


class _BrokenBodyError(Exception):
    """An answer whose bytes are not the object's."""


_REFUSED = object()  # the name was taken


def _patient(run: Callable[[], _T], where: str, *, known: bool = False, patient: bool = True) -> _T:
    """Run a request, retrying while the server fails; raise our own errors, in one line each.

    Args:
        run: the request.
        where: what it is about, for people.
        known: the address is right, since others have used it.
        patient: wait for a server that is away.
    """
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectTimeoutError,
        EndpointConnectionError,
        HTTPClientError,
        NoCredentialsError,
        PartialCredentialsError,
    )
    from urllib3.exceptions import HTTPError

    since: float | None = None  # when the first failed try began
    broken = 0
    for attempt in itertools.count():
        asked = time.monotonic()
        try:
            answer = run()
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise ConfigError(
                f"{where}: no credentials for S3; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        except (ClientError, HTTPClientError, HTTPError, BotoCoreError, OSError, _BrokenBodyError) as error:
            last: Exception = error
            _judge(error, where)
        else:
            _heard.set()
            _outage.answered()
            return answer
        since = since or asked
        broken += isinstance(last, _BrokenBodyError)
        _note(since, last, patient)
        if not (_heard.is_set() or known) and isinstance(last, EndpointConnectionError | ConnectTimeoutError):
            if time.monotonic() - since > UNKNOWN_SECONDS:
                raise AwayError(
                    f"{where}: the S3 server does not answer; check the network and AWS_ENDPOINT_URL"
                ) from last
        elif broken >= ATTEMPTS:
            raise AwayError(
                f"{where}: the S3 server gave {ATTEMPTS} broken answers ({_short(last)}); try again later"
            ) from last
        elif time.monotonic() - since > (limit := outage_seconds() if patient and not stopping() else BRIEF_SECONDS):
            raise AwayError(
                f"{where}: the S3 server is away for {duration(limit)} ({_short(last)}); start it again when it is back"
            ) from last
        _pause(attempt)
    raise AssertionError("unreachable")


def _is_local(error: Exception) -> TypeGuard[OSError]:
    """Say whether it is a local file that failed (vanished, unreadable, its disk full): no server can cure that."""
    network = (ConnectionError, TimeoutError, socket.gaierror, socket.herror, ssl.SSLError)
    return isinstance(error, OSError) and not isinstance(error, network) and error.errno in _LOCAL


def _delete(bucket: str, key: str) -> None:
    _client().delete_object(Bucket=bucket, Key=key)


def _note(since: float, error: Exception, patient: bool) -> None:
    if patient:  # else the caller waits and reports
        _outage.failed(since, _short(error))


def _whole(answer: dict[str, Any], field: str) -> dict[str, Any]:
    """Return an answer if it has what every real one has; some servers and proxies send errors with status 200."""
    if field not in answer:
        raise _BrokenBodyError(f"an answer without {field}")
    return answer


def _judge(error: Exception, where: str) -> None:
    """Raise the errors that no retry can cure."""
    from botocore.exceptions import ClientError, ParamValidationError

    if _is_local(error):
        raise_if_broken(error)  # a disk that fails is no bad data
        raise DataError(f"{error.filename or where}: {reason(error)}") from error
    if isinstance(error, ParamValidationError):
        raise ConfigError(f"{where}: no name of a bucket or an object") from error
    if not isinstance(error, ClientError):
        return
    code = _code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    if status < 500:
        _heard.set()
        _outage.answered()
    if code in _MISSING:
        raise DataError(f"{where}: no such object") from error
    if code in _TAKEN:  # the version that was being read is gone
        raise _BrokenBodyError("it was replaced meanwhile") from error
    if code in _ADVICE:
        raise ConfigError(f"{where}: {_ADVICE[code]}") from error
    passing = status in (408, 409, 429) or code in (_CHANGED, "RequestTimeout", "BadDigest")
    if (400 <= status < 500 or status == 501) and not passing:  # 501: the server cannot do this
        raise ConfigError(f"{where}: the S3 server refuses the request ({_short(error)})") from error


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _short(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return text if len(text) < 160 else text[:157] + "..."


def _pause(attempt: int) -> None:
    time.sleep(min(4.0, 0.05 * 2**attempt) * random.uniform(0.5, 1.0))


def _check_crc(crc: int, metadata: dict[str, str]) -> None:
    stated = metadata.get(_CRC)
    if stated and int(stated, 16) != crc:
        raise _BrokenBodyError("its checksum does not match")


def _crc_file(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            crc = zlib.crc32(data, crc)
    return crc


_outage = Outage("S3 server", warn)
_heard = threading.Event()  # whether the server ever answered: then it will come back
_lock = threading.Lock()
_clients: dict[int, Any] = {}


def _client() -> Any:
    """Return this process's client; a forked child makes its own."""
    process = os.getpid()
    with _lock:
        if process not in _clients:
            import boto3
            from botocore.config import Config

            config = Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"mode": "standard", "total_max_attempts": 2},
                max_pool_connections=4 * PARALLEL,
                s3={"addressing_style": "path"} if os.environ.get("AWS_ENDPOINT_URL") else None,
            )
            try:
                _clients[process] = boto3.session.Session().client("s3", config=config)
            except Exception as error:
                raise ConfigError(f"S3: {_short(error)}") from error
        return _clients[process]


def forget_client() -> None:
    """Make a new client next time, with the environment as it is then."""
    with _lock:
        _clients.clear()
        _heard.clear()
