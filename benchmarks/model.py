"""Networks against timm's, on the CPU and, where there is one, on a CUDA device.

    python benchmarks/model.py forward train   images/s of one network, ours and timm's in turn
    python benchmarks/model.py build           B7 with weights from a file, ours and timm's in turn
    python benchmarks/model.py price           10,000 random scaled architectures, in a process without torch

Needs an environment with timm, torchvision and this package: pip install timm torchvision -e .
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PRICE = """
import random, sys, time
from effnet.arch import zoo
from effnet.arch.cost import count
from effnet.arch.scaling import Multipliers, scale
random.seed(0)
baselines = [zoo.get(name) for name in zoo.names()]
draws = [(random.choice(baselines), Multipliers(*(random.uniform(0.5, 2) for _ in range(3)))) for _ in range(10_000)]
start = time.perf_counter()
for baseline, multipliers in draws:
    count(scale(baseline, multipliers))
seconds = time.perf_counter() - start
assert "torch" not in sys.modules
print(seconds)
"""


def main() -> None:
    """Run what the arguments name and print one JSON line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=("forward", "train", "build", "price"))
    parser.add_argument("--network", default="efficientnet_b0")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="torch.compile instead of eager")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    options = parser.parse_args()
    for what in options.what:
        if what == "price":
            report(what="price", seconds=median(price, options.rounds))
        elif what == "build":
            report(what="build", **build(options.rounds))
        else:
            speed(what, options)


def report(**values: object) -> None:
    """Print one measurement."""
    print(json.dumps({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in values.items()}), flush=True)


def median(measure: Callable[[], float], rounds: int) -> float:
    """Return the median of what a function gives."""
    return statistics.median(measure() for _ in range(rounds))


def price() -> float:
    """Return the seconds that 10,000 architectures take, in a process of their own."""
    return float(subprocess.run([sys.executable, "-c", PRICE], capture_output=True, text=True, check=True).stdout)


def build(rounds: int) -> dict[str, object]:
    """Build B7 and load its weights, ours and timm's in turn; seconds."""
    import safetensors.torch
    import timm

    from effnet.arch import zoo
    from effnet.models.weights import load

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "b7.safetensors"
        safetensors.torch.save_file(timm.create_model("tf_efficientnet_b7").state_dict(), path)

        def ours() -> None:
            load(path, zoo.get("efficientnet_b7"))

        def theirs() -> None:
            timm.create_model("tf_efficientnet_b7").load_state_dict(safetensors.torch.load_file(path))

        times = in_turn({"ours": ours, "timm": theirs}, rounds)
    return times | {"ratio": times["timm"] / times["ours"]}


def in_turn(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return each one's median seconds; they take turns, after one call each that does not count."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, function in work.items():
            start = time.perf_counter()
            function()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def speed(what: str, options: argparse.Namespace) -> None:
    """Print images/s of forward passes or training steps for every layout, precision and batch size."""
    import timm
    import torch

    from effnet.arch import zoo
    from effnet.arch.cost import count
    from effnet.models.build import build as build_network

    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arch = zoo.get(options.network)
    for layout in (torch.contiguous_format, torch.channels_last):
        networks = {
            "ours": build_network(arch),
            "timm_tf": timm.create_model(f"tf_{options.network}"),
            "timm": timm.create_model(options.network),
        }
        networks = {name: network.to(device, memory_format=layout) for name, network in networks.items()}
        if options.compile:
            networks = {name: torch.compile(network) for name, network in networks.items()}
        for bfloat16 in (False, True):
            peak = matmul_peak(device, bfloat16)
            for batch in options.batches:
                images = torch.randn(batch, 3, arch.resolution, arch.resolution, device=device)
                images = images.contiguous(memory_format=layout)
                work = {name: step(what, network, images, bfloat16=bfloat16) for name, network in networks.items()}
                times = in_turn(work, options.rounds)
                rates = {name: batch / seconds for name, seconds in times.items()}
                operations = 2 * count(arch).macs * (3 if what == "train" else 1)
                report(
                    what=what,
                    network=options.network,
                    device=device.type,
                    layout="NHWC" if layout == torch.channels_last else "NCHW",
                    dtype="bf16" if bfloat16 else "fp32",
                    compile=options.compile,
                    batch=batch,
                    **{f"{name}_per_s": rate for name, rate in rates.items()},
                    ratio_tf=rates["ours"] / rates["timm_tf"],
                    ratio=rates["ours"] / rates["timm"],
                    of_matmul_peak=rates["ours"] * operations / peak,
                )


def step(what: str, network: object, images: object, *, bfloat16: bool) -> Callable[[], None]:
    """Return a function that does one forward pass, or one training step with SGD, and waits for the device."""
    import torch

    assert isinstance(network, torch.nn.Module)
    assert isinstance(images, torch.Tensor)
    device = images.device.type
    labels = torch.zeros(len(images), dtype=torch.int64, device=device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)

    def forward() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            logits: torch.Tensor = network(images)
        return logits

    def infer() -> None:
        network.eval()
        with torch.inference_mode():
            forward()
        _wait(device)

    def train() -> None:
        network.train()
        torch.nn.functional.cross_entropy(forward().float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        _wait(device)

    return infer if what == "forward" else train


def matmul_peak(device: object, bfloat16: bool) -> float:
    """Return the operations per second of a large matrix product: the most that the device can do."""
    import torch

    assert isinstance(device, torch.device)
    side = 8192 if device.type == "cuda" else 2048
    matrix = torch.randn(side, side, device=device, dtype=torch.bfloat16 if bfloat16 else torch.float32)

    def multiply() -> None:
        matrix @ matrix
        _wait(device.type)

    return 2 * side**3 / in_turn({"matmul": multiply}, 3)["matmul"]


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
