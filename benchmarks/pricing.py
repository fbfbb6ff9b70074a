"""Scaling, pricing, proposing and starting, by processor time: this code, and another checkout's in turn.

    python benchmarks/pricing.py [--against CHECKOUT] [--rounds 7]

Each figure is the median over processes of their own. Digests of all costs and proposals must agree.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Networks that both checkouts have, so that both do the same.
PRICE = """
import hashlib, random, sys, time
from effnet.arch import zoo
from effnet.arch.cost import count
from effnet.arch.scaling import Multipliers, scale
random.seed(0)
names = [*(f"efficientnet_b{n}" for n in range(9)), "efficientnet_l2", *(f"efficientnet_lite{n}" for n in range(5))]
baselines = [zoo.get(name) for name in (*names, "mobilenet_v1", "mobilenet_v2", "resnet50", "mnasnet_a1")]
draws = [(random.choice(baselines), Multipliers(*(random.uniform(0.5, 2) for _ in range(3)))) for _ in range(10_000)]
start = time.process_time()
found = [tuple(count(scale(baseline, multipliers))) for baseline, multipliers in draws]
print(time.process_time() - start, hashlib.sha256(repr(found).encode()).hexdigest())
assert "torch" not in sys.modules
"""
PROPOSE = """
import hashlib, sys, time
from effnet.arch.cost import count
from effnet.search.evolution import Search, Trial
from effnet.search.space import imagenet_space
search = Search(
    imagenet_space(), lambda arch: 200e6 <= count(arch).macs <= 500e6, seed=0, method="{method}", population=100
)
history = []
start = time.process_time()
while len(history) < 10_000:
    proposals = search.propose(history, 100)
    history += [Trial(len(history) + place, genes, sum(map(sum, genes)) / 99) for place, genes in enumerate(proposals)]
print(time.process_time() - start, hashlib.sha256(repr(history).encode()).hexdigest())
assert "torch" not in sys.modules
"""
START = """
import os, subprocess, sys
subprocess.run([sys.executable, "-P", "-m", "flows.cli", {words}], stdout=subprocess.DEVNULL, check=True)
times = os.times()
print(times.children_user + times.children_system, "-")
"""
WORK = {
    "price 10,000 networks": PRICE,
    "10,000 proposals in batches of 100, evolution": PROPOSE.replace("{method}", "evolution"),
    "10,000 proposals in batches of 100, random": PROPOSE.replace("{method}", "random"),
    "effnet --help": START.replace("{words}", '"--help"'),
    "effnet plan --baseline": START.replace("{words}", '"plan", "--baseline", "efficientnet_b0", "--max-macs", "1G"'),
}


def main() -> None:
    """Print one JSON line for each work: seconds of each checkout, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    checkouts = {"this": ROOT} | ({"other": options.against.resolve()} if options.against else {})
    with tempfile.TemporaryDirectory() as compiled:
        for what, code in WORK.items():
            print(json.dumps({"what": what, **_compare(code, checkouts, options.rounds, compiled)}), flush=True)


def _compare(code: str, checkouts: dict[str, Path], rounds: int, compiled: str) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in checkouts}
    digests = set()
    for number in range(rounds + 1):
        for name, checkout in checkouts.items():
            spent, digest = _run(code, checkout, compiled)
            digests.add(digest)
            if number:  # the first compiles
                seconds[name].append(spent)
    if len(digests) > 1:
        sys.exit("the checkouts' results differ")
    found = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    if "other" in seconds:
        ratios = [one / other for one, other in zip(seconds["this"], seconds["other"], strict=True)]
        found["ratio"] = round(statistics.median(ratios), 3)
    return found


def _run(code: str, checkout: Path, compiled: str) -> tuple[float, str]:
    """Return the processor seconds that some code says it took with a checkout, and the digest of its results."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": str(checkout), "PYTHONPYCACHEPREFIX": compiled}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    seconds, digest = done.stdout.split()
    return float(seconds), digest


if __name__ == "__main__":
    main()
