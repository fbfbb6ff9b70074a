"""A network as a file that runs without effnet: torch.export and ONNX, each checked against the network's logits."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor

from effnet.errors import ConfigError, RunFailedError
from effnet.models.build import Network
from effnet.store import publish, temporary_name

TOLERANCE = 1e-4  # of logits, between the network and what was exported


def export_torch(network: Network, path: Path) -> float:
    """Write a torch.export program (.pt2) for batches of any size, normalised images (N, C, R, R) in, logits out.

    Returns the largest difference between its logits and the network's.

    Raises:
        RunFailedError: if that is above 1e-4; nothing is written then.
    """
    network.eval()
    program = torch.export.export(network, (_images(network, 2),), dynamic_shapes=_dynamic())
    temporary = temporary_name(path.with_suffix(".pt2"))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.export.save(program, temporary.with_suffix(".pt2"))
        module = torch.export.load(temporary.with_suffix(".pt2")).module()
        difference = _difference(network, lambda images: module(images))
        publish(path, temporary.with_suffix(".pt2").read_bytes())
    finally:
        temporary.with_suffix(".pt2").unlink(missing_ok=True)
    return difference


def export_onnx(network: Network, path: Path) -> float:
    """Write ONNX for batches of any size; see `export_torch`. Needs the extra `onnx`.

    Raises:
        ConfigError: if the extra is not installed.
        RunFailedError: if its logits, as onnxruntime computes them, differ by more than 1e-4; nothing is written then.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise ConfigError(f"ONNX export needs the package {error.name}: pip install 'effnet[onnx]'") from error
    network.eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision's operators are missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about itself
        program = torch.onnx.export(
            network,
            (_images(network, 2),),
            dynamo=True,
            dynamic_shapes=_dynamic(),
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None  # noqa: S101 - it is with dynamo=True
    data = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    difference = _difference(network, lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]))
    publish(path, data)
    return difference


def _dynamic() -> dict[str, dict[int, torch.export.Dim]]:
    return {"x": {0: torch.export.Dim("batch", min=1)}}


def _images(network: Network, number: int) -> Tensor:
    arch = network.architecture
    generator = torch.Generator().manual_seed(number)
    return torch.randn(number, arch.in_channels, arch.resolution, arch.resolution, generator=generator)


@torch.inference_mode()
def _difference(network: Network, exported: object) -> float:
    assert callable(exported)  # noqa: S101
    difference = max(
        float((exported(images) - network(images)).abs().max())
        for images in (_images(network, number) for number in (1, 3))
    )
    if not difference <= TOLERANCE:
        raise RunFailedError(
            f"{network.architecture.name}: the exported program's logits differ by {difference:.1e} from the network's"
        )
    return difference
