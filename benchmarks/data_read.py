"""Reading: raw samples of a shard; decode, random crop to 224, flip; later epochs from the decoded cache.

    python benchmarks/data_read.py [--images 2000] [--folder /dev/shm]

Two cores: two threads for ours, two worker processes for the peers. Needs an environment with this package and:
pip install webdataset torchvision timm nvidia-dali-cuda130 scikit-image scikit-learn
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from photos import write_photos
from turns import in_turn, report

from effnet.config import Augment, DataConfig, FolderSource
from effnet.data.loader import Loader
from effnet.data.shards.index import Index
from effnet.data.shards.manifest import INDEX
from effnet.data.shards.write import write_shards

SIDE, BATCH, WORKERS = 224, 64, 2


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    torch.set_num_threads(1)
    photos, datasets = options.folder / "effnet-photos", options.folder / "effnet-datasets"
    write_photos(photos, options.images)
    source = FolderSource(kind="folder", train=str(photos))
    config = DataConfig(source=source, minival=0.01, val=0.01, shard_samples=500)
    manifest, _ = write_shards(config, datasets)
    folder = datasets / manifest.digest
    shards = [str(folder / shard.name) for shard in manifest.shards if shard.split == "train"]

    report("raw samples", in_turn({"effnet": lambda: raw(folder), "webdataset": lambda: raw_webdataset(shards)}, 5))
    loaders = {
        "effnet": lambda: ours(folder, None),
        "torchvision": lambda: torchvision_folder(photos),
        "timm": lambda: timm_loader(photos),
        "webdataset": lambda: webdataset_loader(shards),
        "dali": dali_loader(shards),
        "decoder_alone": lambda: decoder_alone(folder),
    }
    report("decode, crop, flip", in_turn(loaders, options.rounds))
    cache = options.folder / "effnet-cache"
    shutil.rmtree(cache, ignore_errors=True)
    ours(folder, cache)  # fills it
    epochs = {"effnet": lambda: ours(folder, cache), "first_epoch": lambda: ours(folder, None)}
    report("later epochs from the decoded cache", in_turn(epochs, options.rounds))
    shutil.rmtree(cache)


def raw(folder: Path) -> int:
    """Read every training sample by the index, in the shards' order."""
    index = Index.read(folder / INDEX, "train")
    files = [(folder / name).open("rb", buffering=0) for name in index.shard_names]
    import os

    descriptors = [file.fileno() for file in files]
    total = 0
    for shard, offset, length in zip(
        index.shards.tolist(), index.offsets.tolist(), index.lengths.tolist(), strict=True
    ):
        total += len(os.pread(descriptors[shard], length, offset))
    assert total == int(index.lengths.sum())
    return len(index)


def raw_webdataset(shards: list[str]) -> int:
    """Read every sample as the library does."""
    from webdataset import WebDataset

    return sum(1 for _ in WebDataset(shards, shardshuffle=False))


def ours(folder: Path, cache: Path | None) -> int:
    """One training epoch in uint8 batches."""
    loader = Loader(
        folder, "train", batch_size=BATCH, resolution=SIDE, augment=Augment(), train=True, threads=WORKERS, cache=cache
    )
    seen = sum(len(batch.images) for batch in loader.epoch(0))
    loader.close()
    return seen


def _count(loader: Iterable[Any]) -> int:
    return sum(len(images) for images, _ in loader)


def torchvision_folder(photos: Path) -> int:
    """ImageFolder, its usual transforms, worker processes."""
    from torchvision import datasets, transforms

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIDE, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
    )
    dataset = datasets.ImageFolder(str(photos), transform)
    return _count(torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, num_workers=WORKERS, drop_last=True))


def timm_loader(photos: Path) -> int:
    """timm's dataset and loader: uint8 batches."""
    from timm.data import create_dataset, create_loader

    dataset = create_dataset("", root=str(photos))
    loader = create_loader(
        dataset, (3, SIDE, SIDE), BATCH, is_training=True, use_prefetcher=True, no_aug=False, color_jitter=0.0,
        interpolation="bicubic", num_workers=WORKERS, device=torch.device("cpu"), persistent_workers=False,
    )  # fmt: skip
    return _count(loader.loader)  # only the workers' part; normalising is left to the device


def _to_pixels(sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
    from PIL import Image
    from torchvision import transforms

    crop = transforms.RandomResizedCrop(SIDE, interpolation=transforms.InterpolationMode.BICUBIC)
    image = crop(Image.open(io.BytesIO(sample["jpg"])).convert("RGB"))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return (pixels.flip(2) if torch.rand(()) < 0.5 else pixels), int(sample["cls"])


def webdataset_loader(shards: list[str]) -> int:
    """The library's pipeline with Pillow."""
    from webdataset import WebDataset, WebLoader

    dataset = WebDataset(shards, shardshuffle=len(shards)).shuffle(1000).map(_to_pixels)
    return _count(WebLoader(dataset, batch_size=BATCH, num_workers=WORKERS))


def dali_loader(shards: list[str]) -> Callable[[], int]:
    """DALI on the CPU, over our shards and their .idx files."""
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=BATCH, num_threads=WORKERS, device_id=None)
    def pipeline() -> Any:
        data, label = fn.readers.webdataset(
            paths=shards,
            index_paths=[f"{shard.removesuffix('.tar')}.idx" for shard in shards],
            ext=["jpg;png", "cls"],
            missing_component_behavior="error",
            random_shuffle=True,
            name="reader",
        )
        images = fn.decoders.image_random_crop(data, device="cpu", random_area=[0.08, 1.0])
        images = fn.resize(images, size=[SIDE, SIDE])
        return fn.flip(images, horizontal=fn.random.coin_flip()), label

    built = pipeline()
    built.build()
    steps = built.epoch_size("reader") // BATCH

    def run() -> int:
        for _ in range(steps):
            built.run()
        return steps * BATCH

    return run


def decoder_alone(folder: Path) -> int:
    """simplejpeg alone, on both cores, from memory: the upper limit for anything that decodes whole images."""
    import simplejpeg

    index = Index.read(folder / INDEX, "train")
    data = []
    for name in index.shard_names:
        shard = (folder / name).read_bytes()
        rows = np.flatnonzero(index.shards == index.shard_names.index(name))
        data += [shard[index.offsets[row] : index.offsets[row] + index.lengths[row]] for row in rows]
    with ThreadPoolExecutor(WORKERS) as pool:
        parts = pool.map(
            lambda part: sum(1 for image in data[part::WORKERS] if simplejpeg.decode_jpeg(image).size), range(WORKERS)
        )
        return sum(parts)


if __name__ == "__main__":
    main()
