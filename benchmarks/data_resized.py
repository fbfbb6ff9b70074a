"""What `data.images.resize_short` saves: bytes of an image in the shards, and processor time to read one.

    python benchmarks/data_resized.py [--images 600] [--folder /dev/shm]

Reading is what a training does: sha256, decode the crop, resize it, flip; one thread. In processor time, so that other
work on the machine matters little.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from photos import write_photos

from effnet.config import Augment, DataConfig, FolderSource, ImagePolicy
from effnet.data.loader import Loader
from effnet.data.shards.write import write_shards

POLICIES = {
    "as they are": ImagePolicy(),
    "resize_short: 384": ImagePolicy(resize_short=384),
    "resize_short: 288": ImagePolicy(resize_short=288),
    "resize_short: 288, jpeg_quality: 90": ImagePolicy(resize_short=288, jpeg_quality=90),
}
SIDES = (224, 260)
BATCH = 50


def main() -> None:
    """Print a row of a Markdown table for each policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    torch.set_num_threads(1)
    photos, datasets = options.folder / "effnet-photos", options.folder / "effnet-datasets"
    write_photos(photos, options.images)
    loaders: dict[str, Loader] = {}
    kilobytes: dict[str, float] = {}
    for name, policy in POLICIES.items():
        source = FolderSource(kind="folder", train=str(photos))
        manifest, _ = write_shards(DataConfig(source=source, images=policy, minival=0.02, val=0.02), datasets)
        loader = Loader(
            datasets / manifest.digest, "train", batch_size=BATCH, resolution=SIDES[0], augment=Augment(), train=True
        )
        loaders[name], kilobytes[name] = loader, float(loader.index.lengths.mean()) / 1e3
    times: dict[tuple[str, int], list[float]] = {}
    for number in range(options.rounds):  # in turn, so that all meet the same machine
        for name, loader in loaders.items():
            for side in SIDES:
                times.setdefault((name, side), []).append(_seconds(loader, number, side))
    print("| images | kB | " + " | ".join(f"ms, crop to {side}" for side in SIDES) + " |")
    print("|---|---|" + "---|" * len(SIDES))
    for name, size in kilobytes.items():
        row = [f"{1e3 * statistics.median(times[name, side]):.2f}" for side in SIDES]
        print(f"| {name} | {size:.0f} | {' | '.join(row)} |")


def _seconds(loader: Loader, epoch: int, side: int) -> float:
    """Return the processor time of an image."""
    start = time.process_time()
    images = sum(len(batch.samples) for batch in loader.epoch(epoch, resolution=side))
    return (time.process_time() - start) / images


if __name__ == "__main__":
    main()
