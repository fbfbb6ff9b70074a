"""A network that learns from a larger one, against the same network from the labels alone, on MNIST's 5,000 images.

    nice -n 10 python benchmarks/taught.py FOLDER [--seeds 3] [--out docs/results/….json]

For each seed a teacher, the baseline of configs/mnist.yaml at φ = 3 of the paper's α, β, γ, is trained as the config
says. The baseline then trains for as many epochs: from the labels, and by its teacher with several shares of the loss
and temperatures; and for three times as many, both ways. Scores are of val, which decides nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effnet.arch.cost import FORWARD_SHARE, count
from effnet.arch.scaling import Coefficients, scale
from effnet.config import load_baseline, load_config
from effnet.data.shards.write import write_shards
from effnet.evaluation.run import judge, load_network
from effnet.hits import SplitHits
from effnet.runs import RunFolder, RunSpec, Teacher
from effnet.statistics import difference, holm, scatter
from effnet.store import Store
from effnet.train.loop import Stop, train

CONFIG = Path(__file__).parents[1] / "configs/mnist.yaml"
PHI = 3
SCALED = Coefficients(1.2, 1.1, 1.15)
LONGER = 3
ARMS = ((0.5, 1.0), (0.5, 4.0), (1.0, 1.0))  # share of the loss, temperature


def main() -> None:
    """Train, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(CONFIG)
    small = load_baseline(config, CONFIG.parent)
    multiple = config.resolution_multiple
    large = scale(small, SCALED.at(PHI), resolution_multiple=multiple, name="teacher")
    store = Store(options.folder)
    manifest, _ = write_shards(config.data, store.datasets)
    arms: dict[str, list[np.ndarray]] = {}
    records: dict[str, list[dict[str, Any]]] = {}

    def arm(name: str, spec: RunSpec) -> RunFolder:
        folder = RunFolder.create(store, spec)
        train(folder, started=time.time(), stop=Stop(), warn=lambda _line: None)
        dataset = store.datasets / manifest.digest
        hits = judge(load_network(folder), dataset, "val", augment=spec.recipe.augment, cache=None).hits
        arms.setdefault(name, []).append(hits)
        kept = {"val_top1": float(hits.mean()), "val_hits": SplitHits.of(hits).bits}
        records.setdefault(name, []).append(kept | {"seconds": folder.trained().seconds})
        print(f"{name:32} seed {spec.seed}  {hits.mean():.2%}  {folder.trained().seconds:.0f} s", flush=True)
        return folder

    epochs = config.recipe.epochs
    for seed in range(options.seeds):
        plain = RunSpec(architecture=small, dataset=manifest.digest, num_classes=10, recipe=config.recipe, seed=seed)
        first = arm("teacher", plain.model_copy(update={"architecture": large}))
        teacher = Teacher(run=first.key, architecture=large)
        longer = {"epochs": LONGER * epochs}
        arm(f"labels, {epochs} epochs", plain)
        for weight, temperature in ARMS:
            how = {"teacher": "teacher", "teacher_weight": weight, "temperature": temperature}
            taught = plain.model_copy(update={"teacher": teacher, "recipe": config.recipe.model_copy(update=how)})
            arm(f"{weight:g} at T {temperature:g}, {epochs} epochs", taught)
        arm(
            f"labels, {LONGER * epochs} epochs",
            plain.model_copy(update={"recipe": config.recipe.model_copy(update=longer)}),
        )
        how = {"teacher": "teacher", "teacher_weight": 0.5, "temperature": 1.0, **longer}
        taught = plain.model_copy(update={"teacher": teacher, "recipe": config.recipe.model_copy(update=how)})
        arm(f"0.5 at T 1, {LONGER * epochs} epochs", taught)
    costs = [count(arch, 10).macs for arch in (small, large)]
    hits = {name: np.stack(each) for name, each in arms.items()}
    result = {
        "macs": costs[0],
        "teacher_macs": costs[1],
        "cost_of_a_taught_step": 1 + FORWARD_SHARE * costs[1] / costs[0],
        "val_images": manifest.samples["val"],
        "trainings": records,
        "comparisons": compared(hits, epochs),
    }
    print(json.dumps({name: value for name, value in result.items() if name != "trainings"}, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def compared(hits: dict[str, np.ndarray], epochs: int) -> list[dict[str, Any]]:
    """Return every taught arm against the labels alone, at equal epochs; p-values are corrected for their number."""
    pooled = scatter(each.mean(1) for each in hits.values())
    pairs = [
        (name, f"labels, {length} epochs")
        for length in (epochs, LONGER * epochs)
        for name in hits
        if " at T " in name and name.endswith(f", {length} epochs")
    ]
    pairs.append((f"0.5 at T 1, {epochs} epochs", f"labels, {LONGER * epochs} epochs"))
    found = {pair: difference(hits[pair[0]], hits[pair[1]], pooled) for pair in pairs}
    p = holm({pair: each.p for pair, each in found.items()})
    return [
        {"taught": one, "labels": other, "lead": each.lead, "noise": each.noise, "p_corrected": p[one, other]}
        for (one, other), each in found.items()
    ]


if __name__ == "__main__":
    main()
