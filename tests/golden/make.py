"""Make logits.npz and networks.json from timm, torchvision and efficientnet-pytorch; README.md says how to run it."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from efficientnet_pytorch import EfficientNet
from formula import image, weights

RESOLUTIONS = {
    **{f"efficientnet_b{n}": r for n, r in enumerate((224, 240, 260, 300, 380, 456, 528, 600))},
    **{f"efficientnet_lite{n}": r for n, r in enumerate((224, 240, 260, 280, 300))},
    **{f"efficientnet_v2_{size}": r for size, r in (("s", 384), ("m", 480), ("l", 480))},
    "mobilenet_v4_conv_medium": 256,
}
EFFICIENTNETS = [name for name in RESOLUTIONS if name.startswith("efficientnet")]
TIMM = {
    **{f"tf_{name.replace('_v2', 'v2')}": name for name in EFFICIENTNETS},
    **{name.replace("_v2", "v2"): f"{name}.timm" for name in EFFICIENTNETS},
    "mobilenetv4_conv_small": "mobilenet_v4_conv_small.timm",
    "mobilenetv4_conv_medium": "mobilenet_v4_conv_medium.timm",
    "mobilenetv1_100": "mobilenet_v1.timm",
    "mobilenetv2_100": "mobilenet_v2.timm",
    "semnasnet_100": "mnasnet_a1.timm",
    "resnet50": "resnet50.timm",
}
TORCHVISION = {
    **{f"efficientnet_b{n}": f"efficientnet_b{n}.torchvision" for n in range(8)},
    **{f"efficientnet_v2_{size}": f"efficientnet_v2_{size}.torchvision" for size in "sml"},
    "mobilenet_v2": "mobilenet_v2.torchvision",
    "resnet50": "resnet50.torchvision",
}
LUKEMELAS = {f"efficientnet-b{n}": f"efficientnet_b{n}" for n in range(8)}


def main(wanted: list[str]) -> None:
    """Write both files beside this one; with names such as timm/resnet50 these networks alone are made anew."""
    folder = Path(__file__).parent
    versions = {"timm": timm.__version__, "torchvision": torchvision.__version__, "torch": torch.__version__}
    data, logits = {"versions": versions, "networks": {}}, {}
    if wanted:
        data = json.loads((folder / "networks.json").read_text())
        with np.load(folder / "logits.npz") as file:
            logits = dict(file)
    networks = data["networks"]
    for library, names, create in (
        ("timm", TIMM, timm.create_model),
        ("torchvision", TORCHVISION, lambda name: getattr(torchvision.models, name)()),
        ("lukemelas", LUKEMELAS, EfficientNet.from_name),
    ):
        for theirs, ours in names.items():
            resolution = RESOLUTIONS.get(ours.partition(".")[0], 224)
            key = f"{library}/{theirs}"
            if wanted and key not in wanted:
                continue
            network = create(theirs)
            variances = fill(network, resolution)
            logits[key] = answer(network, image(resolution))
            change = np.abs(logits[key] - answer(network, -image(resolution))).max()
            print(f"{key:36}{ours:32}{resolution:5}  moves by {change:.3g}", flush=True)
            if not 0.01 < change < 100:
                sys.exit(f"{key}: logits that another image moves by {change} would show no fault")
            networks[key] = {
                "arch": ours,
                "naming": library,
                "resolution": resolution,
                "tensors": digest(network),
                "variances": variances,
            }
            if versions != data["versions"]:
                networks[key]["versions"] = versions
    np.savez_compressed(folder / "logits.npz", **logits)
    (folder / "networks.json").write_text(json.dumps(data).replace("}, ", "},\n") + "\n")


@torch.no_grad()
def fill(network: torch.nn.Module, resolution: int) -> list[float]:
    """Fill a network by the formula; return what variance each norm was given, in the order of the norms' names.

    Each norm gets, to two digits, the mean square of what reaches it: so no activation fades or explodes.
    """
    network.eval()
    state = {name: weights(name, tuple(tensor.shape)) for name, tensor in network.state_dict().items()}
    network.load_state_dict({name: torch.from_numpy(values) for name, values in state.items()})
    variances = {}

    def measure(name: str, norm: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        variances[name] = float(f"{float(inputs[0].square().mean()):.2g}")
        norm.running_var.copy_(torch.from_numpy(weights(f"{name}.running_var", norm.weight.shape, variances[name])))

    hooks = [
        module.register_forward_pre_hook(functools.partial(measure, name))
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    ]
    network(torch.from_numpy(image(resolution)))
    for hook in hooks:
        hook.remove()
    return [variances[name] for name in sorted(variances)]


@torch.no_grad()
def answer(network: torch.nn.Module, pixels: np.ndarray) -> np.ndarray:
    """Return the logits (1000,) for one image."""
    return network(torch.from_numpy(pixels))[0].numpy()


def digest(network: torch.nn.Module) -> str:
    """Return the sha256 of all tensors' names and shapes."""
    shapes = sorted((name, list(tensor.shape)) for name, tensor in network.state_dict().items())
    return hashlib.sha256(json.dumps(shapes).encode()).hexdigest()


if __name__ == "__main__":
    main(sys.argv[1:])
