"""A real S3 server for tests: Ceph's radosgw from Debian's packages, unpacked into a cache folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path

import psutil

HOME = Path(os.environ.get("RGW_HOME") or Path.home() / ".cache" / "effnet-rgw")
ROOT = HOME / "root"
_PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-common")


def unpack() -> str | None:
    """Download and unpack the packages unless they are there; return why not, if they cannot be had."""
    if (HOME / "unpacked").is_file():
        return None
    if not shutil.which("apt-get"):
        return "radosgw comes from Debian's packages, and there is no apt-get here"
    debs = HOME / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True)
    flags = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]
    listing = subprocess.run(
        ["apt-cache", "depends", "--recurse", *flags, *_PACKAGES], capture_output=True, text=True, check=False
    )
    names = sorted({line for line in listing.stdout.splitlines() if line and line[0].isalnum() and ":" not in line})
    download = subprocess.run(["apt-get", "download", *names], cwd=debs, capture_output=True, text=True, check=False)
    if not list(debs.glob("radosgw_*.deb")):
        return f"radosgw cannot be downloaded: {download.stderr.strip().splitlines()[-1:]}"
    for deb in debs.glob("*.deb"):
        subprocess.run(["dpkg", "-x", deb, ROOT], check=True)
    shutil.rmtree(debs)
    (HOME / "unpacked").touch()
    return None


class Rgw:
    """A monitor, an object store and the S3 gateway, on ports and in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, _free_port()
        self._mon = _free_port()
        self._write_config()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Make the cluster and start it; takes about fifteen seconds."""
        d, fsid = self.folder, self._fsid
        keyring = d / "keyring"
        self.run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        for name, caps in (
            ("client.admin", ("mon", "allow *", "osd", "allow *", "mgr", "allow *")),
            ("client.rgw", ("mon", "allow rwx", "osd", "allow rwx")),
            ("osd.0", ("mon", "allow profile osd", "osd", "allow *")),
        ):
            pairs = [word for kind, cap in zip(caps[::2], caps[1::2], strict=True) for word in ("--cap", kind, cap)]
            self.run("ceph-authtool", keyring, "--gen-key", "-n", name, *pairs)
        self.run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{self._mon}]", d / "monmap")
        self.run("ceph-mon", "-i", "a", "--mkfs", "--keyring", keyring, "--monmap", d / "monmap", "--fsid", fsid)
        self.run("ceph-mon", "-i", "a")
        osd = str(uuid.uuid4())
        self.run("/usr/bin/python3", ROOT / "usr/bin/ceph", "-c", d / "ceph.conf", "osd", "new", osd, config=False)
        self.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self.run("ceph-osd", "-i", "0")
        self.start_gateway()

    def start_gateway(self) -> None:
        """Start the gateway and wait until it answers."""
        self.run("radosgw", "-n", "client.rgw")  # a daemon, not a child of this process
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, "the gateway does not come up"
                time.sleep(0.1)

    def kill_gateway(self) -> None:
        """Kill the gateway, as a crash does."""
        process = psutil.Process(int((self.folder / "run" / "client.rgw.pid").read_text()))
        process.kill()
        process.wait()

    def user(self, name: str) -> dict[str, str]:
        """Make a user; return its credentials as environment variables."""
        told = self.run("radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}")
        key = json.loads(told[told.index("{") :])["keys"][0]
        return {
            "AWS_ACCESS_KEY_ID": key["access_key"],
            "AWS_SECRET_ACCESS_KEY": key["secret_key"],
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def stop(self) -> None:
        """Stop everything."""
        for path in (self.folder / "run").glob("*.pid"):
            try:
                os.kill(int(path.read_text()), signal.SIGKILL)
            except (ProcessLookupError, ValueError):
                continue

    def run(self, program: str | Path, *arguments: str | Path, config: bool = True) -> str:
        """Run one of Ceph's programs to its end (the daemons go on in the background); return what it printed."""
        head = [program, "-c", self.folder / "ceph.conf"] if config else [program]
        done = subprocess.run(
            [*head, *arguments], env=self._environment(), cwd=self.folder, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stdout[-2000:]}"
        return done.stdout

    def _environment(self) -> dict[str, str]:
        libraries = [
            ROOT / part
            for part in ("usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/ceph", "usr/lib", "lib/x86_64-linux-gnu")
        ]
        return {
            "PATH": f"{ROOT / 'usr/bin'}:{ROOT / 'usr/sbin'}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "PYTHONPATH": str(ROOT / "usr/lib/python3/dist-packages"),
        }

    def _write_config(self) -> None:
        d, self._fsid = self.folder, str(uuid.uuid4())
        for name in ("rgw", "mon.a", "osd.0", "run"):
            (d / name).mkdir(parents=True)
        library = ROOT / "usr/lib/x86_64-linux-gnu"
        (d / "ceph.conf").write_text(f"""
[global]
fsid = {self._fsid}
mon host = [v2:127.0.0.1:{self._mon}]
mon initial members = a
public network = 127.0.0.0/8
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {d}/keyring
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1
mon data avail warn = 2
run dir = {d}/run
admin socket = {d}/run/$name.asok
pid file = {d}/run/$name.pid
log file = {d}/$name.log
plugin dir = {library}/ceph
erasure code dir = {library}/ceph/erasure-code
osd class dir = {library}/rados-classes
osd memory target = 939524096
osd_pool_default_pg_autoscale_mode = off
[mon.a]
mon data = {d}/mon.a
[osd.0]
osd data = {d}/osd.0
osd objectstore = bluestore
bluestore block size = 4294967296
bluestore block create = true
[client.rgw]
rgw data = {d}/rgw
rgw frontends = beast endpoint=127.0.0.1:{self.port}
rgw thread pool size = 32
""")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
