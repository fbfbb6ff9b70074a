"""A network that learns from a larger one, against the same network from the labels alone, on MNIST's 5,000 images.

    nice -n 10 python benchmarks/taught.py FOLDER [--seeds 3] [--out docs/results/….json]

For each seed a teacher, the baseline of configs/mnist.yaml at φ = 2 of the paper's α, β, γ, is trained as the config
says. The baseline then trains for as many epochs: from the labels, and by its teacher at two temperatures; and from the
labels for as many epochs as a taught training costs, the teacher's own training not counted. Scores are of val, which
decides nothing.
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
PHI = 2
SCALED = Coefficients(1.2, 1.1, 1.15)
LABELS, LONGER = "labels", "labels, at equal cost"
TEMPERATURES = (1.0, 4.0)
WEIGHT = 0.5


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
    costs = [count(arch, 10).macs for arch in (small, large)]
    taught_step = 1 + FORWARD_SHARE * costs[1] / costs[0]
    longer = round(epochs * taught_step)
    for seed in range(options.seeds):
        plain = RunSpec(architecture=small, dataset=manifest.digest, num_classes=10, recipe=config.recipe, seed=seed)

        def with_recipe(spec: RunSpec, **changes: object) -> RunSpec:
            return spec.model_copy(update={"recipe": config.recipe.model_copy(update=changes)})

        first = arm("teacher", plain.model_copy(update={"architecture": large}))
        teacher = Teacher(run=first.key, architecture=large)
        arm(LABELS, plain)
        for temperature in TEMPERATURES:
            taught = plain.model_copy(update={"teacher": teacher})
            how = {"teacher": "teacher", "teacher_weight": WEIGHT, "temperature": temperature}
            arm(f"taught at {temperature:g}", with_recipe(taught, **how))
        arm(LONGER, with_recipe(plain, epochs=longer))
    hits = {name: np.stack(each) for name, each in arms.items()}
    result = {
        "macs": costs[0],
        "teacher_macs": costs[1],
        "cost_of_a_taught_step": taught_step,
        "epochs": epochs,
        "epochs_at_equal_cost": longer,
        "val_images": manifest.samples["val"],
        "trainings": records,
        "comparisons": compared(hits),
    }
    print(json.dumps({name: value for name, value in result.items() if name != "trainings"}, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def compared(hits: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return every taught arm against both of the labels alone; p-values are corrected for their number."""
    pooled = scatter(each.mean(1) for each in hits.values())
    pairs = [(name, other) for name in hits if name.startswith("taught") for other in (LABELS, LONGER)]
    found = {pair: difference(hits[pair[0]], hits[pair[1]], pooled) for pair in pairs}
    p = holm({pair: each.p for pair, each in found.items()})
    return [
        {"taught": one, "labels": other, "lead": each.lead, "noise": each.noise, "p_corrected": p[one, other]}
        for (one, other), each in found.items()
    ]


if __name__ == "__main__":
    main()
