"""`effnet doctor`: whether this machine and the servers it names can do the work; each finding says what to do."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from packaging.version import Version

from effnet.errors import EffnetError
from effnet.files import gigabytes
from effnet.storage import is_remote
from effnet.store import Store, publish

# Older versions have known vulnerabilities or do not work together; the text says what each floor is for.
FLOORS = {
    "prefect": ("3.8.8", "earlier ones leave requests unauthenticated (CVE-2026-7722) and lack settings used here"),
    "mlflow": ("3.17", "earlier ones have path traversal and default passwords (CVE-2026-2614)"),
    "torch": ("2.10", "earlier ones can be made to run code by a checkpoint (CVE-2026-24747)"),
    "pillow": ("11.3", "earlier ones do not read AVIF, and overflow on forged images"),
    "boto3": ("1.40", "earlier ones lack conditional writes"),
    "safetensors": ("0.5", "earlier ones are not tested"),
}
# As in pyproject.toml: an environment beyond them was upgraded despite pip's warning.
CEILINGS = {
    "fastapi": ("0.151", "Prefect 3.8's server does not start with it"),
    "sqlalchemy": ("2.1", "Prefect 3.8's scheduler schedules nothing with it"),
}
MIN_FREE_GB = 10.0
MAX_SKEW_SECONDS = 60.0  # S3 refuses requests from clocks 15 minutes off; leases and logs suffer before
SECONDS = 5.0  # that a server may take to answer

Level = Literal["ok", "warning", "error"]


class Finding(NamedTuple):
    """What one check found."""

    check: str
    level: Level
    found: str
    advice: str = ""


def examine(store: str, gpus: int = 0, config: Path | None = None) -> Iterator[Finding]:
    """Do all checks, one after the other.

    Args:
        store: folder, or s3:// place, that is to hold datasets and runs.
        gpus: that are needed; 0: none.
        config: of a family that is to be built, whose disk is compared with what is free.

    Raises:
        ConfigError: if the config cannot be used.
    """
    yield from _versions()
    folder = Path(os.environ.get("EFFNET_SCRATCH", ".")) if is_remote(store) else Store.at(store).root
    yield from _disk(folder)
    if config:
        yield _disk_wanted(config, folder)
    if is_remote(store):
        yield _guarded("S3", lambda: _s3(store))
    yield from _prefect(folder)
    yield from _mlflow()
    yield from _gpus(gpus)


def _versions() -> Iterator[Finding]:
    if sys.version_info < (3, 11, 4):
        yield Finding("python", "warning", sys.version.split()[0], "use 3.11.4 or newer")
    else:
        yield Finding("python", "ok", sys.version.split()[0])
    for name, (floor, why) in FLOORS.items():
        yield _version(name, lambda have, floor=floor: have >= Version(floor), f"{floor} or newer", why)  # type: ignore[misc]
    for name, (ceiling, why) in CEILINGS.items():
        yield _version(name, lambda have, top=ceiling: have < Version(top), f"older than {ceiling}", why)  # type: ignore[misc]


def _version(name: str, good: Callable[[Version], bool], wanted: str, why: str) -> Finding:
    try:
        have = version(name)
    except PackageNotFoundError:
        return Finding(name, "error", "not installed", f"pip install '{name}'; {wanted} is needed")
    if good(Version(have)):
        return Finding(name, "ok", have)
    return Finding(name, "error", have, f"install {name} {wanted}: {why}")


def _disk(folder: Path) -> Iterator[Finding]:
    try:
        Store.at(folder).prepare()
        probe = folder / ".doctor"
        started = time.perf_counter()
        publish(probe, b"x" * 4096)
        seconds = time.perf_counter() - started
        whole = probe.read_bytes() == b"x" * 4096
        probe.unlink()
    except (EffnetError, OSError) as error:
        yield Finding("store", "error", str(error), "name a folder that can be written")
        return
    if whole:
        yield Finding("store", "ok", f"{folder.absolute()}: write, fsync and rename in {seconds * 1000:.1f} ms")
    else:
        yield Finding("store", "error", f"{folder}: what is read back is not what was written", "use another disk")
    free = shutil.disk_usage(folder).free / 1e9
    level: Level = "ok" if free >= MIN_FREE_GB else "warning"
    yield Finding("disk", level, f"{free:.0f} GB free", "" if level == "ok" else f"{MIN_FREE_GB:.0f} GB are advised")


def _disk_wanted(path: Path, folder: Path) -> Finding:
    """Compare what a family still wants of this disk with what is free."""
    from effnet.config import LocalCompute, load_config
    from effnet.data.shards.manifest import MANIFEST
    from effnet.data.shards.write import find_dataset
    from effnet.plan import disk_of

    config, datasets = load_config(path), Store.at(folder).datasets
    wanted = disk_of(config, path.parent, datasets)
    parts = {"checkpoints": wanted.checkpoints}
    there = None
    with suppress(EffnetError):  # a source that is not here: then neither is its dataset
        there = find_dataset(config.data, datasets, path.parent)
    if wanted.dataset and not (there and (datasets / there.digest / MANIFEST).is_file()):
        parts["dataset"] = wanted.dataset
    if wanted.cache and isinstance(config.compute, LocalCompute):  # jobs of a pool have it on their machines
        parts["fetched shards"] = wanted.cache
    free, needed = shutil.disk_usage(folder).free, sum(parts.values())
    told = ", ".join(f"{name} {gigabytes(size)}" for name, size in parts.items())
    if wanted.dataset is None and wanted.cache is None:
        told += "; the dataset's size is not known before it is written"
    elsewhere = f"; each machine that trains wants {gigabytes(wanted.cache)} for fetched shards" if wanted.cache else ""
    if "fetched shards" in parts:
        elsewhere = ""
    enough = free >= needed
    advice = "" if enough else f"make room for {gigabytes(needed - free)} more, or give another --store"
    return Finding("disk wanted", "ok" if enough else "warning", f"{told}{elsewhere}; {gigabytes(free)} free", advice)


def _s3(store: str) -> Finding:
    from effnet.storage.s3 import S3Folder

    place = S3Folder(store)
    place.list(".doctor")
    if not place.conditional:
        return Finding(
            "S3", "warning", f"{store}: ignores conditional writes", "let one writer at a time publish a dataset there"
        )
    return Finding("S3", "ok", f"{store}: lists, writes, deletes, and honours conditional writes")


def _guarded(check: str, run: Callable[[], Finding]) -> Finding:
    try:
        return run()
    except EffnetError as error:
        return Finding(check, "error", str(error), "see the message")


def _prefect(store: Path) -> Iterator[Finding]:
    from prefect.settings import get_current_settings

    from tasks.servers import local as servers

    api = get_current_settings().api
    here = [server.url for server in servers.running(store) if server.name == servers.PREFECT.name]
    if not api.url and not here:
        yield Finding("Prefect", "ok", "no server configured: one is started for every flow")
        return
    url = (api.url or f"{here[0]}/api").rstrip("/")
    login = api.auth_string.get_secret_value() if api.auth_string else ""
    if servers.is_of_store(store, url):
        login = servers.login(store)
    findings = list(_server("Prefect", f"{url}/admin/version", login, "prefect", "PREFECT_API_AUTH_STRING"))
    yield from findings
    if findings[0].level != "error":
        yield from _schedules(url, login)


def _schedules(url: str, login: str) -> Iterator[Finding]:
    from prefect.client.orchestration import get_client

    from tasks.servers.deployment import active_schedules
    from tasks.servers.prefect_setup import connected

    try:
        with connected(url, login=login), get_client(sync_client=True) as client:
            runs = active_schedules(client)
    except Exception as error:
        yield Finding("schedules", "error", f"{_bare(url)}: {error}".splitlines()[0], "see the server's log")
        return
    silent = sorted(name for name, scheduled in runs.items() if not scheduled)
    if silent:
        yield Finding(
            "schedules",
            "error",
            f"no runs are scheduled for {', '.join(silent)}",
            "a minute after `effnet deploy` there should be some: check the server's log, and whether its machine has "
            f"sqlalchemy older than {CEILINGS['sqlalchemy'][0]}",
        )
    elif runs:
        yield Finding("schedules", "ok", f"{len(runs)} active, {sum(runs.values())} runs scheduled")


def _mlflow() -> Iterator[Finding]:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith(("http://", "https://")):
        yield Finding("MLflow", "ok", "no server configured: the store's own database is used")
        return
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME", ""), os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    login = f"{user}:{password}" if user else ""
    variables = "MLFLOW_TRACKING_USERNAME and _PASSWORD"
    yield from _server("MLflow", uri.rstrip("/") + "/version", login, "mlflow", variables)
    url = uri.rstrip("/") + "/api/2.0/mlflow/experiments/search?max_results=1"  # /version needs no login
    status, told, _ = _get(url, login)
    if status != 200:
        yield Finding(
            "MLflow API", "error", f"{_bare(uri)}: {status or ''} {told}".strip(), _why(status, "MLflow", variables)
        )


def _server(name: str, url: str, login: str, package: str, variables: str) -> Iterator[Finding]:
    status, told, date = _get(url, login)
    where = _bare(url).rsplit("/", 1)[0]
    if status != 200:
        yield Finding(
            name, "error", f"{where}: {status or ''} {told}".replace("  ", " "), _why(status, name, variables)
        )
        return
    there, here = told.strip().strip('"'), version(package)
    if there == here:
        yield Finding(name, "ok", f"{where}: version {there}, as here")
    else:
        yield Finding(name, "warning", f"{where}: version {there}, {here} here", "install the same version on both")
    if login and _get(url.replace("/version", "/experiments/search"), "")[0] == 200 and package == "prefect":
        yield Finding(name, "warning", f"{where}: answers without a login", "set PREFECT_SERVER_API_AUTH_STRING there")
    if date is not None:
        skew = time.time() - date
        if abs(skew) > MAX_SKEW_SECONDS:
            yield Finding("clock", "error", f"{skew:+.0f} s against {name}", "set the clock (NTP)")
        else:
            yield Finding("clock", "ok", f"within {max(1.0, abs(skew)):.0f} s of {name}'s")


def _get(url: str, login: str) -> tuple[int | None, str, float | None]:
    """Return status, first line of the answer (or what went wrong), and the server's Unix time."""
    request = urllib.request.Request(url)  # noqa: S310 - the scheme was looked at
    if login:
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
            date = answer.headers.get("Date")
            text = answer.read(4096).decode(errors="replace")
            return answer.status, text, parsedate_to_datetime(date).timestamp() if date else None
    except urllib.error.HTTPError as error:
        return error.code, error.reason, None
    except (OSError, ValueError) as error:
        return None, str(getattr(error, "reason", error)), None


def _why(status: int | None, name: str, variables: str) -> str:
    if status in (401, 403):
        return f"set {variables}; a 403 can also come from the server's list of allowed hosts"
    return f"is the {name} server running, and is the address right?"


def _bare(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _gpus(wanted: int) -> Iterator[Finding]:
    from tasks.servers.gpus import gpus, require_gpus

    driver = _driver()
    try:
        require_gpus(wanted)
    except EffnetError as error:
        yield Finding("GPU", "error", f"{error}; driver {driver}", "match driver and torch build, or ask for no GPUs")
        return
    import torch

    found, there = torch.cuda.device_count(), gpus()
    yield Finding("GPU", "ok", f"{found} usable, driver {driver}, torch {torch.__version__}")
    for gpu in there:
        yield Finding(
            "GPU", "ok", f"{gpu}, {gpu.memory / 1e9:.1f} GB: one training at a time, unless compute.per_gpu says more"
        )
    if there and not found:
        advice = "match driver and torch build: trainings would run on the CPU"
        yield Finding("GPU", "warning", f"the driver has {len(there)}, torch sees none", advice)


def _driver() -> str:
    """Return the NVIDIA driver's version, or that there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "none"
    asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip().split("\n")[0] or "not answering"
