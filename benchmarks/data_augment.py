"""AutoAugment on a batch of 128 images of 224 pixels, CPU, images/s: ours batched, torchvision v2 and timm one by one.

    python benchmarks/data_augment.py

Needs an environment with this package and: pip install torchvision timm scikit-image
"""

from __future__ import annotations

import numpy as np
import skimage.data
import torch
from PIL import Image
from turns import in_turn, report

from effnet.data.augment.policies import auto_augment

NUMBER, SIDE = 128, 224


def main() -> None:
    """Measure and print."""
    from timm.data.auto_augment import auto_augment_transform
    from torchvision.transforms import v2

    photographs = [
        Image.fromarray(image()) for image in (skimage.data.astronaut, skimage.data.chelsea, skimage.data.coffee)
    ]
    images = [photographs[number % 3].resize((SIDE, SIDE)).rotate(number) for number in range(NUMBER)]
    batch = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    planar, samples = batch.contiguous(), np.arange(NUMBER)
    vision = v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET, fill=128)
    pillow = auto_augment_transform("original", {"img_mean": (128, 128, 128)})
    epoch = iter(range(10**9))

    def ours() -> int:
        return len(auto_augment(batch, samples, 0, next(epoch), "imagenet"))

    def theirs() -> int:
        return len([vision(image) for image in planar])

    def timm() -> int:
        return len([pillow(image) for image in images])

    def copy() -> int:
        return len(batch.clone())

    for threads in (1, 2):
        torch.set_num_threads(threads)
        rates = in_turn({"effnet": ours, "torchvision_v2": theirs, "timm_pillow": timm, "copy": copy}, 11)
        report(f"AutoAugment, batch of {NUMBER} at {SIDE}, {threads} thread(s)", rates)


if __name__ == "__main__":
    main()
