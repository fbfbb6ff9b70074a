"""How machines hand datasets and runs to each other: through a place that all of them reach, on S3 or mounted.

    datasets/<digest>/       a dataset, or origin.json, which says where it lies
    runs/<key>/              a run folder in its current state, without its checkpoints
    checkpoints/<key>/       a run's checkpoints, which a lifecycle rule of the bucket can remove after some time
    weights/<sha256>         weights that runs start from or learn from
    jobs/<id>                what jobs post: a heartbeat, the address of a rendezvous
    jobs/<id>.replaced       that another job does a job's work: it must publish nothing any more

What is sent last says that the rest is there: MANIFEST.json of a checkpoint, result.json of a run. Two machines that
train the same run for two families send the same bytes on CPUs, since a training is a pure function of its spec; on
GPUs they may not.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path

from effnet.data.shards.manifest import MANIFEST as DATASET
from effnet.data.shards.manifest import load_manifest
from effnet.data.shards.mirror import ORIGIN, Origin, mirror, set_cache
from effnet.data.shards.write import publish_dataset
from effnet.errors import ConfigError, DataError
from effnet.runs import RunFolder, Teacher, read_value
from effnet.storage import File, open_folder
from effnet.store import Store, publish, publish_folder, sha256_file
from effnet.values import Value

CHECKPOINT = "MANIFEST.json"  # of a checkpoint: written last (effnet.train.checkpoint)
_FIRST = ("config.json", "about.json")
_GROWING = ("metrics.jsonl", "output.log")
_RESULTS = (
    "latency.json",
    "probe.safetensors",
    "probe.json",
    "model.safetensors",
    "result.json",
    "hits.json",
    "evaluation.json",
)  # result.json after the weights
_TEACHER = ("config.json", "model.safetensors", "result.json")  # of a run that others learn from


class Exchange:
    """One side of an exchange.

    Args:
        location: s3://bucket/prefix, or a folder.
        store: this side's own store.
    """

    def __init__(self, location: str, store: Store) -> None:
        self._place, self._store = open_folder(location), store
        self._sent: dict[str, tuple[int, int]] = {}  # by name: size and modification time of what was sent
        self._published: set[str] = set()  # datasets

    def publish(self, key: str) -> None:
        """Publish a run: its spec, its dataset, what it starts from and learns from, and the files it has so far."""
        folder = RunFolder(self._store.runs / key)
        spec = folder.spec()
        if spec.start:
            self._publish_weights(spec.start.path, spec.start.sha256)
        if spec.teacher:
            self._publish_teacher(spec.teacher)
        if spec.dataset not in self._published:
            self._publish_dataset(spec.dataset)
            self._published.add(spec.dataset)
        self._send(folder.path, _FIRST)
        self.pull(folder)  # a machine that had it before may have sent more of the journal than is known here
        self.push(folder)

    def fetch(self, key: str, cache_bytes: int) -> RunFolder:
        """Fetch a run as it stands at the exchange, and its dataset, whose shards are fetched when they are needed.

        Raises:
            ConfigError, DataError: if it is not there, or not what it should be.
        """
        folder = RunFolder(self._store.runs / key)
        there = self._list(key)
        if not there:
            raise DataError(f"{self._place.url}: no run {key} there")
        self._fetch(folder.path, there, (*_FIRST, *_GROWING, *_RESULTS))
        self._fetch_checkpoints(folder, there)
        spec = folder.spec()
        self._fetch_dataset(spec.dataset, cache_bytes)
        found: dict[str, Value] = {}
        if start := spec.start:
            path = self._fetch_weights(start.path, start.sha256)
            found["start"] = start.model_copy(update={"path": path})
        if teacher := spec.teacher:
            found["teacher"] = self._fetch_teacher(teacher)
        if found:
            publish(folder.config_path, spec.model_copy(update=found).model_dump_json(indent=2).encode())
        return folder

    def push(self, folder: RunFolder) -> None:
        """Send what is new of a run, checkpoints whole, results last; remove checkpoints that are no longer kept."""
        here = [path for path in folder.checkpoints.glob("step-*") if (path / CHECKPOINT).is_file()]
        self._send(folder.path, _GROWING)  # after the listing: who resumes from one of these has the journal up to it
        for path in sorted(here):  # a copy: some may vanish meanwhile
            try:
                names = sorted(item.name for item in path.iterdir() if item.name != CHECKPOINT)
                self._send(folder.path, [f"checkpoints/{path.name}/{name}" for name in (*names, CHECKPOINT)])
            except (OSError, DataError):
                if path.exists():
                    raise
                here.remove(path)  # the training no longer keeps it
        if here:
            self._forget(folder.key, {path.name for path in here})
        self._send(folder.path, _RESULTS)

    def pull(self, folder: RunFolder, *, results: bool = False) -> None:
        """Fetch what is new of a run's journal, and its results if wanted."""
        self._fetch(folder.path, self._files(folder.key), (*_GROWING, *(_RESULTS if results else ())))

    def post(self, name: str, line: str) -> None:
        """Post a line under a name; it replaces the one before."""
        self._place.put(f"jobs/{name}", line.encode())

    def latest(self, name: str) -> str | None:
        """Return the line that was posted last under a name; None if there is none."""
        try:
            return self._place.read(f"jobs/{name}").decode()
        except DataError:
            return None

    def replace(self, job: str) -> None:
        """Take its work from a job, which may still be at it on a machine that nothing is heard of."""
        self.post(f"{job}.replaced", "")

    def is_replaced(self, job: str) -> bool:
        """Say whether a job's work was taken from it."""
        return self.latest(f"{job}.replaced") is not None

    def _publish_dataset(self, digest: str) -> None:
        folder = self._store.datasets / digest
        prefix = f"datasets/{digest}"
        if origin := read_value(Origin, folder / ORIGIN):
            self._place.put(f"{prefix}/{ORIGIN}", origin.model_dump_json().encode())
        elif not any(file.name == f"{prefix}/{DATASET}" for file in self._place.list(prefix)):
            manifest = load_manifest(folder)
            if manifest is None:
                raise DataError(f"{folder}: no dataset here; run the command again to write it")
            publish_dataset(folder, manifest, f"{self._place.url}/{prefix}")

    def _publish_weights(self, path: str, sha256: str) -> None:
        name = _weights_name(path, sha256)
        if not any(file.name == name for file in self._place.list(name)):
            if not Path(path).is_file() or sha256_file(Path(path)) != sha256:
                raise DataError(f"{path}: missing, or not the weights that the run starts from or learns from")
            self._place.upload(Path(path), name)

    def _fetch_weights(self, path: str, sha256: str) -> str:
        """Return where the weights are here; the training checks that they are the right ones."""
        here = self._store.root / _weights_name(path, sha256)
        if not here.exists():
            self._place.fetch(_weights_name(path, sha256), here)
        return str(here)

    def _publish_teacher(self, teacher: Teacher) -> None:
        if teacher.run:
            self._send(self._store.runs / teacher.run, _TEACHER)
        elif teacher.path and teacher.sha256:
            self._publish_weights(teacher.path, teacher.sha256)

    def _fetch_teacher(self, teacher: Teacher) -> Teacher:
        if teacher.run:
            self._fetch(self._store.runs / teacher.run, self._files(teacher.run), _TEACHER)
        elif teacher.path and teacher.sha256:
            return teacher.model_copy(update={"path": self._fetch_weights(teacher.path, teacher.sha256)})
        return teacher

    def _fetch_dataset(self, digest: str, cache_bytes: int) -> None:
        if load_manifest(self._store.datasets / digest):
            set_cache(self._store.datasets / digest, cache_bytes)
            return
        prefix = f"datasets/{digest}"
        location = f"{self._place.url}/{prefix}"
        if any(file.name == f"{prefix}/{ORIGIN}" for file in self._place.list(prefix)):
            location = Origin.parse(json.loads(self._place.read(f"{prefix}/{ORIGIN}")), location).location
        manifest, _ = mirror(location, cache_bytes, self._store.datasets)
        if manifest.digest != digest:
            raise DataError(f"{location}: holds dataset {manifest.digest}, not {digest}")

    def _fetch_checkpoints(self, folder: RunFolder, there: dict[str, File]) -> None:
        """Fetch every whole checkpoint: the newest to resume from, the best for its weights."""
        sent = {name: file for name, file in there.items() if name.startswith("checkpoints/")}
        for whole in (Path(name).parent for name in sent if name.endswith(CHECKPOINT)):
            if (folder.path / whole).exists():
                continue
            with publish_folder(folder.path / whole) as target:
                for name in sent:
                    if Path(name).parent == whole:
                        self._place.fetch(_full(folder.key, name), target / Path(name).name)
        for name, file in sent.items():  # so that they are removed with this side's own
            self._sent.setdefault(_full(folder.key, name), (file.size, 0))

    def _list(self, key: str) -> dict[str, File]:
        prefix = f"checkpoints/{key}/"
        steps = {f"checkpoints/{file.name.removeprefix(prefix)}": file for file in self._place.list(prefix)}
        return self._files(key) | steps

    def _files(self, key: str) -> dict[str, File]:
        """Return the files that were sent of a run, except its checkpoints."""
        prefix = f"runs/{key}/"
        return {file.name.removeprefix(prefix): file for file in self._place.list(prefix)}

    def _send(self, folder: Path, names: Iterable[str]) -> None:
        for name in names:
            path = folder / name
            if not path.is_file():
                continue
            status = path.stat()
            mark = (status.st_size, status.st_mtime_ns)
            if self._sent.get(full := _full(folder.name, name)) == mark:
                continue
            self._sent.setdefault(full, (-1, 0))  # so that what is half sent is removed as well, if it vanishes here
            if name in _GROWING:  # may grow while it is sent
                self._place.put(full, path.read_bytes())
            else:
                self._place.upload(path, full)
            self._sent[full] = mark

    def _fetch(self, folder: Path, there: dict[str, File], names: Iterable[str]) -> None:
        """Fetch files that are missing here, or shorter; files only appear or grow."""
        for name in names:
            if (file := there.get(name)) is None:
                continue
            path, full = folder / name, _full(folder.name, name)
            if not path.exists() or path.stat().st_size < file.size:
                self._place.fetch(full, path)
            if name in _GROWING and (status := path.stat()).st_size >= file.size:
                self._sent[full] = (status.st_size, status.st_mtime_ns)  # sent back, it might undo what comes meanwhile

    def _forget(self, key: str, kept: set[str]) -> None:
        """Remove checkpoints that are not kept here, each one's manifest first."""
        prefix = f"checkpoints/{key}/"
        sent = [
            name for name in self._sent if name.startswith(prefix) and name[len(prefix) :].split("/")[0] not in kept
        ]
        with contextlib.suppress(ConfigError):  # a trainer need not be allowed to delete: the bucket's rules do it then
            self._place.delete([name for name in sent if name.endswith(CHECKPOINT)])
            self._place.delete([name for name in sent if not name.endswith(CHECKPOINT)])
        for name in sent:
            del self._sent[name]


def _weights_name(path: str, sha256: str) -> str:
    return f"weights/{sha256}{Path(path).suffix}"


def _full(key: str, name: str) -> str:
    """Return the name at the exchange of a file in a run folder."""
    inside = name.removeprefix("checkpoints/")
    return f"runs/{key}/{name}" if inside == name else f"checkpoints/{key}/{inside}"
