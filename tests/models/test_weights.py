"""Weights from elsewhere and back: every tensor accounted for, and no code run."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from random import Random

import pytest
import safetensors.torch
import torch
from torch import Tensor

from effnet.arch import zoo
from effnet.arch.scaling import Multipliers, scale
from effnet.arch.spec import Architecture
from effnet.errors import ConfigError, DataError, MachineError
from effnet.models.build import Network, build
from effnet.models.weights import load, load_model, load_weights, read_tensors, renamed, save_model, save_weights
from tests.tiny import run_effnet

NAMINGS = ("effnet", "timm", "torchvision", "lukemelas")


@pytest.fixture(scope="module")
def arch() -> Architecture:
    return scale(zoo.get("efficientnet_b0"), Multipliers(width=0.25, depth=0.5), resolution=64)


@pytest.fixture(scope="module")
def network(arch: Architecture) -> Network:
    """A network whose every tensor differs from a fresh one's."""
    network = build(arch, 12, seed=3).eval()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.add_(0.05 * torch.rand(tensor.shape, generator=generator))
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(7)
    return network


def assert_same(one: Network, other: Network) -> None:
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("asked", ["auto", "given"])
def test_round_trip_through_every_naming(tmp_path: Path, network: Network, naming: str, asked: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, network, naming)
    loaded = load_weights(path, network.architecture, "auto" if asked == "auto" else naming)
    assert loaded.naming == naming
    assert loaded.num_tensors == len(network.state_dict())
    assert loaded.reinitialized == ()
    assert not loaded.network.training
    assert_same(loaded.network, network)


OTHERS = ["mobilenet_v1", "mobilenet_v2", "resnet50", "mnasnet_a1", "efficientnet_lite0"]
MODERN = ["efficientnet_v2_s", "efficientnet_v2_m", "mobilenet_v4_conv_small", "mobilenet_v4_conv_medium"]


@pytest.mark.parametrize("name", [*OTHERS, *MODERN])
def test_other_families_have_timm_names(tmp_path: Path, name: str) -> None:
    network = build(scale(zoo.get(name), Multipliers(width=0.25), resolution=64), 5, seed=1)
    save_weights(tmp_path / "timm.safetensors", network, "timm")
    assert_same(load(tmp_path / "timm.safetensors", network.architecture), network)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {name: tensor * 0 for name, tensor in state.items()}, "state_dict_ema": state},
    ],
)
def test_checkpoints_are_unwrapped_and_averaged_weights_preferred(tmp_path: Path, network: Network, wrapped) -> None:
    torch.save(wrapped(renamed(network, "timm")), tmp_path / "checkpoint.pth")
    assert_same(load(tmp_path / "checkpoint.pth", network.architecture), network)


def test_half_precision_and_missing_step_counters_are_read(tmp_path: Path, network: Network) -> None:
    state = {
        name: tensor.half()
        for name, tensor in renamed(network, "timm").items()
        if not name.endswith("num_batches_tracked")
    }
    safetensors.torch.save_file(state, tmp_path / "half.safetensors")
    loaded = load(tmp_path / "half.safetensors", network.architecture)
    assert loaded.classifier.weight.dtype == torch.float32
    assert torch.equal(loaded.classifier.weight, network.classifier.weight.half().float())


def changed(network: Network) -> dict[str, Tensor]:
    """Three faults at once: one tensor missing, one unexpected, one of a wrong shape."""
    state = renamed(network, "timm")
    del state["bn1.bias"]
    state["extra.weight"] = torch.zeros(2, 3)
    state["conv_stem.weight"] = torch.zeros(8, 1, 3, 3)
    return state


def test_every_tensor_that_does_not_fit_is_listed(tmp_path: Path, network: Network) -> None:
    safetensors.torch.save_file(changed(network), tmp_path / "changed.safetensors")
    with pytest.raises(DataError) as caught:
        load(tmp_path / "changed.safetensors", network.architecture)
    lines = str(caught.value).splitlines()
    assert "as timm names them; 3 tensors differ" in lines[0]
    assert lines[1:] == [
        "  wrong shape: conv_stem.weight (8, 1, 3, 3), the network's is (8, 3, 3, 3)",
        "  missing: bn1.bias (8,)",
        "  unexpected: extra.weight (2, 3)",
    ]


def test_weights_of_another_network_are_refused(tmp_path: Path, network: Network) -> None:
    save_weights(tmp_path / "weights.safetensors", network, "torchvision")
    deeper = scale(network.architecture, Multipliers(depth=2.0))
    with pytest.raises(DataError, match="missing: features"):
        load(tmp_path / "weights.safetensors", deeper)
    with pytest.raises(DataError, match="no tensor has a name used by effnet, timm"):
        load(tmp_path / "weights.safetensors", zoo.get("mobilenet_v1"))


class Payload:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "code ran"))


def test_a_pickle_with_code_is_refused_and_its_code_never_run(tmp_path: Path, network: Network) -> None:
    proof = tmp_path / "proof"
    torch.save({"state_dict": network.state_dict(), "hook": Payload(proof)}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"weight": Payload(proof)}))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(DataError, match="code is never run"):
            load(tmp_path / name, network.architecture)
    assert not proof.exists()
    torch.load(tmp_path / "zip.pth", weights_only=False)
    assert proof.exists()  # so the payload would have worked


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.999])
def test_a_file_cut_short_is_refused(tmp_path: Path, network: Network, suffix: str, keep: float) -> None:
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(network.state_dict(), path)
    else:
        save_weights(path, network)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    with pytest.raises(DataError) as caught:
        load(path, network.architecture)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {1: torch.zeros(1)}, {}, torch.zeros(3)])
def test_files_without_named_tensors_are_refused(tmp_path: Path, network: Network, content: object) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(DataError, match=r"expected a state dict"):
        load(tmp_path / "weights.pth", network.architecture)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_flipped_bit_never_gets_by_unseen(tmp_path: Path, network: Network, suffix: str) -> None:
    path, broken = tmp_path / f"weights{suffix}", tmp_path / f"broken{suffix}"
    state = network.state_dict()
    torch.save(state, path) if suffix == ".pt" else save_weights(path, network)
    data, random = path.read_bytes(), Random(0)
    refused = 0
    if suffix == ".pt":  # safetensors have no checksums: there only the header can tell
        places = [random.randrange(len(data)) for _ in range(120)]
    else:
        places = [random.randrange(8 + int.from_bytes(data[:8], "little")) for _ in range(120)]
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << random.randrange(8)
        broken.write_bytes(flipped)
        try:
            loaded = read_tensors(broken)
        except DataError:
            refused += 1
        else:  # the flip hit padding or a date of the archive; or a name in the header, which `load` misses then
            assert suffix == ".safetensors" or all(torch.equal(loaded[key], state[key]) for key in state)
    assert refused > 80 if suffix == ".pt" else refused > 40


def test_a_flipped_weight_is_named(tmp_path: Path, network: Network) -> None:
    path = tmp_path / "weights.pt"
    torch.save(network.state_dict(), path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        part = max(archive.infolist(), key=lambda info: info.file_size)
    data[part.header_offset + 200] ^= 1
    path.write_bytes(data)
    torch.load(path, weights_only=True)  # torch itself sees nothing
    with pytest.raises(DataError, match=r"data/\d+' in it does not match its checksum"):
        load(path, network.architecture)


@pytest.mark.parametrize("content", [b"", b"abc", b"PK\x03\x04", b"\x80\x02.", b"\x08" + bytes(7) + b"{"])
def test_a_few_bytes_are_refused(tmp_path: Path, network: Network, content: bytes) -> None:
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(DataError, match=r"weights\.pt: "):
        load(tmp_path / "weights.pt", network.architecture)


def test_pipes_folders_packed_and_stretched_files_are_refused(tmp_path: Path, network: Network) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(DataError, match="a pipe, a device or a socket"):
        load(tmp_path / "pipe.pt", network.architecture)
    with pytest.raises(DataError, match="a folder, where a file is expected"):
        load(tmp_path, network.architecture)
    with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(1 << 20))
    with pytest.raises(DataError, match="compressed"):
        load(tmp_path / "packed.pt", network.architecture)
    torch.save({"classifier.weight": torch.zeros(1).expand(1 << 40)}, tmp_path / "stretched.pt")
    with pytest.raises(DataError, match="not a plain tensor"):
        load(tmp_path / "stretched.pt", network.architecture)


def test_unknown_naming_and_unknown_file(tmp_path: Path, network: Network) -> None:
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "none.pth", network.architecture)
    save_weights(tmp_path / "weights.safetensors", network)
    with pytest.raises(ConfigError, match="no naming is called 'keras'"):
        load(tmp_path / "weights.safetensors", network.architecture, "keras")
    with pytest.raises(ConfigError, match="torchvision has no network like mobilenet_v1"):
        load(tmp_path / "weights.safetensors", zoo.get("mobilenet_v1"), "torchvision")


def test_transfer_draws_a_new_classifier_and_keeps_everything_else(tmp_path: Path, network: Network) -> None:
    save_weights(tmp_path / "weights.safetensors", network, "lukemelas")
    loaded = load_weights(tmp_path / "weights.safetensors", network.architecture, num_classes=5)
    assert loaded.reinitialized == ("classifier.weight", "classifier.bias")
    assert loaded.num_tensors == len(network.state_dict()) - 2
    fresh = loaded.network.state_dict()
    assert fresh["classifier.weight"].shape == (5, network.classifier.in_features)
    assert 0 < float(fresh["classifier.weight"].abs().max()) <= 5**-0.5  # official rule: uniform in ±1 / sqrt(classes)
    assert not fresh["classifier.bias"].any()
    for name, tensor in network.state_dict().items():
        if not name.startswith("classifier."):
            assert torch.equal(fresh[name], tensor)
    same = load_weights(tmp_path / "weights.safetensors", network.architecture, num_classes=12)
    assert same.reinitialized == ()


def test_transfer_still_accounts_for_the_rest(tmp_path: Path, network: Network) -> None:
    safetensors.torch.save_file(changed(network), tmp_path / "changed.safetensors")
    with pytest.raises(DataError, match="3 tensors differ"):
        load(tmp_path / "changed.safetensors", network.architecture, num_classes=5)


def test_a_transferred_network_trains(tmp_path: Path, network: Network) -> None:
    save_weights(tmp_path / "weights.safetensors", network)
    loaded = load(tmp_path / "weights.safetensors", network.architecture, num_classes=5).train()
    loaded(torch.rand(4, 3, 64, 64)).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_model_folder_round_trip(tmp_path: Path, network: Network) -> None:
    save_model(tmp_path / "model", network)
    loaded = load_model(tmp_path / "model")
    assert loaded.architecture == network.architecture
    assert_same(loaded, network)
    with pytest.raises(ConfigError, match="neither a model folder"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("arch", "told"),
    [
        ("efficientnet_v2_s", "timm has efficientnetv2_s twice"),
        ("mobilenet_v4_conv_small", "mobilenet_v4_conv_small.timm, 3 classes"),
    ],
)
def test_modern_networks_are_imported_as_timm_computes_them(tmp_path: Path, arch: str, told: str) -> None:
    network = build(zoo.get(arch), 3, seed=0)
    save_weights(tmp_path / "theirs.safetensors", network, "timm")
    done = run_effnet("import-weights", "theirs.safetensors", "--arch", arch, "--out", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"all {len(network.state_dict())} tensors of timm naming" in done.stdout
    assert told in done.stdout + done.stderr
    assert_same(load_model(tmp_path / "mine"), network)


def test_commands_import_and_export(tmp_path: Path) -> None:
    network = build(zoo.get("efficientnet_lite0"), 7, seed=0)
    save_weights(tmp_path / "theirs.safetensors", network, "timm")
    done = run_effnet("import-weights", "theirs.safetensors", "--arch", "efficientnet_lite0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "7 classes, all " in done.stdout
    assert_same(load_model(tmp_path / "efficientnet_lite0"), network)
    done = run_effnet("import-weights", "theirs.safetensors", "--arch", "efficientnet_lite0", cwd=tmp_path)
    assert done.returncode == 2
    assert "name another folder with --out" in done.stderr
    done = run_effnet("export", "efficientnet_lite0", "--format", "timm", "--out", "back", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back/model.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    done = run_effnet("import-weights", "theirs.safetensors", "--arch", "efficientnet_lite1", cwd=tmp_path)
    assert done.returncode == 65
    assert done.stderr.startswith("effnet: ")
    assert "missing: blocks.1.2.conv_pw.weight" in done.stderr
    assert not (tmp_path / "efficientnet_lite1").exists()


def test_imported_timm_weights_say_which_padding_was_taken(tmp_path: Path) -> None:
    save_weights(tmp_path / "b0.safetensors", build(zoo.get("efficientnet_b0"), 2, seed=0), "timm")
    done = run_effnet("import-weights", "b0.safetensors", "--arch", "efficientnet_b0", "--out", "a", cwd=tmp_path)
    assert "taken as tf_efficientnet_b0" in done.stderr
    run_effnet("import-weights", "b0.safetensors", "--arch", "efficientnet_b0.timm", "--out", "b", cwd=tmp_path)
    assert [load_model(tmp_path / folder).architecture.padding for folder in "ab"] == ["same", "symmetric"]


def test_memory_that_runs_out_is_not_told_as_a_broken_file(
    tmp_path: Path, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory")

    torch.save(network.state_dict(), tmp_path / "weights.pt")
    monkeypatch.setattr(torch, "load", no_memory)
    with pytest.raises(MachineError, match="out of memory"):
        read_tensors(tmp_path / "weights.pt")


def test_a_file_that_asks_for_more_memory_than_it_has_bytes_is_broken(tmp_path: Path) -> None:
    """A pickle whose text says that it has two gigabytes, where a process may have one."""
    (tmp_path / "weights.pt").write_bytes(b"\x80\x02X\xff\xff\xff\x7f")
    read = "import resource, sys; from pathlib import Path; from effnet.models.weights import read_tensors;"
    read += "limit = resource.getrlimit(resource.RLIMIT_AS)[1];"
    read += "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize();"
    read += "resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), limit)); read_tensors(Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", read, str(tmp_path / "weights.pt")], capture_output=True, text=True, check=False
    )
    assert "effnet.errors.DataError" in done.stderr.splitlines()[-1]
