"""A batch's augmentation as numbers for a device: a line of eight integers for each sample and layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Kinds of work. The operations between INVERT and EQUALIZE map each level of a channel to another by a table; from
# CONTRAST on the table depends on the image's histogram.
NONE, AFFINE, COLOR, SHARPNESS, ERASE = 0, 1, 2, 3, 4
INVERT, SOLARIZE, SOLARIZE_ADD, POSTERIZE, BRIGHTNESS, CONTRAST, AUTOCONTRAST, EQUALIZE = range(10, 18)
WIDTH = 8  # integers of a line: the kind, then what it needs

_WHOLE = {"Solarize": SOLARIZE, "SolarizeAdd": SOLARIZE_ADD, "Posterize": POSTERIZE}  # a whole number each
_FACTORS = {"Brightness": BRIGHTNESS, "Contrast": CONTRAST, "Color": COLOR, "Sharpness": SHARPNESS}
_PLAIN = {"Identity": NONE, "Invert": INVERT, "AutoContrast": AUTOCONTRAST, "Equalize": EQUALIZE}
_MOVES = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
OPS = frozenset({*_WHOLE, *_FACTORS, *_PLAIN, *_MOVES})


class Layer(NamedTuple):
    """One operation for each sample of a batch."""

    ops: NDArray[np.object_]  # names; None where the sample is unchanged
    values: NDArray[np.float64]


def encode(layers: Sequence[Layer], height: int, width: int) -> NDArray[np.int64]:
    """Return the layers as lines, (layers, samples, WIDTH); the sides are the images' in pixels."""
    return np.stack([_encode(layer, height, width) for layer in layers])


def boxes(corners: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return lines that paint a rectangle over: corners (samples, 4) are left, top, right, bottom, whole pixels."""
    lines = np.zeros((1, len(corners), WIDTH), np.int64)
    lines[0, :, 0], lines[0, :, 1:5] = ERASE, corners
    return lines


def _encode(layer: Layer, height: int, width: int) -> NDArray[np.int64]:
    lines = np.zeros((len(layer.ops), WIDTH), np.int64)
    for op in {op for op in layer.ops if op is not None}:
        here = layer.ops == op
        values = layer.values[here]
        if op in _MOVES:
            lines[here, 0] = AFFINE
            lines[here, 1:7] = [_fixed(_matrix(op, value, height, width)) for value in values.tolist()]
        elif op in _FACTORS:
            lines[here, 0] = _FACTORS[op]
            lines[here, 1] = values.astype(np.float32).view(np.int32)
        else:
            lines[here, 0] = (_WHOLE | _PLAIN)[op]
            lines[here, 1] = values.astype(np.int64)
    return lines


def _matrix(op: str, value: float, height: int, width: int) -> tuple[float, ...]:
    """Return (a, b, c, d, e, f): pixel (x, y) of the result shows (a x + b y + c, d x + e y + f)."""
    if op == "Rotate":  # about the centre, counter-clockwise, as Image.rotate of Pillow
        radians = -math.radians(value % 360.0)
        cos, sin = round(math.cos(radians), 15), round(math.sin(radians), 15)
        x, y = width / 2.0, height / 2.0
        return cos, sin, -cos * x - sin * y + x, -sin, cos, sin * x - cos * y + y
    return {
        "ShearX": (1.0, value, 0.0, 0.0, 1.0, 0.0),
        "ShearY": (1.0, 0.0, 0.0, value, 1.0, 0.0),
        "TranslateX": (1.0, 0.0, value, 0.0, 1.0, 0.0),
        "TranslateY": (1.0, 0.0, 0.0, 0.0, 1.0, value),
    }[op]


def _fixed(matrix: tuple[float, ...]) -> list[int]:
    """Return the matrix with 16 bits after the point, for the middles of pixels: affine_fixed in Pillow's Geometry.c.

    Without rotation or shear Pillow uses the float arithmetic of its ImagingScaleAffine, which gives the same for whole
    steps.
    """
    a, b, c, d, e, f = matrix
    return [math.floor(v * 65536.0 + 0.5) for v in (a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5)]
