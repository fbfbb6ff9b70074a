"""The grid by halving against training every candidate to the end, on scikit-learn's digits, with three seeds.

    python benchmarks/halving.py FOLDER [--epochs 16] [--seeds 3]

Runs `effnet fit` in FOLDER twice, in one store: what both need is trained once. Prints the epochs of both, and whether
halving's winner is worse than the best of all candidates by more than noise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
CONFIG = """\
family: {name}
store: store
data: {{source: {{kind: digits, image_size: 32}}, minival: 0.2, val: 0.2}}
baseline: {baseline}
resolution_multiple: 1
fit:
  {{step: 0.05, maximum: 1.8, tolerance: 0.15, max_candidates: 32,
   epochs: {epochs}, halving: {halving}, seeds: {seeds}}}
recipe:
  epochs: {epochs}
  batch_size: 32
  learning_rate: 0.06
  ema_decay: 0.95
  augment: {{crop_area: [0.7, 1.0], flip: false, crop_padding: 0}}
"""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    halved = fit(options, "halved", 4)
    whole = fit(options, "whole", 64)
    from effnet.search.decision import Finalist, decide
    from effnet.search.halving import rungs, total_epochs

    candidates = len(whole["candidates"])
    spent = total_epochs(rungs(candidates, options.epochs, 4)), candidates * options.epochs
    scores = {one["network"]: Finalist(kept_hits(options.folder, one), one["macs"]) for one in whole["finalists"]}
    best = max(scores, key=lambda network: scores[network].mean)
    (found,) = (one["network"] for one in halved["finalists"] if one["coefficients"] == halved["best"])
    rank = sorted(scores.values(), key=lambda one: -one.mean).index(scores[found]) + 1
    verdict = decide({network: scores[network] for network in {best, found}})
    print(
        json.dumps(
            {
                "candidates": candidates,
                "epochs_by_halving": spent[0],
                "epochs_in_all": spent[1],
                "share": spent[0] / spent[1],
                "best_of_all": scores[best].mean,
                "best_of_halving": scores[found].mean,
                "rank_of_it_among_all": rank,
                "lead": verdict.lead,
                "noise": verdict.noise,
                "same_or_tie": found == best or verdict.tie,
                "rank_correlation_between_rungs": halved["rank_correlation"],
                "paper": scores[whole["paper"]].mean,
                "all": sorted((one["mean"], *one["coefficients"]) for one in whole["finalists"]),
            },
            indent=2,
        )
    )


def kept_hits(folder: Path, finalist: dict[str, Any]) -> Any:
    """Return which images of minival a finalist is right about, (seeds, images)."""
    from effnet.hits import run_hits
    from effnet.runs import RunFolder

    return np.array([run_hits(RunFolder(folder / "store/runs" / key), "minival") for key in finalist["runs"]])


def fit(options: argparse.Namespace, name: str, halving: int) -> dict[str, Any]:
    """Return what a grid found."""
    baseline = ROOT / "configs/architectures/efficientnet_digits.yaml"
    path = options.folder / f"{name}.yaml"
    path.write_text(
        CONFIG.format(name=name, baseline=baseline, epochs=options.epochs, halving=halving, seeds=options.seeds)
    )
    command = [sys.executable, "-m", "flows.cli", "fit", path.name]
    done = subprocess.run(command, cwd=options.folder, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads((Path(done.stdout.strip().splitlines()[-1]) / "fit.json").read_text())  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
