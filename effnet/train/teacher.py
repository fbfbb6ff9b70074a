"""A teacher in a training: a network whose answers to the very pixels that the student sees are learnt as well.

"Knowledge distillation: a good teacher is patient and consistent" (arXiv 2106.05237, section 3): both see the same
crop, augmented and mixed, and no answers that were stored for another view. The loss is Hinton's (arXiv 1503.02531,
section 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from effnet.arch.spec import Architecture
from effnet.errors import DataError
from effnet.models.build import Network
from effnet.models.preprocess import channel_values
from effnet.models.weights import load
from effnet.runs import RunFolder, RunSpec
from effnet.store import sha256_file


class TeacherNetwork:
    """A network in evaluation mode and without gradients, and how a student's images become its own.

    Args:
        network: in evaluation mode, where the student is.
        student: whose mean and spread are taken out of the images.
        outputs: the network's output for each class; none: as they are.
        sha256: of its weights.
    """

    def __init__(self, network: Network, student: Architecture, outputs: Sequence[int] = (), sha256: str = "") -> None:
        self.network, self.sha256 = network.eval().requires_grad_(False), sha256
        device, own = network.classifier.weight.device, network.architecture
        self._outputs = torch.tensor(outputs, device=device) if outputs else None
        self._side = own.resolution
        (mean, std), (own_mean, own_std) = (channel_values(arch, device) for arch in (student, own))
        same = torch.equal(mean, own_mean) and torch.equal(std, own_std)
        self._normalize = None if same else (std / own_std, (mean - own_mean) / own_std)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return float32 logits (n, classes) for normalised images of any side, float32 (n, C, H, W)."""
        if self._normalize is not None:
            factor, shift = self._normalize
            images = images * factor + shift
        if images.shape[-1] != self._side:
            images = functional.interpolate(images, size=(self._side, self._side), mode="bicubic", antialias=True)
        logits: Tensor = self.network(images).float()
        return logits if self._outputs is None else logits[:, self._outputs]


def soft_losses(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return T² · KL(teacher, student) of each image, (n,), from logits (n, classes), both divided by T.

    The gradient with respect to the student's logits is T · (its probabilities - the teacher's), so that the share of
    the loss means the same at any temperature (arXiv 1503.02531, section 2).
    """
    own, wanted = ((each / temperature).log_softmax(1) for each in (logits, taught))
    losses = functional.kl_div(own, wanted, reduction="none", log_target=True).sum(1)
    return temperature**2 * losses


def open_teacher(folder: RunFolder, spec: RunSpec, device: torch.device) -> TeacherNetwork | None:
    """Return the teacher of a run on a device; None if it has none.

    Raises:
        DataError: if its weights are missing, or are not the run's or the file's that it was.
    """
    if (teacher := spec.teacher) is None:
        return None
    path, sha256 = Path(teacher.path or ""), teacher.sha256
    if teacher.run:
        run = RunFolder(folder.store.runs / teacher.run)
        result = run.result()
        path, sha256 = run.weights_path, result.weights_sha256 if result else None
    if sha256 is None or not path.is_file() or sha256_file(path) != sha256:
        raise DataError(f"{path}: missing, or not the weights of the teacher that {folder.config_path} names")
    network = load(path, teacher.architecture)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TeacherNetwork(network, spec.architecture, teacher.outputs, sha256)
