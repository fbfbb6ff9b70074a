"""Pictures: images of a dataset, what a network is wrong about, and where it looks; for figures and for the page."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from effnet.report.style import drawing
from effnet.values import Value

Targets = Sequence[Path]
Pixels = NDArray[np.uint8]
TILE = 96  # side of a picture on the page, pixels
QUALITY = 80  # of WebP
_NAME = 36  # characters of a file's name below a picture


class Map(Protocol):
    """An image, where a network looks in it, and what it finds; see effnet.evaluation.cam."""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Return (side, side, 3)."""
        ...

    @property
    def map(self) -> NDArray[np.float32]:
        """Return (side, side), 0..1."""
        ...

    @property
    def label(self) -> str:
        """Return the class found."""
        ...


class Tile(Value):
    """A picture of the page."""

    source: str  # data:image/webp;base64,…
    label: str  # what it shows, for those who cannot see it, and below it
    lines: tuple[str, ...] = ()  # below it instead of the label


class Strip(Value):
    """Pictures that belong together: a class in a split, an image as several networks see it."""

    label: str
    tiles: tuple[Tile, ...]


_STRIPS = TypeAdapter(tuple[Strip, ...])


def dumped(strips: Sequence[Strip]) -> bytes:
    """Return strips as JSON."""
    return _STRIPS.dump_json(tuple(strips))


def loaded(data: bytes) -> tuple[Strip, ...]:
    """Return what `dumped` wrote."""
    return _STRIPS.validate_json(data)


def tile(pixels: Pixels, label: str, lines: Sequence[str] = ()) -> Tile:
    """Return an image, (side, side, 3), as a picture of the page."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(_sized(pixels, TILE)).save(data, "WEBP", quality=QUALITY, method=4)
    source = f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
    return Tile(source=source, label=label, lines=tuple(lines))


class Sample(NamedTuple):
    """An image of a dataset."""

    pixels: Pixels  # (side, side, 3)
    label: int
    split: str


def samples_figure(samples: Sequence[Sample], names: Sequence[str], each: int, targets: Targets) -> None:
    """Draw images of a dataset: a row for each class, and up to `each` columns for each split."""
    labels = list(dict.fromkeys(sample.label for sample in samples))
    splits = list(dict.fromkeys(sample.split for sample in samples))
    side, gap = samples[0].pixels.shape[0], 4
    width = (each * side + gap) * len(splits)
    sheet = np.full((len(labels) * (side + gap), width, 3), 255, np.uint8)
    for row, label in enumerate(labels):
        for column, split in enumerate(splits):
            found = [sample for sample in samples if (sample.label, sample.split) == (label, split)]
            for place, sample in enumerate(found[:each]):
                top, left = row * (side + gap), column * (each * side + gap) + place * side
                sheet[top : top + side, left : left + side] = sample.pixels
    scale = 0.5 / side  # half an inch for an image
    with drawing(targets, (1.6 + width * scale, 0.5 + sheet.shape[0] * scale)) as (_, (axis,)):
        axis.imshow(sheet, interpolation="none")
        axis.set_yticks([row * (side + gap) + side / 2 for row in range(len(labels))], [names[i] for i in labels])
        axis.set_xticks([(place + 0.5) * (each * side + gap) for place in range(len(splits))], splits)
        axis.xaxis.tick_top()
        axis.tick_params(length=0, labelsize=8)
        for spine in axis.spines.values():
            spine.set_visible(False)


def overlay(found: Map) -> Pixels:
    """Return a grey image, (side, side, 3), with what a network looks at in colour."""
    from matplotlib import colormaps

    grey = 0.35 + 0.65 * found.pixels.mean(2, keepdims=True).repeat(3, 2) / 255
    alpha = (0.2 + 0.6 * found.map)[..., None]
    mixed = grey * (1 - alpha) + colormaps["inferno"](found.map)[..., :3] * alpha
    return np.asarray(np.round(255 * mixed), np.uint8)


def cam_figure(networks: Sequence[str], images: Sequence[str], seen: Sequence[Sequence[Map]], targets: Targets) -> None:
    """Draw the images, and beside each where every network looks in it (paper, figure 7).

    Args:
        networks: names, one per column of maps.
        images: names, one per row.
        seen: by network, by image.
        targets: files.
    """
    columns, rows = 1 + len(networks), len(images)
    with drawing(targets, (1.7 * columns, 1.9 * rows + 0.4), columns, rows) as (_, axes):
        for row, image in enumerate(images):
            shown, *maps = axes[row * columns : (row + 1) * columns]
            shown.imshow(seen[0][row].pixels)
            shown.set_title(image, size=8)
            for axis, name, column in zip(maps, networks, seen, strict=True):
                axis.imshow(overlay(column[row]))
                axis.set_title(f"{name}\n{column[row].label}" if row == 0 else column[row].label, size=8)
        for axis in axes:
            axis.set_axis_off()


def cam_strips(networks: Sequence[str], images: Sequence[str], seen: Sequence[Sequence[Map]]) -> list[Strip]:
    """Return the same as pictures of the page: a strip for each image."""
    return [
        Strip(
            label=image,
            tiles=(
                tile(seen[0][row].pixels, f"the image: {image}", ("the image", image)),
                *(
                    tile(overlay(column[row]), f"{name} finds {column[row].label}", (name, column[row].label))
                    for name, column in zip(networks, seen, strict=True)
                ),
            ),
        )
        for row, image in enumerate(images)
    ]


def mistakes_figure(pixels: Pixels, told: Sequence[tuple[str, str, float]], targets: Targets) -> None:
    """Draw images that a network is sure of and wrong about.

    Args:
        pixels: (images, side, side, 3).
        told: by image: its class, the class it is taken for, and how sure the network is, 0..1.
        targets: files.
    """
    columns = min(6, len(told))
    rows = -(-len(told) // columns)
    with drawing(targets, (1.6 * columns, 2.25 * rows), columns, rows) as (_, axes):
        for axis, image, (label, found, confidence) in zip(axes, pixels, told, strict=False):
            axis.imshow(image)
            named, taken = (textwrap.shorten(name, 24, placeholder="…") for name in (label, found))
            axis.set_title(f"{named}\ntaken for\n{taken}, {confidence:.0%}", size=7.5)
        for axis in axes:
            axis.set_axis_off()


def mistake_strip(pixels: Pixels, told: Sequence[tuple[str, str, float]], images: Sequence[str]) -> Strip:
    """Return the same as pictures of the page, each with its image's file or key, by which it is found again."""
    tiles = [
        tile(
            shown,
            f"{image}: {label}, taken for {found}, {sure:.0%} sure",
            (label, f"taken for {found}", f"{sure:.0%}", _file_name(image)),
        )
        for shown, (label, found, sure), image in zip(pixels, told, images, strict=True)
    ]
    return Strip(label="mistakes", tiles=tuple(tiles))


def _file_name(image: str) -> str:
    """Return the last part of a path, without its middle if it is long."""
    name = image.rpartition("/")[2]
    return name if len(name) <= _NAME else f"{name[: _NAME // 2]}…{name[-_NAME // 2 :]}"


def _sized(pixels: Pixels, side: int) -> Pixels:
    from PIL import Image

    if pixels.shape[0] == side:
        return pixels
    few = pixels.shape[0] < side / 2  # so few pixels that they are to be seen
    how = Image.Resampling.NEAREST if few else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(pixels).resize((side, side), how))
