"""What Prefect, MLflow, run folders and processes cost per trial of a search: toy trainings of a fraction of a second.

    python benchmarks/trials.py FOLDER [--trials 200]

A trial's overhead is the stage's wall time times the number of parallel trainings, minus the time of the trainings
themselves (from first to last line), per trial. Runs `effnet search` in FOLDER, which must be new.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

CONFIG = """\
family: toy
store: store
data: {source: {kind: digits, image_size: 8}, minival: 0.2, val: 0.2}
baseline:
  search:
    {reference: toy.yaml, trials: TRIALS, batch: 20, population: 40, sample: 10, epochs: 1,
     target_macs: 10000, window: [0.01, 100]}
resolution_multiple: 1
recipe: {batch_size: 256, learning_rate: 0.06, augment: {crop_area: [0.7, 1.0], flip: false, crop_padding: 0}}
"""
REFERENCE = """\
name: toy
resolution: 8
channel_multiple: 2
stochastic_depth: 0.0
stem: {channels: 4, stride: 2}
stages:
  - {channels: 4, repeats: 1, stride: 2, expand_ratio: 1}
  - {channels: 8, repeats: 1, expand_ratio: 1}
head: {dropout: 0.0}
"""
CLOCK = re.compile(r"^ *(\d+):(\d\d)  (.*)")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=200)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    (options.folder / "toy.yaml").write_text(REFERENCE)
    (options.folder / "family.yaml").write_text(CONFIG.replace("TRIALS", str(options.trials)))
    command = [sys.executable, "-m", "flows.cli", "search", "family.yaml"]
    done = subprocess.run(command, cwd=options.folder, capture_output=True, text=True, check=True)
    clocks = [match for line in done.stderr.splitlines() if (match := CLOCK.match(line))]
    begin, end = (
        next(60 * int(match[1]) + int(match[2]) for match in clocks if match[3].startswith(text))
        for text in ("search by", "baseline found")
    )
    slots = len(os.sched_getaffinity(0))
    results = [json.loads(path.read_text()) for path in (options.folder / "store/runs").glob("*/result.json")]
    trained = sum(result["seconds"] for result in results)
    print(
        json.dumps(
            {
                "trials": options.trials,
                "seconds": end - begin,
                "seconds_of_trainings": trained,
                "trainings_at_a_time": slots,
                "wall_seconds_per_trial": (end - begin) / options.trials,
                "overhead_per_trial": ((end - begin) * slots - trained) / slots / options.trials,
            }
        )
    )


if __name__ == "__main__":
    main()
