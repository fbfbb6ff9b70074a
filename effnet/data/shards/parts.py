"""A dataset that several machines write, each some of its shards.

`write_part` carries out an order of a part (effnet.order). On machines that share the store, the shards and the notes
on each lie where `write_shards` looks for them, and it has only the index left to write. Otherwise they are copied to a
place that all machines reach, and `gather` writes index and manifest there:

    parts/<source key>/train-00000.tar, .idx, .tar.part.json ...   index.parquet  manifest.json
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from effnet.config import DataConfig, DatasetSource
from effnet.data.shards.manifest import INDEX, MANIFEST, QUARANTINE, Manifest
from effnet.data.shards.mirror import mirror
from effnet.data.shards.part import Part
from effnet.data.shards.plan import plan_shards
from effnet.data.shards.quarantine import was_lacking
from effnet.data.shards.write import (
    NOTE,
    Written,
    cancelled_on_error,
    find_dataset,
    finish,
    note_source,
    part_name,
    partial_folder,
    read_part,
    source_key,
    told_in_a_line,
    write_or_find,
)
from effnet.data.sources import Source, open_source
from effnet.errors import DataError
from effnet.storage import Folder, open_folder
from effnet.store import TEMPORARY, hold, remove_folder

PLACE = "parts"


def is_written(part: Part, datasets: Path) -> bool:
    """Say whether all of a part is there."""
    return bool({_note(part), MANIFEST} & {file.name for file in _place(part, datasets).list()})


def _note(part: Part) -> str:
    """Name of the file that says that all of the part is written."""
    return f"{part.part}-of-{part.parts}{NOTE}"


def _place(part: Part, datasets: Path) -> Folder:
    """Return where the shards come together."""
    location = f"{part.to}/{PLACE}/{part.source}" if part.to else partial_folder(datasets, part.source)
    return open_folder(location, known=True)


def split_work(data: DataConfig, datasets: Path, base: Path, parts: int, to: str | None) -> list[Part]:
    """Return the parts of a dataset; none if it exists, or lies elsewhere and only has to be found.

    Args:
        data: source, split and shard settings.
        datasets: folder of datasets.
        base: folder that the source's relative paths are relative to.
        parts: how many.
        to: place that all machines reach, if they do not share the store.
    """
    if isinstance(data.source, DatasetSource) or find_dataset(data, datasets, base):
        return []
    with told_in_a_line(datasets), contextlib.closing(open_source(data.source, base, _scratch(datasets))) as source:
        key = source_key(data, source)
    return [
        Part(data=data, source=key, base=str(base.absolute()), part=part, parts=parts, to=to) for part in range(parts)
    ]


def write_part(part: Part, datasets: Path) -> int:
    """Write a part's shards below `datasets`, and copy them to its place; return how many there are.

    Shards that are finished already, here or at the place, are not written again.

    Raises:
        BusyError: if another process writes this part here.
        ConfigError, DataError: as `write_shards` does, except for images that are left out: `gather` counts those.
    """
    opened = open_source(part.data.source, Path(part.base), _scratch(datasets))
    with told_in_a_line(datasets), contextlib.closing(opened) as source:
        if (key := source_key(part.data, source)) != part.source:
            raise DataError(
                f"the images have changed since the work was split ({part.source}, now {key}); run it again"
            )
        partial, place = partial_folder(datasets, key), _place(part, datasets)
        there = {file.name for file in place.list()} if part.to else set()
        plans = plan_shards(source, part.data)[part.part :: part.parts]

        def write(number: int) -> None:
            plan = plans[number]
            if part_name(plan) in there or MANIFEST in there:
                return
            write_or_find(source, plan, partial, part.data)
            if part.to:
                path = partial / plan.name
                place.upload(path, plan.name)
                place.upload(path.with_suffix(".idx"), path.with_suffix(".idx").name)
                place.upload(partial / part_name(plan), part_name(plan))  # last: it says that the others are whole
                path.unlink()

        lock = datasets / f".{key}-{part.part}-of-{part.parts}.lock"
        with hold(lock, f"{partial}: another process is writing this part; wait for it or stop it"):
            partial.mkdir(parents=True, exist_ok=True)
            threads = len(os.sched_getaffinity(0))
            with ThreadPoolExecutor(threads, "shard") as pool, cancelled_on_error(pool):
                list(pool.map(write, range(len(plans))))
            place.put(_note(part), b"{}")
    return len(plans)


def gather(data: DataConfig, datasets: Path, base: Path, to: str, cache_bytes: int) -> Manifest:
    """Name the dataset whose parts lie at a place, and return it; here it becomes a mirror, and its shards stay there.

    Args:
        data: as it was sharded.
        datasets: folder of datasets here.
        base: folder that the source's relative paths are relative to.
        to: the parts' place.
        cache_bytes: disk that fetched shards may take here.

    Raises:
        DataError: if shards are missing there, or too many images were bad.
    """
    with told_in_a_line(datasets), contextlib.closing(open_source(data.source, base, _scratch(datasets))) as source:
        key = source_key(data, source)
        location = f"{to}/{PLACE}/{key}"
        place = open_folder(location)
        if not any(file.name == MANIFEST for file in place.list(MANIFEST)):
            _name(data, source, place, datasets / f"{TEMPORARY}{key}-gathered")
        manifest, _ = mirror(location, cache_bytes, datasets)
        note_source(datasets, key, manifest)
    return manifest


def _name(data: DataConfig, source: Source, place: Folder, scratch: Path) -> None:
    """Write the index and manifest of the shards at a place, and remove the notes on each."""
    scratch.mkdir(parents=True, exist_ok=True)
    plans = plan_shards(source, data)
    written = []
    for plan in plans:
        if (part := read_part(place.read(part_name(plan)), plan)) is None:
            raise DataError(f"{place.url}/{plan.name}: belongs to another source; remove the folder and run again")
        written.append(part)
    try:
        finish(data, source, scratch, plans, written)
    except DataError:
        _forget_lacking(place, written)
        raise
    for name in (INDEX, QUARANTINE):
        if (scratch / name).is_file():
            place.upload(scratch / name, name)
    place.create(MANIFEST, (scratch / MANIFEST).read_bytes())  # another process that does this writes the same bytes
    place.delete([file.name for file in place.list() if file.name.endswith(NOTE)])
    remove_folder(scratch)


def _forget_lacking(place: Folder, written: Sequence[Written]) -> None:
    """Remove the notes on all parts, and on shards that a machine with more rights or readers would write otherwise."""
    names = [f"{part.info['name']}{NOTE}" for part in written if any(map(was_lacking, part.bad))]
    if names:
        place.delete(names + [file.name for file in place.list() if file.name.endswith(NOTE) and "-of-" in file.name])


def _scratch(datasets: Path) -> Path:
    return datasets / f"{TEMPORARY}scratch"
