"""Evolution against random search at equal budget, on scikit-learn's digits, several seeds: best reward of each.

    python benchmarks/search.py FOLDER [--seeds 5] [--trials 30]

Runs `effnet search` in FOLDER, which may be reused: nothing is trained twice.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = """\
family: {method}-{seed}
seed: {seed}
store: store
data: {{source: {{kind: digits, image_size: 32}}, minival: 0.2, val: 0.2, seed: 0}}
baseline:
  search:
    reference: {reference}
    method: {method}
    trials: {trials}
    batch: 3
    population: 8
    sample: 4
    epochs: 2
    target_macs: 500000
    window: [0.5, 1.25]
resolution_multiple: 1
recipe:
  batch_size: 32
  learning_rate: 0.06
  ema_decay: 0.95
  augment: {{crop_area: [0.7, 1.0], flip: false, crop_padding: 0}}
compute: {{kind: local, parallel: {parallel}}}
"""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--parallel", type=int, default=2)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[float]] = {"evolution": [], "random": []}
    means: dict[str, list[float]] = {"evolution": [], "random": []}
    for seed in range(options.seeds):
        for method in found:
            trials = run(options.folder, method, seed, options.trials, options.parallel)
            found[method].append(max(trials))
            means[method].append(sum(trials) / len(trials))
            print(json.dumps({"seed": seed, "method": method, "best": max(trials)}), flush=True)
    from scipy import stats

    for label, values in (("best of a search", found), ("mean over a search's trials", means)):
        gain = [one - other for one, other in zip(values["evolution"], values["random"], strict=True)]
        mean = sum(gain) / len(gain)
        interval = [float(end) for end in stats.t.interval(0.95, len(gain) - 1, mean, stats.sem(gain))]
        print(json.dumps({"what": label, **values, "gain": mean, "interval": interval}))


def run(folder: Path, method: str, seed: int, trials: int, parallel: int) -> list[float]:
    """Return the rewards of a search."""
    reference = ROOT / "configs/architectures/efficientnet_digits.yaml"
    path = folder / f"{method}-{seed}.yaml"
    path.write_text(CONFIG.format(method=method, seed=seed, trials=trials, reference=reference, parallel=parallel))
    command = [sys.executable, "-m", "flows.cli", "search", path.name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    result = Path(done.stdout.strip().splitlines()[-1]) / "search.json"
    return [trial["reward"] for trial in json.loads(result.read_text())["trials"]]


if __name__ == "__main__":
    main()
