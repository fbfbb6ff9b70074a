"""A larger network that starts as its baseline, grown, against the same network from nothing, on MNIST's 5,000 images.

    nice -n 10 python benchmarks/grown.py FOLDER [--seeds 5] [--out docs/results/….json]

For each seed the baseline of configs/mnist.yaml is trained as that config says, and grown with that seed to the shape
at φ = 1 of α 1.2, β 1.4, γ 1.3 (deeper, wider and finer: four times the cost). The grown network and one from
nothing then train for equally many epochs; another one from nothing also gets the epochs that the baseline's training
would have paid for, rounded up. Grown networks train at the recipe's rate, and at a tenth of it, as in Net2Net
(arXiv 1511.05641, section 3). Scores are of val, which decides nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from effnet.arch.cost import count
from effnet.arch.scaling import Coefficients, scale
from effnet.config import load_baseline, load_config
from effnet.data.shards.write import write_shards
from effnet.evaluation.run import judge, load_network
from effnet.hits import SplitHits
from effnet.models.build import Network
from effnet.models.grow import grown_network
from effnet.runs import RunFolder, RunSpec, Start, read_journal
from effnet.statistics import difference, holm, scatter
from effnet.store import Store, sha256_file
from effnet.train.loop import Stop, train

CONFIG = Path(__file__).parents[1] / "configs/mnist.yaml"
SHAPE = Coefficients(1.2, 1.4, 1.3)
LENGTHS = (2, 6)  # epochs: what a short training gains, and a whole one
LOWER = 0.1


class Trained(NamedTuple):
    """A finished training."""

    folder: RunFolder
    hits: np.ndarray  # (images of val,)

    def record(self) -> dict[str, Any]:
        """Return what is kept of it."""
        result, lines = self.folder.trained(), read_journal(self.folder.metrics_path)[0]
        return {
            "val_top1": float(self.hits.mean()),
            "val_hits": SplitHits.of(self.hits).bits,
            "minival_top1": result.top1,
            "minival_top1_of_epochs": [line["minival_top1"] for line in lines],
            "seconds": result.seconds,
        }


def main() -> None:
    """Train, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(CONFIG)
    baseline = load_baseline(config, CONFIG.parent)
    large = scale(baseline, SHAPE.at(1), name="grown")
    store = Store(options.folder)
    manifest, _ = write_shards(config.data, store.datasets)
    costs = [count(arch, 10).macs for arch in (baseline, large)]
    paid = math.ceil(config.recipe.epochs * costs[0] / costs[1])  # epochs of the larger network
    spec = RunSpec(architecture=large, dataset=manifest.digest, num_classes=10, recipe=config.recipe)
    arms: dict[str, list[Trained]] = {}
    untrained: dict[int, list[float]] = {}  # by side: val top-1 of grown networks as they start

    def hits_on_val(network: Network) -> np.ndarray:
        return judge(network, store.datasets / manifest.digest, "val", augment=config.recipe.augment, cache=None).hits

    def arm(name: str, run: RunSpec, epochs: int, share: float = 1.0) -> RunFolder:
        rate = {"epochs": epochs, "learning_rate": config.recipe.learning_rate * share}
        folder = RunFolder.create(store, run.model_copy(update={"recipe": config.recipe.model_copy(update=rate)}))
        train(folder, started=time.time(), stop=Stop(), warn=lambda _line: None)
        hits = hits_on_val(load_network(folder))
        arms.setdefault(name, []).append(Trained(folder, hits))
        print(f"{name:28} seed {run.seed}  {hits.mean():.2%}", flush=True)
        return folder

    for seed in range(options.seeds):
        seeded = spec.model_copy(update={"seed": seed})
        first = arm("baseline", seeded.model_copy(update={"architecture": baseline}), config.recipe.epochs)
        file = first.weights_path
        start = Start(path=str(file.absolute()), sha256=sha256_file(file), grown_from=baseline)
        for side in (baseline.resolution, large.resolution):
            network = grown_network(load_network(first), large.model_copy(update={"resolution": side}), seed)
            untrained.setdefault(side, []).append(float(hits_on_val(network).mean()))
        for epochs in LENGTHS:
            arm(f"scratch {epochs}", seeded, epochs)
            arm(f"scratch {epochs}+{paid}", seeded, epochs + paid)
            arm(f"grown {epochs}", seeded.model_copy(update={"start": start}), epochs)
            arm(f"grown {epochs}, tenth", seeded.model_copy(update={"start": start}), epochs, LOWER)
    result = {
        "baseline_macs": costs[0],
        "macs": costs[1],
        "baseline_epochs": config.recipe.epochs,
        "paid_epochs": paid,
        "val_images": manifest.samples["val"],
        "val_top1_untrained_by_side": untrained,
        "trainings": {name: [each.record() for each in found] for name, found in arms.items()},
        "comparisons": compared({name: np.stack([each.hits for each in found]) for name, found in arms.items()}, paid),
    }
    text = json.dumps(result, indent=1)
    print(json.dumps(result["comparisons"], indent=1))
    if options.out:
        options.out.write_text(f"{text}\n")


def compared(hits: dict[str, np.ndarray], paid: int) -> list[dict[str, Any]]:
    """Return every grown arm against the two from nothing of its length; p-values are corrected for their number."""
    pooled = scatter(each.mean(1) for each in hits.values())
    pairs = [
        (f"grown {epochs}{rate}", f"scratch {epochs}{more}")
        for epochs in LENGTHS
        for rate in ("", ", tenth")
        for more in ("", f"+{paid}")
    ]
    found = {pair: difference(hits[pair[0]], hits[pair[1]], pooled) for pair in pairs}
    p = holm({pair: each.p for pair, each in found.items()})
    return [
        {"grown": one, "scratch": other, "lead": each.lead, "noise": each.noise, "p_corrected": p[one, other]}
        for (one, other), each in found.items()
    ]


if __name__ == "__main__":
    main()
