"""What folds find out with few photos: minivals one by one, out of fold, and photos that nothing learnt from.

    nice -n 10 python benchmarks/folds.py FILE.parquet FOLDER [--count 30] [--val 60] [--folds 5] [--epochs 4]
        [--networks efficientnet_lite0 efficientnet_lite1] [--out FILE.json]

FILE holds columns `image` and `label`. Of each class COUNT photos are drawn to learn from and to decide by, and so many
others are val, which stands for the truth here. Recipe `finetune`; the first network is compared with the last.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from effnet.config import FamilyConfig, Recipe, load_baseline
from effnet.data.shards.manifest import Manifest
from effnet.data.shards.write import write_shards
from effnet.evaluation.run import judge, keep_run_hits, load_network
from effnet.family import Member, plan_members
from effnet.hits import hits_of, keep_hits, out_of_fold
from effnet.runs import RunFolder, RunSpec
from effnet.starts import member_starts
from effnet.statistics import Hits, difference, wilson_interval
from effnet.store import Store
from effnet.train.loop import Stop, train


def main() -> None:
    """Train every network on every fold, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--val", type=int, default=60)
    parser.add_argument("--networks", nargs="+", default=["efficientnet_lite0", "efficientnet_lite1"])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    _draw(options.photos, options.folder, options.count, options.val)
    config = _config(options.folder, options.networks, options.folds, options.epochs)
    store = Store(options.folder / "store")
    manifests = [write_shards(data, store.datasets)[0] for data in config.fold_data]
    images = manifests[0].samples["train"]
    members = plan_members(load_baseline(config, Path()), config, None, len(manifests[0].classes))
    runs = {
        member.name: [_trained(config, member, store, manifest, config.recipe.sized(images)) for manifest in manifests]
        for member in members
    }
    found = {
        "photos": options.photos.name,
        "samples": [manifest.samples for manifest in manifests],
        "epochs": options.epochs,
        "networks": {name: _scores(folders) for name, folders in runs.items()},
    }
    if len(runs) > 1:
        folders = list(runs.values())
        found["leads"] = _leads(folders[0], folders[-1])
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


def _trained(config: FamilyConfig, member: Member, store: Store, manifest: Manifest, recipe: Recipe) -> RunFolder:
    spec = RunSpec(
        architecture=member.architecture,
        dataset=manifest.digest,
        num_classes=len(manifest.classes),
        recipe=recipe,
        start=member_starts(config, [member], Path(), store.cache)[member.name],
    )
    folder = RunFolder.create(store, spec)
    train(folder, started=time.time(), stop=Stop(), warn=lambda _line: None)
    keep_run_hits(folder)
    dataset = store.datasets / manifest.digest
    found = judge(load_network(folder), dataset, "val", augment=recipe.augment, cache=store.cache)
    keep_hits(folder.hits_path, manifest.digest, folder.trained().weights_sha256, "val", found.hits)
    print(
        json.dumps({"network": member.name, "dataset": manifest.digest, "minival": folder.trained().top1}), flush=True
    )
    return folder


def _scores(folders: list[RunFolder]) -> dict[str, Any]:
    """Return top-1: of each minival, out of fold, on val, with 95 % intervals over images."""
    pooled, val = out_of_fold([folder] for folder in folders), hits_of(folders, "val")
    return {
        "minivals": [folder.trained().top1 for folder in folders],
        "out_of_fold": _with_interval(pooled),
        "val": _with_interval(val),
        "best_epochs": [folder.trained().best_epoch for folder in folders],  # 0: the features alone were kept
        "seconds": [round(folder.trained().seconds, 1) for folder in folders],
    }


def _with_interval(hits: Hits) -> list[float]:
    share = float(hits.mean())
    return [share, *wilson_interval(share, hits.shape[1])]


def _leads(small: list[RunFolder], large: list[RunFolder]) -> dict[str, Any]:
    """Return how far the larger network leads, and half of the interval: on each minival, out of fold, on val."""

    def lead(one: Hits, other: Hits) -> tuple[float, float]:
        found = difference(one, other)
        return found.lead, found.noise

    pairs = list(zip(large, small, strict=True))
    return {
        "minivals": [lead(hits_of([one], "minival"), hits_of([other], "minival")) for one, other in pairs],
        "out_of_fold": lead(out_of_fold([each] for each in large), out_of_fold([each] for each in small)),
        "val": lead(hits_of(large, "val"), hits_of(small, "val")),
    }


def _draw(photos: Path, folder: Path, count: int, others: int) -> None:
    """Write the photos to learn from, and val."""
    table = pq.read_table(photos)
    by_class: dict[str, list[int]] = defaultdict(list)
    for place, label in enumerate(table["label"].to_pylist()):
        by_class[label].append(place)
    folder.mkdir(parents=True, exist_ok=True)
    few, val = list[int](), list[int]()
    for label, places in sorted(by_class.items()):
        random.Random(f"0 {label}").shuffle(places)
        few += places[:count]
        val += places[count : count + others]
    for name, places in (("few", few), ("val", val)):
        pq.write_table(table.take(pa.array(np.array(places))), folder / f"{name}.parquet")


def _config(folder: Path, networks: list[str], folds: int, epochs: int) -> FamilyConfig:
    files = {name: str(folder.absolute() / f"{name}.parquet") for name in ("few", "val")}
    return FamilyConfig.parse(
        {
            "family": "folds",
            "data": {"source": {"kind": "parquet", "train": files["few"], "val": files["val"]}},
            "members": {"published": networks, "folds": folds},
            "weights": "packages",
            "recipe": {"base": "finetune", "epochs": epochs, "augment": {"flip": False}},
        },
        "benchmarks/folds.py",
    )


if __name__ == "__main__":
    main()
