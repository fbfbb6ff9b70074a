"""What this machine is, and its physical limits."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess

import psutil
import torch

from gpukit.kit import Findings, Kit

_QUERY = (
    "name,driver_version,memory.total,clocks.max.sm,power.limit,ecc.mode.current,pstate,compute_mode,mig.mode.current"
)


def run(kit: Kit) -> Findings:
    """Read versions and settings; measure copies and a matrix product."""
    found = Findings()
    found.numbers |= {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "ram_gb": round(psutil.virtual_memory().total / 1e9),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "disk_free_gb": round(shutil.disk_usage(kit.folder).free / 1e9),
    }
    if kit.gpu:
        _gpu(found)
    size = kit.of(1 << 30, 1 << 22)
    host, pinned = (torch.empty(size // 4, dtype=torch.uint8, pin_memory=pin) for pin in (False, kit.gpu))
    device = torch.empty(size // 4, dtype=torch.uint8, device=kit.device)
    for name, source in (("pageable", host), ("pinned", pinned)):
        seconds = kit.seconds(lambda source=source: device.copy_(source, non_blocking=True))
        found.numbers[f"upload_{name}_gb_per_s"] = round(size / 4 / seconds / 1e9, 1)
    one, two = (torch.randn(size // 4, device=kit.device) for _ in range(2))
    found.numbers["copy_gb_per_s"] = round(2 * size / kit.seconds(lambda: one.copy_(two)) / 1e9)
    side = kit.of(8192, 256)
    a, b = (torch.randn(side, side, device=kit.device, dtype=torch.bfloat16) for _ in range(2))
    found.numbers["matmul_bf16_tflops"] = round(2 * side**3 / kit.seconds(lambda: a @ b) / 1e12, 1)
    return found


def _gpu(found: Findings) -> None:
    line = subprocess.run(
        [shutil.which("nvidia-smi") or "nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    found.numbers["nvidia_smi"] = dict(zip(_QUERY.split(","), line.split(", "), strict=False))
    found.numbers |= {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        "devices": torch.cuda.device_count(),
        "mps": shutil.which("nvidia-cuda-mps-control") is not None,
    }
    found.check("bfloat16 is native", torch.cuda.is_bf16_supported(including_emulation=False))
