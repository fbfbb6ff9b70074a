"""How many photos a fine-tuning needs: EfficientNet-Lite0, recipe `finetune`, on a few photos of each class, and more.

    nice -n 10 python benchmarks/how_many.py PHOTOS FOLDER [--counts 5 10 20 50] [--draws 3] [--out FILE.json]

PHOTOS holds `train` and `val`, each with one folder per class, such as the ants and bees of PyTorch's tutorial on
transfer learning. COUNT photos of each class are drawn from `train`, DRAWS times; 15 % of them are held out as minival,
as in configs/photos.yaml, from which all other settings come, too. Scores are of the whole of `val`, which decides
nothing: those of the fine-tuning, and those of a classifier on the features alone.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from effnet.arch.cost import count as cost
from effnet.config import FamilyConfig, load_baseline, load_config
from effnet.data.shards.write import write_shards
from effnet.evaluation.run import judge, load_network
from effnet.family import plan_members
from effnet.models.build import Network
from effnet.models.weights import load
from effnet.runs import RunFolder, RunSpec
from effnet.starts import member_starts
from effnet.store import Store
from effnet.train.loop import Stop, train

CONFIG = Path(__file__).parents[1] / "configs/photos.yaml"


def main() -> None:
    """Train on each draw, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[5, 10, 20, 50])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for draw in range(options.draws):
        for count in options.counts:
            found.append(trained(options.photos, options.folder, count, draw))
            print(json.dumps(found[-1]), flush=True)
            if options.out:
                options.out.write_text(json.dumps({"photos": options.photos.name, "trainings": found}, indent=1) + "\n")


def trained(photos: Path, folder: Path, count: int, draw: int) -> dict[str, Any]:
    """Fine-tune on `count` photos of each class; return the scores and what they took."""
    drawn = _draw(photos / "train", folder / f"{count}-{draw}", count, draw)
    config = _config(drawn, photos / "val")
    store = Store(folder / "store")
    manifest, _ = write_shards(config.data, store.datasets)
    classes, images = len(manifest.classes), manifest.samples["train"]
    (member,) = plan_members(load_baseline(config, CONFIG.parent), config, None, classes)
    recipe = config.recipe.sized(images)
    spec = RunSpec(
        architecture=member.architecture,
        dataset=manifest.digest,
        num_classes=classes,
        recipe=recipe,
        start=member_starts(config, [member], CONFIG.parent, store.cache)[member.name],
    )
    run, began = RunFolder.create(store, spec), time.process_time()
    train(run, started=time.time(), stop=Stop(), warn=lambda _line: None)
    seconds = time.process_time() - began
    result = run.trained()

    def top1(network: Network) -> float:
        found = judge(network, store.datasets / manifest.digest, "val", augment=recipe.augment, cache=store.cache)
        return float(found.hits.mean())

    return {
        "count": count,
        "draw": draw,
        "train": images,
        "minival": manifest.samples["minival"],
        "val": manifest.samples["val"],
        "classes": classes,
        "macs": cost(member.architecture, classes).macs,
        "batch": recipe.batch_size,
        "recipe_epochs": recipe.epochs,
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "minival_top1": result.top1,
        "val_top1": top1(load_network(run)),
        "val_features_alone": top1(load(run.probe_weights_path, member.architecture, num_classes=classes)),
        "cpu_seconds": round(seconds, 1),
    }


def _draw(train: Path, folder: Path, count: int, draw: int) -> Path:
    """Copy `count` photos of each class, in an order that the draw shuffles, into a folder."""
    for each in sorted(path for path in train.iterdir() if path.is_dir()):
        files = sorted(each.iterdir())
        random.Random(f"{draw} {each.name}").shuffle(files)
        (folder / each.name).mkdir(parents=True, exist_ok=True)
        for file in files[:count]:
            shutil.copy(file, folder / each.name)
    return folder


def _config(photos: Path, val: Path) -> FamilyConfig:
    """Return configs/photos.yaml for these photos, with Lite0 alone."""
    config = load_config(CONFIG).model_dump(mode="json")
    config["data"]["source"] = {"kind": "folder", "train": str(photos.absolute()), "val": str(val.absolute())}
    config["members"]["published"] = config["members"]["published"][:1]
    return FamilyConfig.model_validate(config)


if __name__ == "__main__":
    main()
