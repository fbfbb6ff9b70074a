"""The GPUs of this machine: which there are, and whether they work.

A process that starts trainings makes no CUDA call of its own: a context would take 0.3 to 0.6 GB of every GPU for as
long as a flow lasts, and forked children would not survive it. So GPUs are looked up in NVML (extra `gpu`), else with
nvidia-smi, else by torch in a process of its own.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet import machine
from effnet.errors import MachineError

VISIBLE = "CUDA_VISIBLE_DEVICES"
SECONDS = 120.0  # for torch in a process of its own: its import and a context on each of several GPUs

_LIST = """
import json, torch
found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
print(json.dumps([[str(each.uuid), each.name, each.total_memory] for each in found]))
"""
_TRY = """
import json, sys, torch
found, broken = torch.cuda.device_count(), {}
for number in range(min(found, int(sys.argv[1]))):
    try:
        torch.ones(1, device=f"cuda:{number}").add(1).cpu()
    except Exception as error:
        broken[number] = (str(error).splitlines() or [type(error).__name__])[0]
print(json.dumps([torch.__version__, found, broken]))
"""


@dataclass(frozen=True)
class Gpu:
    """A GPU, or an instance of a partitioned one (MIG)."""

    uuid: str  # as CUDA_VISIBLE_DEVICES takes it: GPU-…, or MIG-…
    name: str
    memory: int  # bytes; 0: unknown
    number: int  # as nvidia-smi counts them

    def __str__(self) -> str:
        return f"GPU {self.number} ({self.name}, {self.uuid[:8]}…)"


def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that children may use: those that CUDA_VISIBLE_DEVICES names, where it is set."""
    named = os.environ.get(VISIBLE)
    found = devices()
    if named is None or not found:
        return found
    by_number = any(entry.strip().isdigit() for entry in named.split(","))
    if by_number and len({gpu.name for gpu in found}) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        return _of_torch(as_set=True)  # CUDA counts the fastest first, and only the driver knows which that is
    return visible(found, named)


@functools.cache
def devices() -> tuple[Gpu, ...]:
    """Return all GPUs of this machine in nvidia-smi's order, of a partitioned one its instances.

    None if torch was built without CUDA: it would not use them.
    """
    if not _torch_takes_gpus():
        return ()
    for look in (_of_nvml, _of_smi):
        if (found := look()) is not None:
            return found
    return _of_torch(as_set=False) if Path("/dev/nvidiactl").exists() else ()


def visible(found: tuple[Gpu, ...], named: str) -> tuple[Gpu, ...]:
    """Return those of the GPUs that a value of CUDA_VISIBLE_DEVICES names: by number, or by the start of a UUID.

    As CUDA does, it stops at the first that is not there.
    """
    chosen: dict[str, Gpu] = {}
    for entry in (part.strip() for part in named.split(",")):
        by_uuid = entry.startswith(("GPU-", "MIG-"))
        fitting = [gpu for gpu in found if (gpu.uuid.startswith(entry) if by_uuid else str(gpu.number) == entry)]
        if not fitting and entry.startswith("MIG-"):  # in the older form, MIG-GPU-…/1/0
            fitting = [Gpu(entry, "MIG instance", 0, len(chosen))]
        if not fitting:
            break
        chosen.setdefault(fitting[0].uuid, fitting[0])
    return tuple(chosen.values())


def require_gpus(wanted: int) -> None:
    """Make sure that GPUs are there and work, before anything is fetched; torch tries them in a process of its own.

    Raises:
        MachineError: if GPUs are missing or broken.
    """
    if not wanted:
        return
    try:
        version, found, broken = _ask_torch(_TRY, str(wanted))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise MachineError(
            f"machine {machine.name()}: torch does not get an answer from its GPUs ({what_failed(error)})"
        ) from error
    where = f"machine {machine.name()}, torch {version}"
    if found < wanted:
        raise MachineError(
            f"{found} GPUs here, {wanted} wanted ({where}); check the driver, the image and the pool's GPU count"
        )
    for number, what in broken.items():
        raise MachineError(f"GPU {number} does not work ({what}; {where})")


def _torch_takes_gpus() -> bool:
    """Say whether the installed torch has CUDA; its import would take seconds, its version file tells."""
    spec = importlib.util.find_spec("torch")
    for folder in (spec and spec.submodule_search_locations) or ():
        with contextlib.suppress(Exception):
            return runpy.run_path(str(Path(folder) / "version.py")).get("cuda") is not None
    return False


def _of_nvml() -> tuple[Gpu, ...] | None:
    """Ask the driver's library; None where the package or the library is missing or does not work."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return tuple(gpu for number in range(pynvml.nvmlDeviceGetCount()) for gpu in _with_nvml(pynvml, number))
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _with_nvml(nvml: Any, number: int) -> Iterator[Gpu]:
    """Yield a GPU, or its instances; nothing if the driver has lost it."""
    with contextlib.suppress(nvml.NVMLError):
        whole = nvml.nvmlDeviceGetHandleByIndex(number)
        for handle in list(_instances(nvml, whole)) or [whole]:
            uuid, name = _text(nvml.nvmlDeviceGetUUID(handle)), _text(nvml.nvmlDeviceGetName(handle))
            yield Gpu(uuid, name, _memory(nvml, handle), number)


def _instances(nvml: Any, whole: Any) -> Iterator[Any]:
    try:
        most = nvml.nvmlDeviceGetMaxMigDeviceCount(whole)
    except nvml.NVMLError:  # cannot be partitioned
        return
    for number in range(most):
        with contextlib.suppress(nvml.NVMLError):  # there are fewer
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, number)


def _memory(nvml: Any, handle: Any) -> int:
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError:  # shared with the processor
        return 0


def _text(told: str | bytes) -> str:
    return told.decode() if isinstance(told, bytes) else told


def _of_smi() -> tuple[Gpu, ...] | None:
    """Ask nvidia-smi; None where it is missing or does not work."""
    told = _smi("--query-gpu=uuid,name,memory.total", "--format=csv,noheader")
    if told is None:
        return None
    rows = [re.fullmatch(r"(GPU-[^,\s]+), (.+), (?:(\d+) MiB|\[N/A\])", line.strip()) for line in told.splitlines()]
    found = tuple(Gpu(row[1], row[2], int(row[3] or 0) << 20, number) for number, row in enumerate(rows) if row)
    return _partitioned(_smi("-L") or "", found) or found


def _smi(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=30, check=True)  # noqa: S607
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _partitioned(told: str, whole: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """Return what `nvidia-smi -L` lists, if a GPU there is partitioned: its instances, not the GPU itself."""
    found: list[Gpu] = []
    by_uuid = {gpu.uuid: gpu for gpu in whole}
    above: Gpu | None = None
    for line in told.splitlines():
        if match := re.search(r"UUID: (GPU-[^)\s]+)", line):
            above = by_uuid.get(match[1])
            found += [above] if above else []
        elif (match := re.search(r"(MIG \S*?(\d+)gb\S*) .*UUID: (MIG-[^)\s]+)", line)) and above:
            found = [gpu for gpu in found if gpu is not above]
            found.append(Gpu(match[3], f"{above.name} {match[1]}", int(match[2]) * 10**9, above.number))
    return tuple(found)


@functools.cache
def _of_torch(*, as_set: bool) -> tuple[Gpu, ...]:
    """Ask torch in a process of its own; `as_set`: only for those that CUDA_VISIBLE_DEVICES names."""
    try:
        told = _ask_torch(_LIST, **({} if as_set else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", VISIBLE: None}))
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()
    return tuple(
        Gpu(f"{'MIG' if ' MIG ' in name else 'GPU'}-{uuid}", name, int(memory), number)
        for number, (uuid, name, memory) in enumerate(told)
    )


def _ask_torch(code: str, *arguments: str, **changes: str | None) -> Any:
    """Return what torch prints as JSON in a process that ends at once, and its contexts with it."""
    changed = os.environ | {name: value or "" for name, value in changes.items()}
    environment = {name: value for name, value in changed.items() if name not in changes or changes[name] is not None}
    asked = [sys.executable, "-P", "-c", code, *arguments]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=SECONDS, check=True, env=environment)
    return json.loads(done.stdout)


def what_failed(error: Exception) -> str:
    """Say in a line why a process that was asked gave no answer."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no answer in {error.timeout:.0f} s"
    told = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
    lines = (told or "").strip().splitlines()
    return lines[-1][:200] if lines else f"exit code {getattr(error, 'returncode', '?')}"
