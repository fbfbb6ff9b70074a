"""A network as programs without effnet use it: pixels in, probabilities out, and what a file says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from effnet.arch.spec import Architecture
from effnet.models.build import Network
from effnet.models.preprocess import normalize
from effnet.values import Value


class Metadata(Value):
    """All that is needed to use an exported file without effnet, and where it comes from."""

    classes: tuple[str, ...]  # one per output
    side: int  # of the square input, in pixels
    crop_padding: int  # the central crop is side / (side + crop_padding) of an image's shorter side
    mean: tuple[float, ...]  # of pixels, 0..255; one per channel
    std: tuple[float, ...]
    preprocessing: Annotated[bool, Field(description="inside: uint8 pixels in, probabilities out")]
    any_size: Annotated[bool, Field(description="cutting and resizing are inside, too: whole images in")] = False
    network: str
    effnet: str  # version
    precision: str = "float32"
    family: str | None = None
    member: str | None = None
    run: str | None = None  # key
    dataset: str | None = None  # digest
    licence: str | None = None  # of the images

    @classmethod
    def of(cls, arch: Architecture, classes: Sequence[str], crop_padding: int) -> Metadata:
        """Return what a network itself says, with its classes and how images are cut for it."""
        return cls(
            classes=tuple(classes),
            side=arch.resolution,
            crop_padding=crop_padding,
            mean=_each(arch.pixel_mean, arch.in_channels),
            std=_each(arch.pixel_std, arch.in_channels),
            preprocessing=False,
            network=arch.name,
            effnet=version("effnet"),
        )

    def told(self) -> dict[str, Any]:
        """Return what goes into a file, for JSON; what is not known is left out."""
        known = self.model_dump(mode="json", exclude={"crop_padding", "preprocessing", "any_size"}, exclude_none=True)
        ways = {
            "input": "uint8 RGB pixels, (N, height, width, 3), of any size: cut and resized inside"
            if self.any_size
            else "uint8 RGB pixels, (N, side, side, 3)"
            if self.preprocessing
            else "float32 RGB, (N, 3, side, side), (pixel - mean) / std",
            "output": "probabilities" if self.preprocessing else "logits",
            "resize": {
                "crop": "central square, side / (side + crop_padding) of the shorter side",
                "crop_padding": self.crop_padding,
                "interpolation": "bicubic",
                "cubic_coefficient": -0.5,
                "antialias": True,
            },
        }
        return known | ways


def _each(numbers: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return numbers if len(numbers) == channels else numbers * channels


def network_input(pixels: Tensor, arch: Architecture) -> Tensor:
    """Return what a network takes, normalised float32 (N, 3, R, R), for uint8 pixels (N, R, R, 3)."""
    return normalize(pixels.float().permute(0, 3, 1, 2), arch)  # floats first: some runtimes turn no bytes round


class Deployed(nn.Module):
    """A network with what comes before and after it: uint8 pixels (N, R, R, 3) in, probabilities (N, classes) out."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network, self.architecture = network, network.architecture

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 rows that add to 1."""
        logits = self.network(network_input(images, self.architecture))
        return logits.softmax(1)  # type: ignore[no-any-return]
