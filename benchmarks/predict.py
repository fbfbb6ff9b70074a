"""Predicting a folder of photographs: effnet predict's stream against loader and forward pass.

    python benchmarks/predict.py [--images 500] [--rounds 3]

Two cores, EfficientNet-Lite0 at 224 pixels, drawn weights. `loader_and_forward` takes the same images from shards, by
the loader that trainings use; `forward_alone` has its pixels ready.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from photos import write_photos
from turns import in_turn, report

from effnet.arch import zoo
from effnet.config import Augment, DataConfig, FolderSource
from effnet.data.loader import Loader
from effnet.data.shards.write import write_shards
from effnet.evaluation.predict_files import predict_files
from effnet.evaluation.predictor import Predictor
from effnet.models.build import build
from effnet.process import keep_memory

BATCH, THREADS = 64, 2


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(THREADS)
    photos, datasets = options.folder / f"effnet-photos-{options.images}", options.folder / "effnet-datasets"
    write_photos(photos, options.images)
    source = FolderSource(kind="folder", train=str(photos))
    manifest, _ = write_shards(DataConfig(source=source, minival=0.01, val=0.01), datasets)
    arch = zoo.get("efficientnet_lite0")
    network = build(arch, 10, seed=0).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    predictor = Predictor(network, [str(number) for number in range(10)], None)
    paths = sorted(photos.glob("*/*.jpg"))
    ready = np.random.default_rng(0).integers(0, 256, (BATCH, arch.resolution, arch.resolution, 3), np.uint8)

    def ours() -> int:
        return sum(not row.error for row in predict_files(predictor, paths, batch=BATCH, threads=THREADS))

    def loader_and_forward() -> int:
        folder, number = datasets / manifest.digest, 0
        options = {"batch_size": BATCH, "resolution": arch.resolution, "augment": Augment(), "threads": THREADS}
        loader = Loader(folder, "train", **options)  # type: ignore[arg-type]
        for batch in loader.epoch(0):
            number += len(predictor.judge(np.ascontiguousarray(batch.images.permute(0, 2, 3, 1).numpy())))
        loader.close()
        return number

    def forward_alone() -> int:
        return sum(len(predictor.judge(ready)) for _ in range(max(1, len(paths) // BATCH)))

    work = {"effnet": ours, "loader_and_forward": loader_and_forward, "forward_alone": forward_alone}
    report("predict a folder", in_turn(work, options.rounds))


if __name__ == "__main__":
    main()
