"""How time and memory grow with the size of things: samples of a dataset, trainings of a stage, shards in use.

    python benchmarks/growth.py [--only index write trainings shards] [--most 1000000]

Each line is a curve: its sizes, the seconds of processor time at each, the peak of resident memory in MB of the process
that did it, and the exponent between the last two tens
(1: linear). Nothing here has a peer. Datasets lie in the temporary folder and are removed.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

EPOCHS, RUNNING = 30, 4
CHILD = "--child"


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == [CHILD]:
        _child(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(CURVES), choices=CURVES)
    parser.add_argument("--most", type=int, default=1_000_000, help="samples at most")
    options = parser.parse_args()
    for name in options.only:
        sizes = [size for size in CURVES[name] if size <= options.most]
        with tempfile.TemporaryDirectory() as folder:
            found = [_measured(name, size, Path(folder)) for size in sizes]
        for part in found[0]:
            if part != "mb":
                seconds = [each[part] for each in found]
                curve = {"what": f"{name}: {part}", "sizes": sizes, "seconds": [float(f"{s:.3g}") for s in seconds]}
                print(json.dumps(curve | {"mb": [each["mb"] for each in found], "exponent": _exponent(sizes, seconds)}))
                sys.stdout.flush()


CURVES: dict[str, Sequence[int]] = {
    "index": (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000),  # rows
    "write": (1_000, 10_000, 100_000),  # images of 28 pixels
    "trainings": (1, 10, 100, 500, 1_000),
    "shards": (1, 4, 16, 64),  # that 4,000 samples lie in
}


def _measured(name: str, size: int, folder: Path) -> dict[str, float]:
    """Return what a child process measured, and its peak of resident memory."""
    command = [sys.executable, __file__, CHILD, name, str(size), str(folder)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1]))


def _child(name: str, size: int, folder: Path) -> None:
    import resource

    found = {"index": _index, "write": _write, "trainings": _trainings, "shards": _shards}[name](size, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found | {"mb": round(peak)}))


def _cpu(call: Callable[[], object], times: int = 1) -> float:
    """Return the least processor time of a call, in seconds."""
    took = []
    for _ in range(times):
        before = time.process_time()
        call()
        took.append(time.process_time() - before)
    return min(took)


def _exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Return the slope of log time over log size, between the last size and the one nearest to its tenth."""
    first = min(range(len(sizes) - 1), key=lambda at: abs(math.log(sizes[-1] / sizes[at] / 10)))
    return round(math.log(seconds[-1] / seconds[first]) / math.log(sizes[-1] / sizes[first]), 2)


def _elsewhere(function: Callable[[Path, int], None], path: Path, size: int) -> None:
    """Have another process make a file, so that what that takes is not counted."""
    make = f"from pathlib import Path; import growth; growth.{function.__name__}(Path({str(path)!r}), {size})"
    subprocess.run([sys.executable, "-c", make], check=True, cwd=Path(__file__).parent)


def _make_index(path: Path, rows: int) -> None:
    """Write an index like ImageNet's, of shards of 10,000 images."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from effnet.data.shards.index import SCHEMA

    draw, at_once = np.random.default_rng(0), 1_000_000
    names = pa.array([f"train-{shard:06d}.tar" for shard in range(math.ceil(rows / 10_000))])
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for start in range(0, rows, at_once):
            row = np.arange(start, min(start + at_once, rows))
            hashes = pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(32), len(row), [None, pa.py_buffer(draw.bytes(32 * len(row)))]
            )
            columns = [
                pc.utf8_lpad(pa.array(row).cast(pa.string()), 12, "0"),
                pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(row), np.int8)), pa.array(["train"])),
                pa.DictionaryArray.from_arrays(pa.array((row // 10_000).astype(np.int32)), names),
                row * 100_000,
                np.full(len(row), 90_000),
                draw.integers(0, 1000, len(row)).astype(np.int32),
                np.full(len(row), 500, np.int32),
                np.full(len(row), 375, np.int32),
                hashes,
            ]
            writer.write_table(pa.Table.from_arrays([pa.array(column) for column in columns], schema=SCHEMA))


def _index(rows: int, folder: Path) -> dict[str, float]:
    """Opening an index, and the beginning of an epoch at its start and in its middle, mixed by 16 shards at a time."""
    from effnet.data.order import Mixed
    from effnet.data.shards.index import Index

    path = folder / f"{rows}.parquet"
    _elsewhere(_make_index, path, rows)
    first = _cpu(lambda: Index.read(path, "train"))
    again = _cpu(lambda: Index.read(path, "train"))
    index = Index.read(path, "train")

    def batch(start: int) -> int:
        samples = Mixed(index, 16, 0, start)[start : start + 256]
        return int(index.offsets[samples].sum() + index.labels[samples].sum())

    return {
        "opened the first time": first,
        "opened again": again,
        "where the first batch lies": _cpu(lambda: batch(0)),
        "where a batch in the middle lies": _cpu(lambda: batch(rows // 2)),
    }


def _make_photos(path: Path, images: int) -> None:
    """Write so many images of 28 pixels, of ten classes, as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    draw, encoded = np.random.default_rng(0), []
    for _ in range(images):
        buffer = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (28, 28), np.uint8)).save(buffer, "png", compress_level=1)
        encoded.append(buffer.getvalue())
    table = pa.table({"image": encoded, "label": draw.integers(0, 10, images)})
    pq.write_table(table, path, row_group_size=10_000)


def _dataset(folder: Path, source: Path, samples: int) -> Any:
    from effnet.config import DataConfig
    from effnet.data.shards.write import write_shards

    given = {"source": {"kind": "parquet", "train": str(source)}, "shard_samples": samples, "minival": 0.1, "val": 0.1}
    return write_shards(DataConfig.model_validate(given), folder)[0]


def _write(images: int, folder: Path) -> dict[str, float]:
    """Writing shards from a Parquet file."""
    source = folder / f"{images}.parquet"
    _elsewhere(_make_photos, source, images)
    return {"write shards": _cpu(lambda: _dataset(folder / "datasets", source, 5_000))}


def _trainings(number: int, folder: Path) -> dict[str, float]:
    """One look at so many trainings, half of them done and some under way: as the parent does twice a second."""
    from effnet.arch import zoo
    from effnet.config import Recipe
    from effnet.runs import About, RunFolder, RunResult, RunSpec
    from effnet.stages import Stage
    from effnet.store import Store
    from tasks.board import Board
    from tasks.build import Training
    from tasks.terminal.screen import Screen
    from tasks.whole import Whole

    store, network, trainings = Store(folder / f"store{number}"), zoo.get("efficientnet_b0"), []
    store.prepare()
    for seed in range(number):
        spec = RunSpec(architecture=network, dataset="0" * 16, num_classes=10, recipe=Recipe(epochs=EPOCHS), seed=seed)
        run, done = RunFolder.create(store, spec), seed < number // 2
        epochs = EPOCHS if done else EPOCHS // 2 if seed < number // 2 + RUNNING else 0
        lines = [{"epoch": epoch, "seconds": 3.0 * epoch, "minival_top1": 0.5} for epoch in range(1, epochs + 1)]
        run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        if done:
            result = RunResult(
                key=run.key, top1=0.5, top5=0.9, loss=1.0, best_epoch=3, epochs=EPOCHS, steps=300, params=1, macs=1,
                seconds=90.0, weights_sha256="0" * 64, environment={},
            )  # fmt: skip
            run.result_path.write_text(result.model_dump_json())
        about = About(experiment="growth", name=f"t{seed}", kind=Stage.FIT, labels={}, family="0" * 16)
        trainings.append(Training(spec, run, about))
    samples = SimpleNamespace(samples={"train": 1000})
    whole = Whole("growth", store.root / "progress.json")
    build: Any = SimpleNamespace(screen=Screen(), whole=whole, manifest=samples, tracker=None)
    board = Board(build, Stage.FIT, trainings, None)
    return {"first look": _cpu(board.begin), "one look": _cpu(board.show, 20)}


def _shards(number: int, folder: Path) -> dict[str, float]:
    """An epoch of 4,000 images in random order, by how many shards they lie in."""
    from effnet.config import Augment
    from effnet.data.loader import Loader

    _elsewhere(_make_photos, folder / "photos.parquet", 5_000)
    manifest = _dataset(folder / "datasets", folder / "photos.parquet", math.ceil(4_000 / number))
    loader = Loader(
        folder / "datasets" / manifest.digest, "train", batch_size=64, resolution=28, augment=Augment(), train=True
    )
    return {"an epoch": _cpu(lambda: sum(len(batch.images) for batch in loader.epoch(0)), 3)}


if __name__ == "__main__":
    main()
