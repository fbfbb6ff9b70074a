"""NVIDIA's Multi-Process Service, through which the kernels of several processes run side by side on one GPU.

Without it the driver gives the GPU to one process after the other, for some milliseconds each: that works everywhere,
and small kernels leave most of the GPU idle meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tasks.servers.gpus import VISIBLE, Gpu, what_failed

CONTROL = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
SECONDS = 30.0  # for the service to start, to answer and to end

# A context on the first GPU, through the service; 805 and the like mean that it cannot be reached.
_TRY = """
import ctypes, sys
cuda, device, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_void_p()
code = cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0)
code = code or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
sys.exit(f"CUDA error {code}" if code else 0)
"""

# Waits until the process that holds its standard input is gone, however it ends; those that use the service may finish.
_END = f'cat > /dev/null; echo quit | {CONTROL}; rm -rf "$0"'

_OUTPUT = "output"
_running: dict[str, str] = {}  # the variables that reach the service of this process, once it runs
_refused: list[str] = []  # why there is none
_enders: list[subprocess.Popen[bytes]] = []  # what ends it


def share(gpus: Sequence[Gpu]) -> tuple[dict[str, str], str]:
    """Start the service, unless it runs; it ends with this process.

    Args:
        gpus: that children share.

    Returns:
        The variables for a child, none if it has to do without; and how the children share, for people.
    """
    if not _running and not _refused:
        _start(gpus)
    if _refused:
        return {}, f"in turns ({_refused[0]})"
    return dict(_running), "through NVIDIA MPS"


def _start(gpus: Sequence[Gpu]) -> None:
    if theirs := os.environ.get(PIPES):  # somebody else's, who will end it
        _running[PIPES] = theirs
        return
    if shutil.which(CONTROL) is None:
        _refused.append(f"{CONTROL} is not installed")
        return
    folder = tempfile.mkdtemp(prefix="effnet-mps-")  # a short path: sockets have at most 107 characters
    variables = {PIPES: folder, LOGS: folder}
    environment = os.environ | variables | {VISIBLE: ",".join(gpu.uuid for gpu in gpus)}
    quiet = subprocess.DEVNULL
    _enders.append(
        subprocess.Popen(
            ["sh", "-c", _END, folder],  # noqa: S607
            stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, env=environment, start_new_session=True,
        )
    )  # fmt: skip
    try:
        _run([CONTROL, "-d"], environment)
        _run([sys.executable, "-P", "-c", _TRY], environment)  # it starts, but does not serve, in some containers
    except (OSError, subprocess.SubprocessError) as error:
        _refused.append(f"NVIDIA MPS does not start: {_why(folder) or what_failed(error)}")
        end()
    else:
        _running.update(variables)


def end() -> None:
    """End the service, if it was started here; it would end with this process."""
    while _enders:
        ender = _enders.pop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            ender.communicate(timeout=SECONDS)
    _running.clear()


def _run(command: Sequence[str], environment: dict[str, str]) -> None:
    with (Path(environment[PIPES]) / _OUTPUT).open("w") as output:  # a pipe would stay open as long as the service
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env=environment, timeout=SECONDS, check=True, start_new_session=True,
        )  # fmt: skip


def _why(folder: str) -> str:
    """Return the last line of what went wrong."""
    lines = (Path(folder) / _OUTPUT).read_text(errors="replace").strip().splitlines()
    return lines[-1][:120] if lines else ""
