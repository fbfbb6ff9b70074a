"""Weights in and out: files of ours and of other code bases, every tensor accounted for, no code run from them."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import psutil
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from effnet.arch.spec import Architecture, check_architecture, check_classes
from effnet.errors import ConfigError, DataError
from effnet.files import open_regular, reason
from effnet.foreign import refuse_program
from effnet.machine import raise_if_broken
from effnet.models.build import Network, initialize
from effnet.models.naming import OWN, known, modules
from effnet.store import publish
from effnet.values import read_mapping

ARCHITECTURE, WEIGHTS = "architecture.json", "model.safetensors"

_WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model",
)  # in this order: averaged weights are the ones that are evaluated
_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
_ZIP = b"PK\x03\x04"
_COUNTER = "num_batches_tracked"  # counts steps where momentum is None; ours never is, and old files lack the counter


class Loaded(NamedTuple):
    """A network with weights from a file, and what became of the file's tensors."""

    network: Network
    naming: str
    num_tensors: int  # taken from the file
    reinitialized: tuple[str, ...]  # our tensors that were drawn anew because the number of classes differs


def load(path: str | Path, arch: Architecture, naming: str = "auto", num_classes: int | None = None) -> Network:
    """Return the network with the weights of a file, in evaluation mode on the CPU, in float32; see `load_weights`."""
    return load_weights(Path(path), arch, naming, num_classes).network


def load_weights(path: Path, arch: Architecture, naming: str = "auto", num_classes: int | None = None) -> Loaded:
    """Read safetensors or a torch state dict into the network; tensors only, never code.

    Args:
        path: a .safetensors file, or what torch.save made of a state dict (also one wrapped in a checkpoint).
        arch: the network that the weights belong to. It decides padding and norms, which a file does not tell.
        naming: `effnet`, `timm`, `torchvision`, `lukemelas`, or `auto` to see from the tensors' names.
        num_classes: classes wanted; the file's if not given. If they differ, the classifier is initialised anew.

    Raises:
        ConfigError: if the naming is unknown or has no such network, or `num_classes` is below 1.
        DataError: if the file is broken, holds anything but tensors, or its tensors are not the network's: all that
            are missing, unexpected or of another shape are listed.
    """
    check_architecture(arch)
    if num_classes is not None:
        check_classes(num_classes)
    tensors = read_tensors(path)
    network = _empty(arch, 1)
    theirs = _wanted(arch, naming, tensors, path, list(network.state_dict()))
    classifier = tensors.get(theirs.names["classifier.weight"])
    in_file = len(classifier) if classifier is not None and classifier.ndim else None
    classes = num_classes or in_file or 1000
    network.classifier = torch.nn.Linear(network.classifier.in_features, classes, device="meta")
    state, reinitialized = _match(network, theirs, tensors, path, new_classifier=classes != in_file and num_classes)
    network.load_state_dict(state, assign=True)
    if reinitialized:
        generator = torch.Generator().manual_seed(0)
        network.classifier = torch.nn.Linear(network.classifier.in_features, classes)
        initialize(network.classifier, arch.initialization, generator)
    return Loaded(network.eval(), theirs.naming, len(state) - len(reinitialized), reinitialized)


def load_to_start(path: Path, arch: Architecture, num_classes: int) -> Loaded:
    """Do what `load_weights` does for a training that starts from them: what does not fit is told in one line."""
    try:
        return load_weights(path, arch, num_classes=num_classes)
    except DataError as error:  # which lists every tensor
        title, *others = str(error).splitlines()
        grow = "; weights of a smaller shape can be grown (`grow` in docs/training.md)" if others else ""
        raise DataError(f"{title}{grow}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return a weights file's tensors by name; wrappers and prefixes of checkpoints are removed.

    Raises:
        ConfigError: if it is an exported program.
        DataError: if there is no such file, it is cut short or broken, or it holds anything but tensors.
        MachineError: if memory or the disk fails.
    """
    refuse_program(path)
    try:
        with open_regular(path) as file:
            start = file.read(9)
            if start[:4] == _ZIP:
                _check_zip(file, path)
    except OSError as error:
        raise_if_broken(error)
        raise DataError(f"{path}: {reason(error)}; check the path") from error
    try:
        data: Any = (
            safetensors.torch.load_file(path)
            if start[8:9] == b"{"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: holds objects other than tensors, or is not a weights file; only tensors are read, code is never "
            "run"
        ) from error
    except Exception as error:  # broken bytes make the readers raise a dozen kinds of errors
        if not (isinstance(error, MemoryError) and path.stat().st_size < psutil.virtual_memory().available):
            raise_if_broken(error)  # a file that asks for more memory than its own size is broken itself
        raise DataError(f"{path}: not a weights file, or cut short; get it again") from error
    return _unwrap(data, path)


def _check_zip(file: BinaryIO, path: Path) -> None:
    """Compare every part of a file of torch.save with its checksum, which torch itself does not.

    Raises:
        DataError: if one does not match, or the parts are not stored as torch stores them: uncompressed, each once.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
            if packed or sum(part.file_size for part in parts) > path.stat().st_size:
                raise DataError(
                    f"{path}: compressed, or with overlapping parts, which torch.save never writes; refused"
                )
            if broken := archive.testzip():
                raise DataError(f"{path}: '{broken}' in it does not match its checksum; get it again")
    except DataError:
        raise
    except Exception as error:  # zipfile, too, raises many kinds of errors on broken bytes
        raise_if_broken(error)
        raise DataError(f"{path}: not a weights file, or cut short; get it again") from error


def _unwrap(data: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(data, Mapping) and isinstance(data.get(wrapper), Mapping):
            data = data[wrapper]
            break
    if not isinstance(data, Mapping) or not data:
        raise DataError(f"{path}: holds no named tensors; expected a state dict")
    for name, value in data.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise DataError(f"{path}: '{name}' is not a tensor; expected a state dict of tensors only")
        if value.layout is not torch.strided or value.device.type != "cpu" or _stretched(value):
            raise DataError(f"{path}: '{name}' is not a plain tensor with all its data; expected a state dict of those")
    tensors = dict(data)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _stretched(tensor: Tensor) -> bool:
    """Say whether a tensor claims more numbers than it has: a file of a few bytes could then claim any memory."""
    return tensor.is_quantized or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()


class _Theirs(NamedTuple):
    naming: str
    names: dict[str, str]  # our tensor -> theirs


def _wanted(arch: Architecture, naming: str, tensors: Mapping[str, Tensor], path: Path, own: Sequence[str]) -> _Theirs:
    if naming != "auto":
        return _Theirs(naming, _names(arch, naming, own))
    candidates = []
    for each in (OWN, *known()):
        if each == OWN or modules(arch, each) is not None:
            theirs = _names(arch, each, own)
            candidates.append((len(tensors.keys() & set(theirs.values())), _Theirs(each, theirs)))
    hits, best = max(candidates, key=lambda candidate: candidate[0])
    if not hits:
        raise DataError(
            f"{path}: no tensor has a name used by {', '.join(theirs.naming for _, theirs in candidates)}; "
            f"the first is '{next(iter(tensors))}'"
        )
    return best


def names(arch: Architecture, naming: str) -> dict[str, str]:
    """Return what a naming calls each tensor of the network's state dict.

    Raises:
        ConfigError: if the naming is unknown, or its code base has no such network.
    """
    return _names(arch, naming, list(_empty(arch, 1).state_dict()))


def _names(arch: Architecture, naming: str, own: Sequence[str]) -> dict[str, str]:
    if naming == OWN:
        return {name: name for name in own}
    if naming not in known():
        raise ConfigError(f"no naming is called '{naming}'; known: {OWN}, {', '.join(known())}")
    paths = modules(arch, naming)
    if paths is None:
        raise ConfigError(f"{naming} has no network like {arch.name}")
    return {name: f"{paths[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}" for name in own}


def _empty(arch: Architecture, num_classes: int) -> Network:
    """Return the network with shapes and no numbers: nothing is allocated or drawn."""
    with torch.device("meta"):
        return Network(arch, num_classes)


def _match(
    network: Network, theirs: _Theirs, tensors: Mapping[str, Tensor], path: Path, *, new_classifier: object
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return our state dict and the names in it still to be initialised; DataError lists all that does not fit."""
    state: dict[str, Tensor] = {}
    problems, fresh, left = [], [], set(tensors)
    for ours, empty in network.state_dict().items():
        name = theirs.names[ours]
        tensor = tensors.get(name)
        left.discard(name)
        if new_classifier and ours.startswith("classifier."):
            state[ours] = torch.zeros(empty.shape)
            fresh.append(ours)
        elif tensor is None and name.endswith(_COUNTER):
            state[ours] = torch.zeros((), dtype=torch.int64)
        elif tensor is None:
            problems.append(f"missing: {name} {tuple(empty.shape)}")
        elif tensor.shape != empty.shape:
            problems.append(f"wrong shape: {name} {tuple(tensor.shape)}, the network's is {tuple(empty.shape)}")
        else:
            # a copy, so that no tensor shares a file's or another tensor's memory
            state[ours] = tensor.to(dtype=empty.dtype, copy=True).contiguous()
    problems += [f"unexpected: {name} {tuple(tensors[name].shape)}" for name in sorted(left)]
    if problems:
        title = (
            f"{path}: not the weights of {network.architecture.name} as {theirs.naming} names them; "
            f"{len(problems)} tensors differ"
        )
        raise DataError("\n  ".join((title, *problems)))
    return state, tuple(fresh)


def renamed(network: Network, naming: str) -> dict[str, Tensor]:
    """Return the network's state dict under another code base's names; see `names` for what is raised."""
    theirs = names(network.architecture, naming)
    return {theirs[ours]: tensor.detach().cpu().contiguous() for ours, tensor in network.state_dict().items()}


def save_weights(path: Path, network: Network, naming: str = OWN) -> None:
    """Write the network's weights as safetensors, whole or not at all."""
    publish(path, safetensors.torch.save(renamed(network, naming), metadata={"format": "pt"}))


def save_model(folder: Path, network: Network) -> None:
    """Write a model folder: model.safetensors, then architecture.json, which says that the folder is whole."""
    save_weights(folder / WEIGHTS, network)
    save_architecture(folder, network.architecture)


def save_architecture(folder: Path, arch: Architecture) -> None:
    """Write architecture.json, the last file of a model folder."""
    publish(folder / ARCHITECTURE, arch.model_dump_json(indent=2).encode() + b"\n")


def load_model(folder: Path, num_classes: int | None = None) -> Network:
    """Return the network of a model folder, or of a finished run folder, in evaluation mode.

    Raises:
        ConfigError: if the folder is neither.
        DataError: if its weights are not those of its architecture.
    """
    if (folder / ARCHITECTURE).is_file():
        arch = Architecture.load(folder / ARCHITECTURE)
    elif (folder / "config.json").is_file():
        config = read_mapping(folder / "config.json")
        arch = Architecture.parse(config.get("architecture"), f"{folder / 'config.json'}: architecture")
    else:
        raise ConfigError(
            f"{folder}: neither a model folder ({ARCHITECTURE}, {WEIGHTS}) nor a run folder (config.json)"
        )
    return load(folder / WEIGHTS, arch, OWN, num_classes)
