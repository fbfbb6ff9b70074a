"""Class activation maps: where in an image a network sees its class (arXiv 1512.04150; paper, figure 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from effnet.data.images.decode import Pixels, center_box, cut, resize_into
from effnet.models.build import Network
from effnet.models.preprocess import normalize


@torch.no_grad()
def class_activation_maps(network: Network, images: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return each image's map, and the class that the map is for.

    The logit of a class is the mean over positions of the classifier's row times the last features, plus its bias; the
    map is what is averaged, so it needs no gradient.

    Args:
        network: on the images' device, in evaluation mode.
        images: uint8, (N, 3, H, W).
        classes: int64, (N,); the predicted class if not given.

    Returns:
        float32 (N, H, W) in 0..1, scaled so that each map's highest value is 1 and evidence against the class is 0;
        and int64 (N,).
    """
    features = network.maps(normalize(images, network.architecture))
    logits = network.classifier(features.mean((2, 3)))
    found = logits.argmax(1) if classes is None else classes
    maps = torch.einsum("nchw,nc->nhw", features, network.classifier.weight[found]).clamp(min=0)
    maps = functional.interpolate(maps[:, None], images.shape[2:], mode="bicubic")[:, 0].clamp(min=0)
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12), found


class Seen(NamedTuple):
    """What a network sees in one image."""

    pixels: NDArray[np.uint8]  # (side, side, 3): as the network gets it
    map: NDArray[np.float32]  # (side, side), 0..1
    label: str  # the predicted class, and how sure the network is


def activation_panel(
    network: Network, images: Sequence[tuple[str, Pixels]], class_names: Sequence[str] | None
) -> list[Seen]:
    """Return what a network in evaluation mode on the CPU sees in images of any size, cut at the centre."""
    side = network.architecture.resolution
    rows = torch.empty(len(images), side, side, 3, dtype=torch.uint8)
    for row, (_, pixels) in zip(rows, images, strict=True):
        box = center_box(pixels.shape[1], pixels.shape[0], side, 0)
        resize_into(row, cut(pixels, box))
    batch = rows.permute(0, 3, 1, 2)
    maps, found = class_activation_maps(network, batch)
    with torch.inference_mode():
        sure = network(normalize(batch, network.architecture)).softmax(1).amax(1)
    names = class_names or [str(number) for number in range(network.classifier.out_features)]
    return [
        Seen(row.numpy(), image.numpy(), f"{names[int(label)]} {share:.0%}")
        for row, image, label, share in zip(rows, maps, found, sure.tolist(), strict=True)
    ]
