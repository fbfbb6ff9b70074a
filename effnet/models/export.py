"""A network as a file that runs without effnet: torch.export and ONNX, each checked against the network's answers."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from effnet.arch.spec import Architecture
from effnet.errors import ConfigError, RunFailedError
from effnet.models.build import Network
from effnet.models.deployed import Deployed, Metadata
from effnet.store import publish, temporary_name

if TYPE_CHECKING:
    from onnx import ModelProto

TOLERANCE = 1e-4  # of logits or logarithms of probabilities, between the network and what was exported
INPUT, METADATA = "images", "metadata.json"  # the program's input; the file within a .pt2


def export_torch(network: Network, path: Path, metadata: Metadata) -> float:
    """Write a torch.export program (.pt2) for batches of any size; its extra file metadata.json has the metadata.

    Normalised images (N, C, R, R) in, logits out; or, if the metadata says that preprocessing is inside, uint8 pixels
    (N, R, R, C) in and probabilities out. Returns the largest difference between its answers and the network's.

    Raises:
        RunFailedError: if that is above 1e-4; nothing is written then.
    """
    module = _module(network, metadata)
    program = torch.export.export(module, (_images(module, 2),), dynamic_shapes=_dynamic())
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    told = json.dumps(metadata.told(), ensure_ascii=False)
    temporary = temporary_name(path).with_suffix(".pt2")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.export.save(program, temporary, extra_files={METADATA: told})
        difference = _difference(module, torch.export.load(temporary).module())
        publish(path, temporary.read_bytes())
    finally:
        temporary.unlink(missing_ok=True)
    return difference


def export_onnx(network: Network, path: Path, metadata: Metadata) -> float:
    """Write ONNX for batches of any size; see `export_torch`. Needs the extra `onnx`.

    Raises:
        ConfigError: if the extra is not installed.
        RunFailedError: if its answers, as onnxruntime computes them, differ by more than 1e-4; nothing is written then.
    """
    require_onnx()
    import onnxruntime

    module = _module(network, metadata)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision's operators are missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about itself
        program = torch.onnx.export(
            module,
            (_images(module, 2),),
            dynamo=True,
            dynamic_shapes=_dynamic(),
            input_names=[INPUT],
            output_names=["probabilities" if metadata.preprocessing else "logits"],
            verbose=False,
        )
    assert program is not None  # noqa: S101 - it is with dynamo=True
    data = with_metadata(program.model_proto, metadata).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    difference = _difference(module, lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0]))
    publish(path, data)
    return difference


def add_resizing(path: Path, metadata: Metadata) -> None:
    """Let an ONNX file that `export_onnx` or `quantize_onnx` wrote, preprocessing inside, take images of any size."""
    import onnx

    from effnet.models.any_size import with_any_size

    model = with_metadata(with_any_size(onnx.load(path), metadata), metadata)
    publish(path, model.SerializeToString())


def require_onnx() -> None:
    """Raise ConfigError, with what to install, if a package of the extra `onnx` is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise ConfigError(f"ONNX export needs the package {error.name}: pip install 'effnet[onnx]'") from error


def with_metadata(model: ModelProto, metadata: Metadata) -> ModelProto:
    """Return a model whose metadata are these and no others: names and texts, those that are no text as JSON.

    What torch notes at each node is left out: it names folders of this machine, and is larger than small networks.
    """
    del model.metadata_props[:]
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    for name, value in metadata.told().items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        model.metadata_props.add(key=name, value=text)
    return model


def _module(network: Network, metadata: Metadata) -> Network | Deployed:
    network.eval()
    return Deployed(network).eval() if metadata.preprocessing else network


def _dynamic() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("batch", min=1)},)


def random_images(arch: Architecture, number: int) -> Tensor:
    """Return pixels drawn at random, uint8 (number, R, R, C), the same ones each time."""
    generator = torch.Generator().manual_seed(number)
    shape = (number, arch.resolution, arch.resolution, arch.in_channels)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def _images(module: Network | Deployed, number: int) -> Tensor:
    arch = module.architecture
    if isinstance(module, Deployed):
        return random_images(arch, number)
    generator = torch.Generator().manual_seed(number)
    return torch.randn(number, arch.in_channels, arch.resolution, arch.resolution, generator=generator)


def _comparable(module: Network | Deployed, found: Tensor) -> Tensor:
    """Return logits, or the logarithms of probabilities: of many classes, all these differ by very little."""
    return found.clamp_min(1e-30).log() if isinstance(module, Deployed) else found


@torch.inference_mode()
def _difference(module: Network | Deployed, exported: Callable[[Tensor], Tensor] | nn.Module) -> float:
    difference = max(
        float((_comparable(module, exported(images)) - _comparable(module, module(images))).abs().max())
        for images in (_images(module, number) for number in (1, 3))
    )
    if not difference <= TOLERANCE:
        what = "logarithms of probabilities" if isinstance(module, Deployed) else "logits"
        raise RunFailedError(
            f"{module.architecture.name}: the exported program's {what} differ by {difference:.1e} from the network's"
        )
    return difference
