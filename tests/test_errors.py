"""The kinds of errors, and which of them an error of Python or torch is."""

from __future__ import annotations

import errno
import inspect
import os
import subprocess
import sys

import pytest
import torch

from effnet import errors, machine
from effnet.errors import AwayError, EffnetError, MachineError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind is not EffnetError]


def test_no_kind_is_taken_for_another() -> None:
    """A server that is away is no broken data: who handles one of them does not handle the other."""
    assert {AwayError, MachineError} < set(KINDS)
    for kind in KINDS:
        assert kind.__bases__ == (EffnetError,)


def cuda(text: str) -> RuntimeError:
    return torch.AcceleratorError(f"CUDA error: {text}\nCUDA kernel errors might be asynchronously reported")


BROKEN = [
    cuda("uncorrectable ECC error encountered"),
    cuda("unspecified launch failure"),
    cuda("an illegal memory access was encountered"),
    cuda("no kernel image is available for execution on the device"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("No CUDA GPUs are available"),
    RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to"),
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    OSError(errno.EIO, "Input/output error", "/scratch/x"),
    OSError(errno.EROFS, "Read-only file system", "/scratch/x"),
]
SOUND = [
    cuda("device-side assert triggered"),
    cuda("invalid configuration argument"),
    RuntimeError("shape '[2, 3]' is invalid for input of size 5"),
    ValueError("CUDA error"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.ENOENT, "No such file or directory"),
    KeyError("x"),
]


@pytest.mark.parametrize("error", BROKEN, ids=str)
def test_fault_of_the_machine_is_told_as_such_with_its_name(error: Exception) -> None:
    with pytest.raises(MachineError, match=f"machine {os.uname().nodename} is broken: .+; start it again") as caught:
        machine.raise_if_broken(error)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", SOUND, ids=str)
def test_other_errors_are_not(error: Exception) -> None:
    machine.raise_if_broken(error)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("raise MemoryError", 76),
        ("raise RuntimeError('CUDA error: uncorrectable ECC error encountered')", 76),
        ("bytearray(1 << 62)", 76),
        ("raise AwayError('S3 is away')", 75),
        ("raise RuntimeError('a bug')", 70),
    ],
)
def test_child_ends_with_the_exit_code_of_the_kind(line: str, code: int) -> None:
    script = f"from effnet.errors import AwayError\nfrom effnet.process import child_main\ndef main(): {line}\n"
    done = subprocess.run([sys.executable, "-c", script + "child_main(main)"], capture_output=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr
