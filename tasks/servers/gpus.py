"""Whether the GPUs of this machine work."""

from __future__ import annotations

from effnet import machine
from effnet.errors import MachineError


def require_gpus(wanted: int) -> None:
    """Make sure that GPUs are there and work, before anything is fetched.

    Raises:
        MachineError: if GPUs are missing or broken.
    """
    if not wanted:
        return
    import torch

    where = f"machine {machine.name()}, torch {torch.__version__}"
    found = torch.cuda.device_count()
    if found < wanted:
        raise MachineError(
            f"{found} GPUs here, {wanted} wanted ({where}); check the driver, the image and the pool's GPU count"
        )
    for number in range(wanted):
        try:
            torch.ones(1, device=f"cuda:{number}").add(1).cpu()
        except Exception as error:
            raise MachineError(f"GPU {number} does not work ({str(error).splitlines()[0]}; {where})") from error
