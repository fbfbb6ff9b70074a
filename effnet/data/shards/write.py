"""Write a dataset as WebDataset shards with an index and a manifest.

    datasets/<digest>/train-00000.tar ... minival-*.tar  val-*.tar   plain WebDataset: KEY.cls and KEY.jpg or KEY.png
                      train-00000.idx ...                            the same for DALI's reader
                      index.parquet                                  where each image lies (effnet.data.shards.index)
                      quarantine.jsonl                               images that were left out, and why, if any were
                      manifest.json                                  what there is, with checksums; written last
    datasets/.sources/<key>.json                                     which dataset a source and settings gave

A dataset's digest says what is in it: classes, and every sample's split, key, label and bytes, in order. The folder
gets its name when everything in it is complete. Shards are planned first, so that any number of threads can write
them independently, and an interrupted write resumes with the missing shards.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from effnet.config import DataConfig, DatasetSource
from effnet.data.images.intake import BadImage, prepare
from effnet.data.shards import index
from effnet.data.shards.manifest import (
    INDEX,
    MANIFEST,
    QUARANTINE,
    Manifest,
    ShardInfo,
    load_manifest,
    parse_manifest,
    xxh128_file,
)
from effnet.data.shards.plan import SPLITS, ShardPlan, plan_shards
from effnet.data.shards.quarantine import bad_row, is_mended, listed, refused_row, summary
from effnet.data.shards.remarks import notes
from effnet.data.sources import Source, open_source
from effnet.data.tar.writer import TarWriter
from effnet.errors import ConfigError, DataError
from effnet.files import reason
from effnet.machine import TOO_MANY_OPEN, raise_if_broken
from effnet.storage import is_remote
from effnet.store import (
    TEMPORARY,
    canonical_json,
    digest,
    hold,
    new_file,
    publish,
    remove_folder,
    sha256_file,
    sync_folder,
)

if TYPE_CHECKING:
    from effnet.data.shards.mirror import Publisher

FORMAT = 3  # of the folder's layout and of the rule that splits images; part of every digest
_SOURCES = ".sources"
_OF_SOURCE = ("actions", "quarantined", "passed_over", "notes", "settings")  # fields of a manifest beyond its images
NOTE = ".part.json"  # suffix of files that say that part of the work is done, until all of it is


class Written(NamedTuple):
    """What became of one shard's plan: kept beside the shard until the dataset is whole."""

    info: dict[str, Any]
    rows: list[dict[str, Any]]  # of the index; sha256 in hex
    bad: list[dict[str, Any]]
    actions: dict[str, int]


def write_shards(
    config: DataConfig,
    datasets: str | Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    base: str | Path = Path(),
    workers: int | None = None,
    to: str | None = None,
) -> tuple[Manifest, bool]:
    """Write the dataset below `datasets`, unless it is there; return its manifest and whether it was there.

    Args:
        config: source, split and shard settings.
        datasets: folder that holds datasets, one folder per digest.
        progress: called with (images written, images in all) after every shard.
        base: folder that the source's relative paths are relative to.
        workers: threads that write shards; one per core if not given. The bytes do not depend on it.
        to: place to copy the dataset to as well, s3://bucket/prefix or a folder; shards go there as they are finished.

    Raises:
        BusyError: if another process is writing this dataset.
        ConfigError: if `config` is not a DataConfig, or the source is not where it says.
        DataError: if the source is broken, more than `max_bad` images are bad (all are listed in quarantine.jsonl), or
            the disk is full.
    """
    _check(config)
    datasets = Path(datasets)
    with told_in_a_line(datasets):
        return _write(config, datasets, progress, Path(base), workers, to)


def _check(config: object) -> None:
    if not isinstance(config, DataConfig):
        raise ConfigError(f"expected a DataConfig, as effnet.config.load_config(path).data is (got {config!r:.60})")


@contextlib.contextmanager
def told_in_a_line(datasets: Path) -> Iterator[None]:
    """Turn an error of the disk into a DataError."""
    try:
        yield
    except OSError as error:
        if error.errno in TOO_MANY_OPEN:
            raise_if_broken(error)
        where = error.filename or datasets
        raise DataError(
            f"{where}: {reason(error)}; nothing half-written is left, run the command again to resume"
        ) from error


def _write(
    config: DataConfig,
    datasets: Path,
    progress: Callable[[int, int], None] | None,
    base: Path,
    workers: int | None,
    to: str | None,
) -> tuple[Manifest, bool]:
    if isinstance(config.source, DatasetSource):
        from effnet.data.shards.mirror import mirror

        location = config.source.location
        return mirror(location if is_remote(location) else str(base / location), config.source.cache_bytes, datasets)
    scratch = datasets / f"{TEMPORARY}scratch"
    with contextlib.closing(open_source(config.source, base, scratch)) as source:
        key = source_key(config, source)
        if manifest := _found(datasets, key):
            _check_left_out(config, datasets / manifest.digest, manifest)
            if to:
                publish_dataset(datasets / manifest.digest, manifest, to)
            return manifest, True
        partial = partial_folder(datasets, key)
        busy = f"{partial}: another process is writing this dataset; wait for it or stop it"
        with hold(datasets / _SOURCES / f"{key}.lock", busy):
            if manifest := _found(datasets, key):  # another process finished before this one got the lock
                if to:
                    publish_dataset(datasets / manifest.digest, manifest, to)
                return manifest, True
            partial.mkdir(parents=True, exist_ok=True)
            threads = workers or len(os.sched_getaffinity(0))
            publisher = _publisher(to)
            try:
                manifest = _write_all(config, source, partial, threads, progress or (lambda *_: None), publisher)
                if publisher:
                    publisher.finish(partial, manifest)
            finally:
                if publisher:
                    publisher.stop()
            _move(partial, datasets, manifest)
            note_source(datasets, key, manifest)
    remove_folder(scratch)
    return manifest, False


def partial_folder(datasets: Path, key: str) -> Path:
    """Return where the shards of a source lie until the dataset is whole and has its name."""
    return datasets / f"{TEMPORARY}{key}"


def note_source(datasets: Path, key: str, manifest: Manifest) -> None:
    """Note which dataset a source and settings gave, and what became of the source's other files."""
    left_out, folder = datasets / _SOURCES / f"{key}.{QUARANTINE}", datasets / manifest.digest
    if (folder / QUARANTINE).is_file():
        publish(left_out, (folder / QUARANTINE).read_bytes())
    else:
        left_out.unlink(missing_ok=True)
    publish(datasets / _SOURCES / f"{key}.{MANIFEST}", manifest.model_dump_json(indent=2).encode())
    publish(datasets / _SOURCES / f"{key}.json", canonical_json({"dataset": manifest.digest}))


def _of_source(datasets: Path, key: str, manifest: Manifest) -> Manifest:
    """Let a dataset tell of this source, if it tells of another one that has the same images among other files."""
    noted = datasets / _SOURCES / f"{key}.{MANIFEST}"
    if not noted.is_file():  # written by an earlier version
        return manifest
    ours = parse_manifest(noted.read_bytes(), str(noted))
    told = manifest.model_copy(update={name: getattr(ours, name) for name in _OF_SOURCE})
    if told == manifest:
        return manifest
    folder, left_out = datasets / manifest.digest, datasets / _SOURCES / f"{key}.{QUARANTINE}"
    if left_out.is_file():
        publish(folder / QUARANTINE, left_out.read_bytes())
    else:
        (folder / QUARANTINE).unlink(missing_ok=True)
    publish(folder / MANIFEST, told.model_dump_json(indent=2).encode())
    return told


def _publisher(to: str | None) -> Publisher | None:
    if to is None:
        return None
    from effnet.data.shards.mirror import Publisher
    from effnet.storage import open_folder

    return Publisher(open_folder(to))


def publish_dataset(folder: Path, manifest: Manifest, to: str) -> None:
    """Copy a dataset that is whole already to another place."""
    publisher = _publisher(to)
    assert publisher is not None  # noqa: S101 - a place was given
    for shard in manifest.shards:
        publisher.add(folder / shard.name, shard.xxh128)
    publisher.finish(folder, manifest)


def find_dataset(config: DataConfig, datasets: Path, base: Path = Path()) -> Manifest | None:
    """Return the manifest of the dataset that `write_shards` would give, if it was written already."""
    if isinstance(config.source, DatasetSource):
        return None
    with contextlib.closing(open_source(config.source, base, datasets / f"{TEMPORARY}scratch")) as source:
        return _found(datasets, source_key(config, source))


def source_key(config: DataConfig, source: Source) -> str:
    """Return 16 hex digits that equal sources and settings share, wherever the source lies. Reads no image."""
    settings = config.model_dump(mode="json", exclude={"source"})
    del settings["images"]["max_bad"]  # decides whether there is a dataset, not what is in it
    for name in ("group", "fold"):
        if settings[name] is None:
            del settings[name]  # it came later: without it a source keeps its key
    return digest({"format": FORMAT, "source": dict(source.fingerprint()), "settings": settings})[:16]


def _found(datasets: Path, key: str) -> Manifest | None:
    """Return the dataset that this source gave before, if it is still there and this machine could not add to it."""
    try:
        name = json.loads((datasets / _SOURCES / f"{key}.json").read_bytes())["dataset"]
    except FileNotFoundError:
        return None
    manifest = load_manifest(datasets / name)
    if manifest:
        manifest = _of_source(datasets, key, manifest)
    if manifest and manifest.quarantined and any(map(is_mended, listed(datasets / name))):
        return None
    return manifest


def _move(partial: Path, datasets: Path, manifest: Manifest) -> None:
    """Give the folder its name; if a dataset of the same content is there already, its shards stay."""
    folder = datasets / manifest.digest
    if folder.exists() and load_manifest(folder) is None:
        remove_folder(folder)  # a folder without a manifest is not a dataset
    if folder.exists():  # what is recorded about it may have changed: notes, images left out
        (folder / QUARANTINE).unlink(missing_ok=True)
        for name in (QUARANTINE, INDEX, MANIFEST):  # the manifest has the index's checksum, which varies by version
            if (partial / name).is_file():
                os.replace(partial / name, folder / name)
        remove_folder(partial)
    else:
        os.rename(partial, folder)
        sync_folder(datasets)


def _write_all(
    config: DataConfig,
    source: Source,
    partial: Path,
    workers: int,
    progress: Callable[[int, int], None],
    publisher: Publisher | None,
) -> Manifest:
    plans = plan_shards(source, config)
    total = sum(len(plan.entries) for plan in plans)
    written: list[Written] = []
    done = 0
    with ThreadPoolExecutor(workers, "shard") as pool, cancelled_on_error(pool):
        for plan, result in zip(
            plans, pool.map(lambda plan: write_or_find(source, plan, partial, config), plans), strict=True
        ):
            written.append(result)
            if publisher:
                publisher.add(partial / plan.name, result.info["xxh128"])
            done += len(plan.entries)
            progress(done, total)
    return finish(config, source, partial, plans, written)


def finish(
    config: DataConfig, source: Source, partial: Path, plans: Sequence[ShardPlan], written: Sequence[Written]
) -> Manifest:
    """Write the shards' index and manifest, and remove what only the writing needed.

    Raises:
        DataError: if more images were left out than is allowed, or a split stays empty.
    """
    bad = [refused_row(file) for file in source.remarks().refused] + [row for result in written for row in result.bad]
    if bad:
        publish(partial / QUARANTINE, b"".join(canonical_json(row) + b"\n" for row in bad))
    else:
        (partial / QUARANTINE).unlink(missing_ok=True)  # left by an earlier try
    total = sum(len(plan.entries) for plan in plans) + len(source.remarks().refused)
    _check_number(config, bad, total, partial)
    return _name(config, source, partial, plans, written, len(bad))


def _check_left_out(config: DataConfig, folder: Path, manifest: Manifest) -> None:
    """Raise DataError if a dataset that is there leaves out more images than the config allows by now."""
    _check_number(config, listed(folder), manifest.num_samples + manifest.quarantined, folder)


def _check_number(config: DataConfig, bad: Sequence[Mapping[str, Any]], total: int, folder: Path) -> None:
    if len(bad) > config.images.max_bad:
        raise DataError(
            f"{len(bad):,} bad files of {total:,}, data.images.max_bad allows {config.images.max_bad:,}; "
            f"all are listed in {folder / QUARANTINE}\n" + "\n".join(f"  {line}" for line in summary(bad))
        )


@contextlib.contextmanager
def cancelled_on_error(pool: ThreadPoolExecutor) -> Iterator[None]:
    """Cancel a pool's pending work if the block raises."""
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _name(
    config: DataConfig,
    source: Source,
    partial: Path,
    plans: Sequence[ShardPlan],
    written: Sequence[Written],
    quarantined: int,
) -> Manifest:
    rows = [row | {"sha256": bytes.fromhex(row["sha256"])} for result in written for row in result.rows]
    shards = tuple(ShardInfo(**result.info) for result in written)
    samples = {split: sum(shard.samples for shard in shards if shard.split == split) for split in SPLITS}
    if empty := [split for split, number in samples.items() if not number]:
        raise DataError(f"the {empty[0]} split is empty: all of its images are bad ({partial / QUARANTINE})")
    index.write(partial / INDEX, rows)
    content = hashlib.sha256(canonical_json([FORMAT, list(source.classes), [shard.samples for shard in shards]]))
    for row in rows:
        content.update(f"{row['split']}/{row['key']}/{row['label']}/".encode() + row["sha256"])
    manifest = Manifest(
        format=FORMAT,
        digest=content.hexdigest()[:16],
        classes=tuple(source.classes),
        class_names=tuple(source.class_names),
        samples=samples,
        actions=dict(sorted(sum((Counter(result.actions) for result in written), Counter()).items())),
        quarantined=quarantined,
        passed_over=dict(source.remarks().passed_over),
        notes=tuple(notes(source, config, plans, rows)),
        shards=shards,
        index_sha256=sha256_file(partial / INDEX),
        settings=config,
    )
    for path in [*partial.glob(f"*{NOTE}"), *partial.glob(f"{TEMPORARY}*")]:
        path.unlink()
    publish(partial / MANIFEST, manifest.model_dump_json(indent=2).encode())
    return manifest


def write_or_find(source: Source, plan: ShardPlan, partial: Path, config: DataConfig) -> Written:
    """Write a shard, its DALI index and its part file, unless an interrupted write has finished them already."""
    return _finished(partial, plan) or _write_shard(source, plan, partial, config)


def _write_shard(source: Source, plan: ShardPlan, partial: Path, config: DataConfig) -> Written:
    """Write one shard and its DALI index, and then its part file, which says that both are whole."""
    import xxhash

    path = partial / plan.name
    rows: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    actions: Counter[str] = Counter()
    checksum = xxhash.xxh3_128()
    with _whole(path) as file:
        writer = TarWriter(file.fileno(), checksum)
        for entry in plan.entries:
            data = b""
            try:
                data = source.read(entry)
                image = prepare(data, config.images, turn=config.turns_images)
            except BadImage as error:
                bad.append(bad_row(source, entry, plan.split, data, error))
                continue
            actions.update(image.actions)
            label = writer.add(f"{entry.key}.cls", str(entry.label).encode())
            offset = writer.add(f"{entry.key}.{image.extension}", image.image)
            rows.append(
                {
                    "key": entry.key,
                    "split": plan.split,
                    "shard": plan.name,
                    "offset": offset,
                    "length": len(image.image),
                    "label": entry.label,
                    "label_offset": label,
                    "extension": image.extension,
                    "width": image.width,
                    "height": image.height,
                    "sha256": hashlib.sha256(image.image).hexdigest(),
                }
            )
        writer.finish()
    publish(path.with_suffix(".idx"), _dali_index(rows))
    info = {
        "name": plan.name,
        "split": plan.split,
        "samples": len(rows),
        "bytes": writer.position,
        "xxh128": checksum.hexdigest(),
    }
    written = Written(info, rows, bad, dict(actions))
    publish(partial / part_name(plan), canonical_json({"key": _plan_key(plan), **written._asdict()}))
    return written


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[FileIO]:
    """Open a file for writing that gets its name when the block ends: another writer may be at the same shard."""
    with new_file(path) as temporary, temporary.open("wb", buffering=0) as file:
        yield file


def _dali_index(rows: list[dict[str, Any]]) -> bytes:
    """Return what DALI's tool wds2idx would: per sample the extension, offset, size and name of its files."""
    lines = [f"v1.2 {len(rows)}"]
    for row in rows:
        label, image = f"{row['key']}.cls", f"{row['key']}.{row['extension']}"
        size = len(str(row["label"]))
        lines.append(
            f"cls {row['label_offset']} {size} {label} {row['extension']} {row['offset']} {row['length']} {image}"
        )
    return "\n".join(lines).encode() + b"\n"


def _finished(partial: Path, plan: ShardPlan) -> Written | None:
    """Return an earlier write's record of a shard, if its bytes are unchanged and this machine could not add to it."""
    try:
        written = read_part((partial / part_name(plan)).read_bytes(), plan)
    except FileNotFoundError:
        return None
    path = partial / plan.name
    if (
        written is None
        or any(map(is_mended, written.bad))
        or not path.is_file()
        or xxh128_file(path) != written.info["xxh128"]
    ):
        return None
    return written


def read_part(data: bytes, plan: ShardPlan) -> Written | None:
    """Return the record of a finished shard; None if the record is broken, or of other images."""
    try:
        part = json.loads(data)
    except ValueError:
        return None
    return Written(**part) if part.pop("key", None) == _plan_key(plan) else None


def _plan_key(plan: ShardPlan) -> str:
    return digest([[entry.key, entry.label] for entry in plan.entries])


def part_name(plan: ShardPlan) -> str:
    """Return the name of the file that says that a shard is whole, and what is in it."""
    return f"{plan.name}{NOTE}"
