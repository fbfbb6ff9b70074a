"""Loader and step together, the second pass of an evaluation, and what a checkpoint costs; used by train.py."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from photos import write_photos

IMAGES, BATCH = 600, 32


def together() -> None:
    """Measure and print."""
    import torch
    from train import our_step

    from effnet.arch import zoo
    from effnet.config import Augment, DataConfig, FolderSource
    from effnet.data.loader import Loader
    from effnet.data.shards.write import write_shards
    from effnet.process import keep_memory

    keep_memory()
    torch.set_num_threads(2)
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    write_photos(folder / "photos", IMAGES)
    source = FolderSource(kind="folder", train=str(folder / "photos"))
    manifest, _ = write_shards(DataConfig(source=source, val=0.4), folder / "data")
    dataset = folder / "data" / manifest.digest
    arch = zoo.get("efficientnet_b0")

    def loader(split: str, cache: Path | None = None, *, train: bool = True) -> Any:
        return Loader(
            dataset, split, batch_size=BATCH, resolution=224, augment=Augment(), train=train, threads=2, cache=cache
        )

    step, size = our_step(arch, BATCH)
    step()
    alone_step = _rate(lambda: [step() for _ in range(10)], 10 * size)
    alone_loader = _rate(lambda: list(loader("train").epoch(0)), loader("train").steps_per_epoch * size)
    steps = loader("train").steps_per_epoch
    both = _rate(lambda: [step() for _ in loader("train").epoch(1)], steps * size)
    _report("loader and step, B0 at 224", step=alone_step, loader=alone_loader, both=both)
    _report("... share of the slower", share=both / min(alone_step, alone_loader))

    def evaluation(cache: Path | None) -> int:
        return sum(len(batch.labels) for batch in loader("val", cache, train=False).epoch(0))

    cache = folder / "cache"
    first = _rate(lambda: evaluation(None), manifest.samples["val"])
    evaluation(cache)
    second = _rate(lambda: evaluation(cache), manifest.samples["val"])
    _report("evaluation's images/s, decoding and from the cache", first=first, second=second, times=second / first)
    _checkpoint(folder, arch, alone_step)


def _checkpoint(folder: Path, arch: Any, rate: float) -> None:
    """Time a checkpoint of B0 against an epoch of ImageNet at the rate of the step alone."""
    from effnet.config import Recipe
    from effnet.models.build import build
    from effnet.train import checkpoint
    from effnet.train.optim import Optimizer

    net = build(arch, 1000, seed=0)
    optimizer = Optimizer(net, Recipe())
    assert optimizer.average is not None
    seconds = []
    for number in range(5):
        begin = time.perf_counter()
        state = {"optimizer": optimizer.state_dict(), "network": net.state_dict()}
        checkpoint.save(folder / "checkpoints", number, optimizer.average.state_dict(), state)
        seconds.append(time.perf_counter() - begin)
    median = sorted(seconds)[2]
    _report("checkpoint of B0", seconds=median, images_of_that_time=median * rate, cores=os.cpu_count() or 0)


def _rate(work: Any, items: int) -> float:
    begin = time.perf_counter()
    work()
    return items / (time.perf_counter() - begin)


def _report(what: str, **values: float) -> None:
    print(json.dumps({"what": what, **{name: float(f"{value:.4g}") for name, value in values.items()}}), flush=True)
