"""A training that is stopped and resumed, against one that was not: with torch's deterministic kernels, and without."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from effnet.arch.spec import Architecture
from effnet.errors import StoppedError
from effnet.train.loop import Stop, train
from gpukit.kit import Findings, Kit, network, run_folder

_TINY = Path(__file__).parents[2] / "configs/architectures/efficientnet_digits.yaml"
RECIPE = {"batch_size": 32, "epochs": 2, "checkpoint_every": 5, "ema_decay": 0.9, "learning_rate": 0.05}


class _StopAt(Stop):
    """Asks to stop when it has been looked at so many times."""

    def __init__(self, looks: int) -> None:
        self._left = looks

    @property
    def reason(self) -> str | None:  # type: ignore[override]
        self._left -= 1
        return "asked to stop" if self._left < 0 else None


def run(kit: Kit) -> Findings:
    """Train three times: whole, whole again, and with a stop."""
    found = Findings()
    arch = network("efficientnet_b0", 48) if kit.gpu else Architecture.load(_TINY)
    weights = [_trained(kit, arch, name, looks) for name, looks in (("whole", None), ("again", None), ("stopped", 400))]
    again, stopped = (max(float((one[k] - weights[0][k]).abs().max()) for k in one) for one in weights[1:])
    found.numbers |= {"largest_distance_of_a_repeat": again, "largest_distance_after_a_stop": stopped}
    if not kit.gpu:
        found.check("resumed: the same bits", again == stopped == 0)
    return found


def _trained(kit: Kit, arch: Architecture, name: str, looks: int | None) -> dict[str, torch.Tensor]:
    from dataclasses import replace

    folder = run_folder(replace(kit, folder=kit.folder / name), arch, images=320, **RECIPE)
    if looks is not None:
        try:
            train(folder, started=time.time(), stop=_StopAt(looks), warn=print)
        except StoppedError as error:
            print(error)
    train(folder, started=time.time(), stop=Stop(), warn=print)
    return load_file(folder.weights_path)
