"""What the sections share: a device, sizes that fit it, images, a training that has not begun, and clocks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effnet.arch import zoo
from effnet.arch.spec import Architecture
from effnet.config import DataConfig, Recipe
from effnet.data.loader import Batch
from effnet.data.shards.write import write_shards
from effnet.runs import RunFolder, RunSpec
from effnet.store import Store
from effnet.train.distributed import World
from effnet.train.state import TrainingState, prepare


@dataclass
class Findings:
    """What a section measured, and which of its checks passed."""

    numbers: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)

    def check(self, what: str, passed: bool) -> None:
        """Note a check."""
        self.checks[what] = bool(passed)


@dataclass(frozen=True)
class Kit:
    """Where the sections run: on a GPU, or with tiny sizes on the CPU, so that the same code is tried without one."""

    device: torch.device
    folder: Path  # for what a section writes

    @property
    def gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.device.type == "cuda"

    def of(self, on_gpu: Any, on_cpu: Any) -> Any:
        """Return a size for this device."""
        return on_gpu if self.gpu else on_cpu

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, function: Callable[[], Any], *, repeats: int = 5, warm_up: int = 2) -> float:
        """Return the median seconds of a call, each waited for."""
        times = []
        for number in range(warm_up + repeats):
            self.wait()
            start = time.perf_counter()
            function()
            self.wait()
            if number >= warm_up:
                times.append(time.perf_counter() - start)
        return statistics.median(times)


def network(name: str, resolution: int | None = None) -> Architecture:
    """Return a network of the zoo, at its own resolution or another."""
    arch = zoo.get(name)
    return arch if resolution is None else arch.model_copy(update={"resolution": resolution})


def pictures(number: int, height: int, width: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return uint8 (number, height, width, 3): soft blobs with noise, which JPEG packs about as it packs photos."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(
        random.integers(0, 256, (number, 3, height // 24 + 2, width // 24 + 2)).astype(np.float32)
    )
    soft = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    soft += torch.from_numpy(random.normal(0, 12, (1, 3, height, width)).astype(np.float32))
    return soft.clamp_(0, 255).permute(0, 2, 3, 1).to(torch.uint8).numpy()


def dataset(kit: Kit, number: int, height: int, width: int, classes: int = 10) -> tuple[Store, str]:
    """Return a store with a dataset of JPEG images, its classes by the images' order, and its digest."""
    import simplejpeg

    source = kit.folder / f"images-{number}-{height}"
    store = Store(kit.folder / "store")

    def write(first: int) -> None:
        for place, pixels in enumerate(pictures(min(64, number - first), height, width, seed=first)):
            folder = source / f"class{(first + place) % classes}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{first + place}.jpg").write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 90))

    if not source.exists():
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(0, number, 64)))
    config = DataConfig.model_validate(
        {"source": {"kind": "folder", "train": str(source)}, "minival": 0.1, "val": 0.1, "shard_samples": 500}
    )
    manifest, _ = write_shards(config, store.datasets)
    return store, manifest.digest


def training(kit: Kit, arch: Architecture, *, seed: int = 0, **recipe: Any) -> TrainingState:
    """Return a training of a small dataset that has not begun."""
    return prepare(run_folder(kit, arch, seed=seed, **recipe), World(), time.time(), print)


def run_folder(kit: Kit, arch: Architecture, *, seed: int = 0, images: int = 640, **recipe: Any) -> RunFolder:
    """Return a run that has not begun, over a dataset of small pictures."""
    store, digest = dataset(kit, images, 48, 64)
    spec = RunSpec(architecture=arch, dataset=digest, num_classes=10, recipe=Recipe(**recipe), seed=seed)
    return RunFolder.create(store, spec)


def batch(kit: Kit, number: int, side: int, classes: int = 10) -> Batch:
    """Return a batch as the loader gives it: random pixels in the machine's memory, pinned where there is a GPU."""
    pixels = torch.randint(0, 256, (number, side, side, 3), dtype=torch.uint8, pin_memory=kit.gpu)
    return Batch(pixels.permute(0, 3, 1, 2), torch.arange(number) % classes, np.arange(number))
