"""Faults of the machine itself: recognised by the errors of Python and torch, raised as MachineError.

Calling it a bug helps nobody when a GPU has lost its memory: on another machine the same work goes through. What is
listed here may also come from a bug; so work that hits it is retried elsewhere, but not for ever (tasks.compute.here,
tasks.compute.pool).
"""

from __future__ import annotations

import errno
import os
import re
import resource

from effnet.errors import MachineError

CORES = "EFFNET_CORES"  # of this machine that a child may keep busy; its parent runs other children beside it
SHARES_GPU = "EFFNET_SHARES_GPU"  # set for a child whose GPU its parent gives to others as well

_DISKS = (errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.EREMOTEIO)
TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)
_GPUS = re.compile(
    r"CUDA error|CUDA driver|CUDA-capable device|No CUDA GPUs are available|found no nvidia driver|cudaErr|NVML|"
    r"CUDNN_STATUS|cuDNN error|CUBLAS_STATUS|CUFFT_STATUS|CUSOLVER_STATUS|uncorrectable ECC|unhandled cuda error",
    re.IGNORECASE,
)
_OURS = re.compile(r"device-side assert|invalid argument|invalid configuration argument|invalid value", re.IGNORECASE)
_MEMORY = re.compile(r"can't allocate memory|cannot allocate memory|std::bad_alloc", re.IGNORECASE)


def name() -> str:
    """Return this machine's name."""
    return os.uname().nodename


def cores() -> int:
    """Return how many cores this process may keep busy: its share where it is one of several children, else all."""
    share = os.environ.get(CORES, "")
    return int(share) if share.isdecimal() and int(share) else len(os.sched_getaffinity(0))


def fault(error: BaseException) -> str | None:
    """Say in a line what is wrong with this machine if that is what an error means; None if it is not."""
    text = next(iter(str(error).strip().splitlines()), "")[:200]
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "out of memory"
    if isinstance(error, OSError) and error.errno in TOO_MANY_OPEN:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"too many files are open at once; a process may open {soft:,} (ulimit -n), allow more"
    if isinstance(error, OSError):
        return f"{error.filename or 'disk'}: {error.strerror}" if error.errno in _DISKS else None
    if "OutOfMemoryError" in kinds:  # torch's, after the batch was cut as small as it can be
        return f"out of the GPU's memory ({text})"
    if not isinstance(error, RuntimeError) or _OURS.search(text):
        return None
    if _MEMORY.search(text):
        return f"out of memory ({text})"
    return text if "AcceleratorError" in kinds or _GPUS.search(text) else None


def raise_if_broken(error: BaseException) -> None:
    """Raise MachineError if an error means that this machine is broken."""
    if what := fault(error):
        raise MachineError(f"machine {name()} is broken: {what}; start it again, on another machine") from error
