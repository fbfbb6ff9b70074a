"""Which GPUs there are, as NVML, nvidia-smi or torch say it, and whether they work. None is here: all are made up."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from effnet.errors import MachineError
from tasks.servers import doctor
from tasks.servers import gpus as listing
from tasks.servers.gpus import VISIBLE, Gpu, require_gpus, visible

L4 = Gpu("GPU-1a2b3c4d", "NVIDIA L4", 23034 << 20, 0)
H100 = Gpu("GPU-5e6f7a8b", "NVIDIA H100 80GB HBM3", 81559 << 20, 1)
PART = Gpu("MIG-11111111", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", 10 * 10**9, 1)
OTHER = Gpu("MIG-22222222", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", 10 * 10**9, 1)

SMI = """#!/bin/sh
case "$1" in
--query-gpu=uuid,name,memory.total)
    echo 'GPU-1a2b3c4d, NVIDIA L4, 23034 MiB'
    echo 'GPU-5e6f7a8b, NVIDIA H100 80GB HBM3, 81559 MiB' ;;
-L)
    echo 'GPU 0: NVIDIA L4 (UUID: GPU-1a2b3c4d)'
    echo 'GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-5e6f7a8b)'
    PARTS
    ;;
--query-gpu=driver_version) echo 580.1 ;;
esac
"""
PARTS = """echo '  MIG 1g.10gb     Device  0: (UUID: MIG-11111111)'
    echo '  MIG 1g.10gb     Device  1: (UUID: MIG-22222222)'"""

TORCH = """
__version__ = "9.9"
class _Properties:
    def __init__(self, number):
        self.uuid, self.name, self.total_memory = ("1a2b3c4d", "5e6f7a8b")[number], "NVIDIA L4", 24152899584
class cuda:
    def device_count():
        import os
        return len(os.environ["CUDA_VISIBLE_DEVICES"].split(",")) if "CUDA_VISIBLE_DEVICES" in os.environ else 2
    get_device_properties = _Properties
class _Tensor:
    def add(self, _): return self
    def cpu(self): return self
def ones(_, device):
    if device == "cuda:1":
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered\\nand more")
    return _Tensor()
"""


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let torch be one with CUDA, and the driver's library missing."""
    monkeypatch.setattr(listing, "_torch_takes_gpus", lambda: True)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    listing.devices.cache_clear()
    listing._of_torch.cache_clear()
    yield
    listing.devices.cache_clear()
    listing._of_torch.cache_clear()


def smi(folder: Path, monkeypatch: pytest.MonkeyPatch, parts: str = ":") -> None:
    (folder / "bin").mkdir()
    (folder / "bin/nvidia-smi").write_text(SMI.replace("PARTS", parts))
    (folder / "bin/nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


@pytest.fixture
def torch_with_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text(TORCH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def nvml(**changes: Any) -> ModuleType:
    """Return a module that answers as pynvml does on a machine with an L4, a lost GPU and a partitioned H100."""
    fake = ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    def handle(number: int) -> str:
        if number == 1:
            raise NVMLError("GPU is lost")
        return ("l4", "", "h100")[number]

    def instance(whole: str, number: int) -> str:
        if (whole, number) not in (("h100", 0), ("h100", 2)):
            raise NVMLError("not found")
        return f"part{number}"

    uuids = {"l4": b"GPU-1a2b3c4d", "part0": "MIG-11111111", "part2": "MIG-22222222"}
    known = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 3,
        "nvmlDeviceGetHandleByIndex": handle,
        "nvmlDeviceGetMaxMigDeviceCount": lambda _handle: 7,
        "nvmlDeviceGetMigDeviceHandleByIndex": instance,
        "nvmlDeviceGetUUID": uuids.__getitem__,
        "nvmlDeviceGetName": lambda handle: "NVIDIA L4" if handle == "l4" else PART.name,
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=L4.memory if handle == "l4" else PART.memory),
    }
    vars(fake).update(known | changes)
    return fake


def test_nvml_tells_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    assert listing.gpus() == (L4, Gpu(PART.uuid, PART.name, PART.memory, 2), Gpu(OTHER.uuid, PART.name, PART.memory, 2))


def test_nvidia_smi_tells_it_where_nvml_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch)
    assert listing.gpus() == (L4, H100)
    listing.devices.cache_clear()

    def broken() -> None:
        raise fake.NVMLError("driver/library version mismatch")

    fake = nvml(nvmlInit=broken)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert listing.gpus() == (L4, H100)


def test_instances_of_a_partitioned_gpu_are_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, PARTS)
    assert listing.gpus() == (L4, PART, OTHER)
    monkeypatch.setenv(VISIBLE, "MIG-2222")
    assert listing.gpus() == (OTHER,)


@pytest.mark.usefixtures("torch_with_two")
def test_torch_tells_it_in_a_process_of_its_own_where_nobody_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/nvidiactl").exists():
        assert listing.gpus() == ()  # a machine without a driver is not asked
    monkeypatch.setenv(VISIBLE, "1")
    found = listing._of_torch(as_set=False)
    assert [(gpu.uuid, gpu.number) for gpu in found] == [("GPU-1a2b3c4d", 0), ("GPU-5e6f7a8b", 1)]
    assert len(listing._of_torch(as_set=True)) == 1


def test_gpus_are_none_for_a_torch_without_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch)
    monkeypatch.undo()
    listing.devices.cache_clear()
    import torch

    assert listing._torch_takes_gpus() == (torch.version.cuda is not None)


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("0", [L4]),
        ("1, 0", [H100, L4]),
        ("GPU-5e6f", [H100]),
        (f"{H100.uuid},0", [H100, L4]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,7,0", [H100]),  # what follows one that is not there does not count
        ("0,0", [L4]),
        ("MIG-GPU-5e6f7a8b/1/0", [Gpu("MIG-GPU-5e6f7a8b/1/0", "MIG instance", 0, 0)]),
    ],
)
def test_gpus_that_a_variable_names(named: str, found: list[Gpu]) -> None:
    assert visible((L4, H100), named) == tuple(found)


@pytest.mark.usefixtures("torch_with_two")
def test_numbers_on_a_mixed_machine_are_cudas_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch)
    monkeypatch.setenv(VISIBLE, "1")  # the fastest comes first, unless CUDA is told otherwise
    assert [gpu.uuid for gpu in listing.gpus()] == ["GPU-1a2b3c4d"]  # as torch says
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert listing.gpus() == (H100,)


@pytest.mark.usefixtures("torch_with_two")
def test_gpus_are_tried_in_a_process_of_its_own() -> None:
    before = set(sys.modules)
    require_gpus(0)
    require_gpus(1)
    with pytest.raises(
        MachineError, match=r"^GPU 1 does not work \(CUDA error: uncorrectable ECC error encountered; mach"
    ):
        require_gpus(2)
    with pytest.raises(MachineError, match=r"^2 GPUs here, 3 wanted \(machine .*, torch 9\.9\)"):
        require_gpus(3)
    assert set(sys.modules) == before


def test_gpus_that_do_not_answer_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("import sys; sys.exit('Segmentation fault')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MachineError, match=r"torch does not get an answer from its GPUs \(Segmentation fault\)"):
        require_gpus(1)
    (tmp_path / "torch.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(listing, "SECONDS", 0.4)
    with pytest.raises(MachineError, match=r"GPUs \(no answer in 0 s\)"):
        require_gpus(1)


def test_doctor_names_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    smi(tmp_path, monkeypatch)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    count, one, other = doctor._gpus(0)
    assert count.found == f"2 usable, driver 580.1, torch {torch.__version__}"
    assert one.found.startswith("GPU 0 (NVIDIA L4, GPU-1a2b…), 24.2 GB: one training at a time")
    assert other.found.startswith("GPU 1 (NVIDIA H100 80GB HBM3, GPU-5e6f…), 85.5 GB")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    *_, last = doctor._gpus(0)
    assert (last.level, last.found) == ("warning", "the driver has 2, torch sees none")
